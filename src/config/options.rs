//! Hyper-parameters whose values are words: enums, named in `kebab-case` on the command line and in records.

use serde_json::Value as Json;
use strum::VariantArray;

use super::value::{Magnitude, Value, bare};
use crate::attack::{Norm, Start};
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::nn::{BnMode, Precision};
use crate::ops::augment::Padding;
use crate::ops::contrastive::ContrastSet;
use crate::ops::split::Variant;

/// A type whose values are written as words; case, hyphens and underscores do not count when one is read.
pub trait Word: Copy + PartialEq {
    /// Every value, by its word.
    fn choices() -> Vec<(String, Self)>;
}

/// The objective that RPAT is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Base {
    PgdAt,
    Trades,
    Mart,
    ConsistencyAt,
}

/// The averaged network's batch norms while it teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum WaMode {
    /// As in the released code: in train mode until its first evaluation, at the end of the epoch in which
    /// averaging starts.
    Code,
    /// Always in eval mode.
    Eval,
}

/// Whether training steps are captured as a graph and replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Graphs {
    /// On a GPU.
    Auto,
    On,
    Off,
}

/// The part of the network that AFA trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Stage {
    /// The backbone, then for the last `linear_epochs` the classifier.
    Auto,
    /// The backbone alone.
    Pretrain,
    /// The classifier on the frozen backbone.
    Linear,
}

/// The loss that makes x' in the joint objective of AFA and TRADES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum JointAttack {
    Afa,
    Kl,
}

/// The images that AFA's classifier is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum LinearOn {
    Adv,
    Clean,
}

/// The learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ScheduleKind {
    /// Times lr_gamma from each milestone on.
    Multistep,
    /// Half a cosine from lr to 0.
    Cosine,
    /// A straight line from lr to 0.
    Linear,
    /// A straight line from 0 up to lr, then down to 0.
    Cyclic,
    /// Always lr.
    Constant,
}

/// Random changes of training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Augment {
    None,
    /// A crop from the padded image.
    Crop,
    /// A crop from the padded image and, in half the cases, a horizontal flip.
    CropFlip,
}

/// The moment of a step at which the learning-rate schedule is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum LrStepAt {
    /// Step i of n in epoch e reads it at e + i/n.
    Begin,
    /// At e + (i+1)/n.
    End,
}

impl LrStepAt {
    /// The fraction of a step that has passed by then.
    pub fn fraction(self) -> f64 {
        if self == LrStepAt::End { 1.0 } else { 0.0 }
    }
}

/// The average of a network's weights that a second network holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Averaging {
    /// There is none, except for methods that need one.
    None,
    /// Exponential, at each step.
    Ema,
    /// The mean over the ends of epochs.
    Swa,
}

/// The images on which the best epoch is chosen, by robust accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Select {
    /// Images held out from training.
    Heldout,
    /// The test images: the papers' protocol, which reports label as such.
    Test,
    /// None: the last epoch is taken.
    Last,
}

/// The precision of convolutions, or the choice of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// bf16 on a GPU that has tensor cores for it, else float32.
    Auto,
    Fixed(Precision),
}

impl PrecisionChoice {
    /// The precision on this device.
    pub fn on(self, device: &Device) -> Precision {
        match self {
            PrecisionChoice::Fixed(precision) => precision,
            PrecisionChoice::Auto if device.has_tensor_cores() && !device.is_host() => Precision::Bf16,
            PrecisionChoice::Auto => Precision::F32,
        }
    }
}

impl Word for PrecisionChoice {
    fn choices() -> Vec<(String, PrecisionChoice)> {
        let fixed =
            Precision::choices().into_iter().map(|(word, value)| (word, PrecisionChoice::Fixed(value)));
        std::iter::once(("auto".to_owned(), PrecisionChoice::Auto)).chain(fixed).collect()
    }
}

/// Enums whose words are the names of their values.
macro_rules! words {
    ($($enum:ty),+) => {
        $(impl Word for $enum {
            fn choices() -> Vec<(String, $enum)> {
                <$enum>::VARIANTS.iter().map(|&value| (value.to_string(), value)).collect()
            }
        })+
    };
}

words!(Augment, Averaging, Base, BnMode, ContrastSet, Graphs, JointAttack, LinearOn, LrStepAt, Norm);
words!(Padding, Precision, ScheduleKind, Select, Stage, Variant, WaMode);

impl Word for Start {
    fn choices() -> Vec<(String, Start)> {
        vec![("uniform".into(), Start::Uniform), ("zero".into(), Start::Clean)]
    }
}

/// The method's choice, unless a key makes it.
impl<T: Word> Word for Option<T> {
    fn choices() -> Vec<(String, Option<T>)> {
        let others = T::choices().into_iter().map(|(word, value)| (word, Some(value)));
        std::iter::once(("method".to_owned(), None)).chain(others).collect()
    }
}

impl<T: Word> Value for T {
    fn metavar() -> String {
        T::choices().into_iter().map(|(word, _)| word).collect::<Vec<_>>().join("|")
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        let choices = T::choices();
        let named = choices.iter().find(|(word, _)| bare(word) == bare(text));
        let unknown = || Error::unknown(key, text.trim(), choices.iter().map(|(word, _)| word.as_str()));
        named.map(|(_, value)| *value).ok_or_else(unknown)
    }

    fn json(&self) -> Json {
        T::choices().into_iter().find(|(_, value)| value == self).map(|(word, _)| word).into()
    }
}

impl Value for DeviceChoice {
    fn metavar() -> String {
        "auto|host|host-checked|host-as-cuda|cuda|cuda:N".into()
    }

    fn read(_: &'static str, text: &str, _: bool) -> Result<Self> {
        text.parse()
    }

    fn json(&self) -> Json {
        Json::from(self.to_string())
    }
}

/// The radius of a ball in this norm, unless one is given.
pub const fn default_eps(norm: Norm) -> Magnitude {
    match norm {
        Norm::Linf => Magnitude::fraction(8.0, 255.0),
        Norm::L2 => Magnitude::fraction(128.0, 255.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for text in ["linf", "Linf", "l_inf", "L-inf"] {
            assert_eq!(Norm::read("norm", text, false).unwrap(), Norm::Linf);
        }
        assert_eq!(Norm::read("norm", "L2", false).unwrap(), Norm::L2);
        assert_eq!(Norm::metavar(), "linf|l2");
        assert_eq!(Augment::read("augment", "crop_flip", false).unwrap(), Augment::CropFlip);
        assert_eq!(Select::read("select", "held-out", false).unwrap(), Select::Heldout);
        assert_eq!(ContrastSet::metavar(), "clean|clean+adv");
        assert_eq!(Base::metavar(), "pgd-at|trades|mart|consistency-at");
        let error = Norm::read("norm", "l3", false).unwrap_err().to_string();
        assert_eq!(error, "unknown norm 'l3' (did you mean 'l2'?); known: linf, l2");
    }

    #[test]
    fn the_methods_own_choice() {
        let start = |text| Option::<Start>::read("attack_start", text, false).unwrap();
        assert_eq!((start("method"), start("Uniform")), (None, Some(Start::Uniform)));
        assert_eq!(start("zero").json(), Json::from("zero"));
        assert_eq!(Option::<BnMode>::metavar(), "method|train|batch|eval");
        let error = Option::<BnMode>::read("attack_bn", "evil", false).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown attack_bn 'evil' (did you mean 'eval'?); known: method, train, batch, eval"
        );
    }
}
