//! Hyper-parameters whose values are one of a few words.

use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::value::{Magnitude, Setting, bare};
use crate::error::{Error, Result};
use crate::method::settings::{Base, ContrastSet, JointAttack, LinearOn, Stage, Variant, WaMode};

/// `text` without its first character, the separator before the first of a list of words.
const fn without_first(text: &str) -> &str {
    match text.as_bytes() {
        [_, rest @ ..] => match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(_) => text,
        },
        [] => text,
    }
}

/// Words for the values of an enumeration, each with further spellings; case, hyphens and underscores do not
/// count.
macro_rules! words {
    ($name:ty { $($word:ident = $text:literal $(| $alias:literal)*,)+ }) => {
        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(<$name>::$word => $text,)+
                })
            }
        }

        impl Setting for $name {
            const KIND: &'static str = without_first(concat!($("|", $text),+));

            fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
                let word = bare(text);
                $(if [$text $(, $alias)*].iter().any(|known| bare(known) == word) {
                    return Ok(<$name>::$word);
                })+
                Err(Error::unknown(key, text.trim(), [$($text),+]))
            }

            fn value(&self) -> Value {
                Value::from(self.to_string())
            }
        }
    };
}

/// An enumeration with its [`words!`].
macro_rules! choice {
    ($(#[$doc:meta])+ $name:ident { $($(#[$word_doc:meta])+ $word:ident = $text:literal $(| $alias:literal)*,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$word_doc])+ $word,)+
        }

        words! { $name { $($word = $text $(| $alias)*,)+ } }
    };
}

words! { Variant { Code = "code", Paper = "paper", } }
words! { Base { PgdAt = "pgd-at", Trades = "trades", Mart = "mart", ConsistencyAt = "consistency-at" | "consistency", } }
words! { WaMode { Code = "code", Eval = "eval", } }
words! { ContrastSet { Clean = "clean", CleanAdv = "clean+adv", } }
words! { JointAttack { Afa = "afa", Kl = "kl", } }
words! { Stage { Auto = "auto", Pretrain = "pretrain", Linear = "linear", } }
words! { LinearOn { Adv = "adv", Clean = "clean", } }

choice! {
    /// How the size of a perturbation is measured.
    Norm {
        /// The largest change of any pixel.
        Linf = "linf" | "inf",
        /// The Euclidean length of the change of an image.
        L2 = "l2",
    }
}

impl Norm {
    /// The radius that it has where nothing else is said.
    pub const fn usual_eps(self) -> Magnitude {
        match self {
            Norm::Linf => Magnitude::fraction(8.0, 255.0),
            Norm::L2 => Magnitude::fraction(128.0, 255.0),
        }
    }
}

choice! {
    /// How batch norm works inside an attack.
    AttackBn {
        /// As the method says.
        Method = "method" | "auto",
        /// With running statistics.
        Eval = "eval",
        /// With batch statistics; running ones are left alone.
        Batch = "batch",
        /// With batch statistics, which move the running ones.
        Train = "train",
    }
}

choice! {
    /// Where an attack starts.
    Start {
        /// As the method says.
        Method = "method" | "auto",
        /// Uniform in the eps-ball, clipped to `[0, 1]`.
        Uniform = "uniform" | "random",
        /// At the clean image.
        Zero = "zero" | "clean" | "none",
    }
}

choice! {
    /// How the learning rate changes over a run.
    ScheduleKind {
        /// Times gamma from each milestone on.
        Multistep = "multistep" | "step" | "piecewise",
        /// Half a cosine from lr to 0.
        Cosine = "cosine",
        /// A straight line from lr to 0.
        Linear = "linear",
        /// A straight line from 0 up to lr, then down to 0.
        Cyclic = "cyclic",
        /// Always lr.
        Constant = "constant" | "none",
    }
}

choice! {
    /// Random changes of training images.
    Augment {
        /// None.
        None = "none",
        /// A crop from the padded image.
        Crop = "crop",
        /// A crop from the padded image and, in half the cases, a horizontal flip.
        CropFlip = "crop-flip",
    }
}

