//! Attacks: how an adversarial image is made from a clean one.

mod fgsm;
mod pgd;

pub use fgsm::fgsm;
pub use pgd::{Draws, Pgd, Start};

use crate::error::{Error, Result};

/// How a perturbation is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// The largest change of a pixel channel.
    Linf,
    /// The Euclidean length of the change of an image.
    L2,
}

/// A named attack of the evaluator.
pub struct Entry {
    /// `fgsm`, `pgd20`; `K` in the name stands for any number of steps.
    pub name: &'static str,
    pub about: &'static str,
    pub paper: &'static str,
}

/// The attacks that `--attack` knows.
pub fn attacks() -> &'static [Entry] {
    &[
        Entry {
            name: "fgsm",
            about: "one signed (L2: normalised) gradient step of length eps from the clean image",
            paper: "Goodfellow et al., arXiv 1412.6572",
        },
        Entry {
            name: "pgdK",
            about: "K projected gradient steps on the cross entropy from a random start, such as pgd20",
            paper: "Madry et al., arXiv 1706.06083",
        },
    ]
}

/// The attack called `name` (`fgsm`, `pgd20`, `pgd-100`) in a ball of radius `eps`. `step` is PGD's step; `None` takes the usual one: a
/// quarter of eps for Linf (2/255 of 8/255), 15/128 of eps for L2 (15/255 of 128/255).
///
/// Errors: an unknown name, with what is known.
pub fn by_name(name: &str, norm: Norm, eps: f32, step: Option<f32>) -> Result<Pgd> {
    let wanted = name.trim().to_lowercase().replace('_', "-");
    if wanted == "fgsm" {
        return Ok(fgsm(norm, eps));
    }
    let steps = wanted.strip_prefix("pgd").map(|k| k.trim_start_matches('-')).and_then(|k| k.parse().ok());
    let steps: usize =
        steps.filter(|k| *k > 0).ok_or_else(|| Error::unknown("attack", name, ["fgsm", "pgd10", "pgd20", "pgd100"]))?;
    let usual = match norm {
        Norm::Linf => eps / 4.0,
        Norm::L2 => eps * 15.0 / 128.0,
    };
    Ok(Pgd { norm, eps, step: step.unwrap_or(usual), steps, ..Pgd::default() })
}
