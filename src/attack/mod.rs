//! Attacks: how an adversarial image is made from a clean one.

mod fab;
mod fgsm;
mod pgd;
mod square;

pub use fab::{Fab, FabT, Walk};
pub use fgsm::fgsm;
pub use pgd::{Draws, Pgd, Start};
pub use square::Square;

use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::nn::{BnMode, Net};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What an attack sees of a classifier: logits that it can differentiate in the image.
pub trait Model {
    /// Logits `[N,K]` of images `[N,H,W,C]` in `[0,1]`; weights are not differentiated.
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var>;

    /// K.
    fn classes(&self) -> usize;
}

impl Model for Net {
    /// In eval mode.
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        self.forward(tape, x, BnMode::Eval, None)
    }

    fn classes(&self) -> usize {
        Net::classes(self)
    }
}

/// What an attack on a batch leaves.
pub struct Found {
    /// `[N,H,W,C]`: the adversarial image where the attack succeeded, else the clean one.
    pub x_adv: Tensor,
    /// `[N]`: 1 where x_adv is misclassified.
    pub success: Buffer<i32>,
}

/// An attack on a batch of images.
pub trait Attack {
    /// As in reports: `apgd-ce`, `fab-t`.
    fn name(&self) -> String;

    /// Attacks images x `[N,H,W,C]` in `[0,1]` with labels y `[N]`; `images` `[N]` are their indices in the data set, which decide, with a
    /// seed, all random numbers. Images that are misclassified as they are count as successes and stay as they are.
    fn run(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, images: &Buffer<i32>) -> Result<Found>;
}

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
