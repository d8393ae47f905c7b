//! Attacks: adversarial images from clean ones.
//!
//! An attack of the evaluator is one file and its line in `attacks!`; the file has its `ATTACKS`. The ball
//! and PGD's loop are also those of adversarial training.

mod attempts;
mod ball;
mod names;
mod objective;

pub use apgd::{Apgd, ApgdLoss};
pub use attempts::{Points, attempts};
pub use ball::{Ball, Norm, RngKey, Start};
pub use fab::{Fab, FabT, Walk};
pub use names::{by_name, check_given, spelling};
pub use objective::{Evaluation, Objective, gradients, logits};
pub use pgd::Pgd;
pub use square::Square;

use crate::device::Buffer;
use crate::error::Result;
use crate::nn::{BnMode, Net};
use crate::ops::head::Target;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// Declares the files of attacks and lists their entries, in the order of `saddle attacks`.
macro_rules! attacks {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        static FILES: &[(&str, &[AttackEntry])] = &[$((stringify!($file), $file::ATTACKS)),*];
    };
}

attacks! {
    pgd,
    apgd,
    fab,
    square,
}

/// A classifier as an attack sees it: logits that it can differentiate in the image.
pub trait Model {
    /// Logits `[N,K]` of images `[N,H,W,C]` in `[0,1]`; weights are not differentiated.
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var>;

    /// K.
    fn classes(&self) -> usize;

    /// The gradients of the loss of the logits against `target`, summed over the images.
    fn gradients(&mut self, tape: &Tape, x: Var, target: Target) -> Result<Gradients> {
        gradients(tape, x, |tape, x| target.loss(tape, self.logits(tape, x)?))
    }
}

impl Model for Net {
    /// In eval mode.
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        InMode { net: self, bn: BnMode::Eval }.logits(tape, x)
    }

    fn classes(&self) -> usize {
        Net::classes(self)
    }

    fn gradients(&mut self, tape: &Tape, x: Var, target: Target) -> Result<Gradients> {
        Net::gradients(self, tape, x, BnMode::Eval, target)
    }
}

/// A network whose batch norms work in this mode.
pub struct InMode<'a> {
    pub net: &'a mut Net,
    pub bn: BnMode,
}

impl Model for InMode<'_> {
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        self.net.forward(tape, x, self.bn, None)
    }

    fn classes(&self) -> usize {
        self.net.classes()
    }

    fn gradients(&mut self, tape: &Tape, x: Var, target: Target) -> Result<Gradients> {
        self.net.gradients(tape, x, self.bn, target)
    }
}

/// The result of an attack on a batch.
pub struct AttackResult {
    /// `[N,H,W,C]` in the ball and in `[0,1]`: the adversarial image where the attack succeeded, else the
    /// image with which it came closest to it.
    pub x_adv: Tensor,
    /// `[N]`: 1 where x_adv is misclassified.
    pub success: Buffer<i32>,
}

/// An attack on a batch of images.
pub trait Attack {
    /// The name in reports: `apgd-ce`, `fab-t`.
    fn name(&self) -> String;

    /// Attacks the points. Their indices in the data set determine, with a seed, all random numbers. PGD and
    /// its kin attack every image, as training does; the attacks of AutoAttack leave those alone that are
    /// misclassified without an attack.
    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult>;

    /// The fewest classes that its loss is defined for.
    fn min_classes(&self) -> usize {
        2
    }

    /// About how many batches of logits one attempt asks for; 0 where that is unknown.
    fn passes(&self) -> usize {
        0
    }

    /// The attack as attempts at one target class after the other, if it consists of such.
    fn targeted(&self) -> Option<&dyn Targeted> {
        None
    }
}

/// An attack on one target class after the other. Points and targets can be packed into any batches.
pub trait Targeted {
    /// How many targets are asked for.
    fn targets(&self) -> usize;

    /// One attempt on every row, at the class of rank `target_ranks` `[N]` on the clean image, the predicted
    /// one being 1. Rows may be the same point with several ranks.
    fn attempt(
        &self,
        model: &mut dyn Model,
        points: Points,
        target_ranks: &Buffer<i32>,
    ) -> Result<AttackResult>;

    /// The target ranks among K classes: 2, which is the runner-up, and the following ones.
    fn target_ranks(&self, classes: usize) -> std::ops::RangeInclusive<usize> {
        2..=(self.targets() + 1).min(classes)
    }
}

/// The parameters of the evaluator's attacks; each reads those that concern it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    pub ball: Ball,
    /// Length of a step, where the attack has one; `None`: the attack's default.
    pub step_size: Option<f32>,
    /// `None`: the attack's default; a number in the attack's name comes first.
    pub steps: Option<usize>,
    /// Random starts, each on the points that withstood the earlier ones.
    pub restarts: usize,
    /// Target classes of targeted attacks, from the runner-up of the clean image on.
    pub targets: usize,
    /// Passes that each gradient of APGD is averaged over (expectation over transformation), for randomized
    /// defenses.
    pub eot_iter: usize,
    /// Confidence of CW: its margin counts down to -kappa.
    pub kappa: f32,
    /// mu of MIM.
    pub momentum: f32,
    pub seed: u64,
}

impl Default for Params {
    /// Linf 8/255; one start, nine targets, one pass. CW's confidence is the one that reports on adversarial
    /// training use: a margin so far below 0 that the attack does not stop when it has succeeded.
    fn default() -> Params {
        Params {
            ball: Ball::default(),
            step_size: None,
            steps: None,
            restarts: 1,
            targets: 9,
            eot_iter: 1,
            kappa: 50.0,
            momentum: 1.0,
            seed: 0,
        }
    }
}

/// A parameter that some attacks take and others do not; its word is that of its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Parameter {
    Steps,
    StepSize,
    Restarts,
    Targets,
    EotIter,
    Kappa,
    Momentum,
}

/// A named attack of the evaluator.
pub struct AttackEntry {
    /// `fgsm`, `apgd-ce`; `K` at the end of the name stands for any number of steps.
    pub name: &'static str,
    pub about: &'static str,
    pub paper: &'static str,
    /// Those it takes besides ball and seed.
    pub parameters: &'static [Parameter],
    /// The attack with these parameters.
    pub build: fn(&Params) -> Box<dyn Attack>,
}

/// The attacks that `--attack` takes.
pub fn attacks() -> impl Iterator<Item = &'static AttackEntry> {
    FILES.iter().flat_map(|(_, entries)| *entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_of_an_attack_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/attack");
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if std::fs::read_to_string(&path).unwrap().contains("\npub(super) const ATTACKS:") {
                files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
        assert_eq!(FILES.iter().map(|(file, _)| (*file).to_owned()).collect::<BTreeSet<_>>(), files);
    }

    #[test]
    fn names_differ() {
        let names: BTreeSet<&str> = attacks().map(|entry| entry.name).collect();
        assert_eq!(names.len(), attacks().count());
    }
}