choice! {
    /// What surrounds an image that is cropped after padding.
    CropFill {
        /// Black.
        Zero = "zero",
        /// The image mirrored at its edge.
        Reflect = "reflect",
    }
}

choice! {
    /// When in a step the learning-rate schedule is read.
    LrTime {
        /// Step i of n in epoch e reads it at e + i/n.
        Begin = "begin",
        /// At e + (i+1)/n.
        End = "end",
    }
}

choice! {
    /// How a second network averages the first.
    Averaging {
        /// There is none, but for methods that need one.
        None = "none",
        /// Exponentially, at each step.
        Ema = "ema",
        /// The mean over the ends of epochs.
        Swa = "swa",
    }
}

choice! {
    /// On which images the best epoch is chosen, by robust accuracy.
    Select {
        /// On images held out from training.
        Heldout = "heldout",
        /// On the test images: the papers' protocol, which reports label as such.
        Test = "test",
        /// On none: the last epoch is taken.
        Last = "last" | "none",
    }
}

impl LrTime {
    /// The part of a step that has passed by then.
    pub fn part(self) -> f64 {
        if self == LrTime::End { 1.0 } else { 0.0 }
    }
}

/// Which device a run asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if one can be used, else the host.
    Auto,
    /// The CPU.
    Host,
    /// The CPU in checked mode.
    HostChecked,
    /// The CPU in checked mode, with the launch shapes and the code of CUDA.
    HostAsCuda,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Host => f.write_str("host"),
            DeviceChoice::HostChecked => f.write_str("host-checked"),
            DeviceChoice::HostAsCuda => f.write_str("host-as-cuda"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Setting for DeviceChoice {
    const KIND: &'static str = "auto|host|host-checked|host-as-cuda|cuda|cuda:N";

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        let word = text.trim().to_lowercase().replace('_', "-");
        match (word.as_str(), word.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("host" | "cpu", _) => Ok(DeviceChoice::Host),
            ("host-checked", _) => Ok(DeviceChoice::HostChecked),
            ("host-as-cuda", _) => Ok(DeviceChoice::HostAsCuda),
            ("cuda" | "gpu", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(Ok(number))) => Ok(DeviceChoice::Cuda(number)),
            _ => Err(Error::unknown(
                key,
                text.trim(),
                ["auto", "host", "host-checked", "host-as-cuda", "cuda", "cuda:0"],
            )),
        }
    }

    fn value(&self) -> Value {
        Value::from(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for text in ["linf", "Linf", "l_inf", "L-inf", "inf"] {
            assert_eq!(Norm::read("norm", text, false).unwrap(), Norm::Linf);
        }
        assert_eq!(Norm::read("norm", "L2", false).unwrap(), Norm::L2);
        assert_eq!(Norm::KIND, "linf|l2");
        assert_eq!(Augment::read("augment", "crop_flip", false).unwrap(), Augment::CropFlip);
        assert_eq!(Select::read("select", "held-out", false).unwrap(), Select::Heldout);
        assert_eq!(Start::read("start", "random", false).unwrap(), Start::Uniform);
        let error = Norm::read("norm", "l3", false).unwrap_err().to_string();
        assert_eq!(error, "unknown norm 'l3' (did you mean 'l2'?); known: linf, l2");
    }

    #[test]
    fn devices() {
        for (text, name) in [
            ("auto", "auto"),
            ("CPU", "host"),
            ("host_as_cuda", "host-as-cuda"),
            ("cuda", "cuda:0"),
            ("cuda:3", "cuda:3"),
        ] {
            assert_eq!(DeviceChoice::read("device", text, false).unwrap().to_string(), name);
        }
        assert!(
            DeviceChoice::read("device", "cuda:x", false)
                .unwrap_err()
                .to_string()
                .starts_with("unknown device 'cuda:x'")
        );
    }
}
