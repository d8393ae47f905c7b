//! Attacks: how an adversarial image is made from a clean one.

mod apgd;
mod attempts;
mod cw;
mod fab;
mod fgsm;
mod iterated;
mod mim;
mod objective;
mod pgd;
mod square;

pub use apgd::{Apgd, ApgdLoss};
pub use attempts::{Points, attempts};
pub use fab::{Fab, FabT, Walk};
pub use fgsm::fgsm;
pub use iterated::{Iterated, usual_step};
pub use objective::{Objective, Pass, logits};
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

    /// Attacks images x `[N,H,W,C]` in `[0,1]` with labels y `[N]`; `images` `[N]` are their indices in the
    /// data set, which decide, with a seed, all random numbers. Images that are misclassified as they are
    /// count as successes and stay as they are.
    fn run(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, images: &Buffer<i32>) -> Result<Found>;

    /// The fewest classes that its loss is defined for.
    fn least_classes(&self) -> usize {
        2
    }

    /// How many batches of logits one attempt asks for, about; 0 where that is not known.
    fn passes(&self) -> usize {
        0
    }

    /// The attack as attempts at one class after the other, if that is what it is made of.
    fn ranked(&self) -> Option<&dyn Ranked> {
        None
    }
}

/// An attack on one target class after the other. Points and targets can be packed into any batches.
pub trait Ranked {
    /// How many targets are asked for.
    fn targets(&self) -> usize;

    /// One attempt on every row, at the class of rank `ranks` `[N]` on the clean image, the predicted one
    /// being 1. Rows may be the same point with several ranks.
    fn attempt(&self, model: &mut dyn Model, points: Points, ranks: &Buffer<i32>) -> Result<Found>;

    /// The ranks that K classes have: 2, which is the runner-up, and the following ones.
    fn ranks(&self, classes: usize) -> std::ops::RangeInclusive<usize> {
        2..=(self.targets() + 1).min(classes)
    }
}

/// How a perturbation is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Norm {
    /// The largest change of a pixel channel.
    Linf,
    /// The Euclidean length of the change of an image.
    L2,
}

/// What the registry builds an attack from; each takes what concerns it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub norm: Norm,
    /// Radius of the ball, of pixels in `[0,1]`.
    pub eps: f32,
    /// Length of a step, where the attack has one; `None` takes the usual one for the norm.
    pub step: Option<f32>,
    /// `None` takes the attack's usual number; a number in the name goes first.
    pub steps: Option<usize>,
    /// Random starts, each on the points that withstood the earlier ones.
    pub restarts: usize,
    /// Target classes of targeted attacks, from the runner-up of the clean image on.
    pub targets: usize,
    /// Passes that each gradient of APGD is averaged over, for networks that are random.
    pub passes: usize,
    /// Confidence of CW: its margin counts down to -kappa.
    pub kappa: f32,
    /// mu of MIM.
    pub momentum: f32,
    pub seed: u64,
}

impl Default for Settings {
    /// Linf 8/255; one start, nine targets, one pass. CW's confidence is the one that reports on adversarial
    /// training use: a margin so far below 0 that the attack does not stop when it has succeeded.
    fn default() -> Settings {
        let (norm, eps) = (Norm::Linf, 8.0 / 255.0);
        Settings {
            norm,
            eps,
            step: None,
            steps: None,
            restarts: 1,
            targets: 9,
            passes: 1,
            kappa: 50.0,
            momentum: 1.0,
            seed: 0,
        }
    }
}

/// A named attack of the evaluator.
pub struct Entry {
    /// `fgsm`, `apgd-ce`; `K` at the end of the name stands for any number of steps.
    pub name: &'static str,
    pub about: &'static str,
    pub paper: &'static str,
    /// The attack with these settings.
    pub build: fn(&Settings) -> Box<dyn Attack>,
}

static ATTACKS: [Entry; 10] = [
    fgsm::FGSM,
    iterated::PGD,
    cw::CW,
    mim::MIM,
    apgd::APGD_CE,
    apgd::APGD_DLR,
    apgd::APGD_T,
    fab::FAB_T,
    fab::FAB,
    square::SQUARE,
];

/// The attacks that `--attack` knows.
pub fn attacks() -> &'static [Entry] {
    &ATTACKS
}

/// The attack called `name`: `fgsm`, `pgd20`, `pgd-100`, `cw`, `apgd-t`.
///
/// Errors: an unknown name, with what is known; no step; a radius that is none; nothing to attempt.
pub fn by_name(name: &str, settings: &Settings) -> Result<Box<dyn Attack>> {
    let wanted = name.trim().to_lowercase().replace('_', "-");
    let stem = wanted.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &wanted[stem.len()..];
    let stem = if digits.is_empty() { stem } else { stem.trim_end_matches('-') };
    let known = |entry: &&Entry| {
        entry.name.strip_suffix('K').map_or(digits.is_empty() && entry.name == stem, |own| own == stem)
    };
    let unknown = || {
        let examples: Vec<String> = ATTACKS.iter().map(|entry| entry.name.replace('K', "20")).collect();
        Error::unknown("attack", name, examples.iter().map(String::as_str))
    };
    let entry = ATTACKS.iter().find(known).ok_or_else(unknown)?;
    let steps = if digits.is_empty() { settings.steps } else { Some(digits.parse().map_err(|_| unknown())?) };
    let positive =
        [("steps", steps.unwrap_or(1)), ("restarts", settings.restarts), ("targets", settings.targets)];
    if let Some((key, _)) =
        positive.into_iter().chain([("passes", settings.passes)]).find(|(_, value)| *value == 0)
    {
        return Err(Error::value(key, 0, format!("the attack {name} needs at least 1")));
    }
    let numbers = [("eps", settings.eps), ("kappa", settings.kappa), ("momentum", settings.momentum)];
    if let Some((key, value)) = numbers.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
        return Err(Error::value(key, value, "must be a number, 0 or more"));
    }
    Ok((entry.build)(&Settings { steps, ..*settings }))
}
