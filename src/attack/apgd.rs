//! Auto-PGD (Croce and Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse
//! parameter-free attacks, ICML 2020, arXiv 2003.01690): projected gradient ascent with momentum, whose step
//! halves by itself.
//!
//! ```text
//! x_0 <- a random point of the ball's surface;  x_{-1} <- x_0;  eta <- 2 eps
//! for k = 0 .. T-1, with a = 1 for k = 0, else 3/4:
//!     w <- P(x_k + eta sign(g_k))                     (L2: eta g / |g|)
//!     x_{k+1} <- P(x_k + a (w - x_k) + (1 - a) (x_k - x_{k-1}))
//!     f_best, x_best, g_best follow f(x_{k+1}) where it is larger
//!     at a checkpoint, if f rose in at most 3/4 of the window's steps, or if eta was kept at the last
//!     checkpoint and f_best stayed since:
//!         eta <- eta / 2;  x_{k+1} <- x_best;  g_{k+1} <- g_best
//! ```
//! Three rules are those of the authors' code, which published accuracies come from: the last misclassified
//! iterate is the result, not the one of the largest loss; iteration goes on after a success; in the
//! first window f(x_1) counts as a rise if it is above 0, whatever f(x_0) was. The random numbers are others:
//! they follow from seed, loss, restart, target and the image's index alone.

use super::attempts::{Points, at_target_ranks};
use super::ball::{Ball, Norm, RngKey};
use super::objective::{Evaluation, Objective, logits};
use super::{Attack, AttackEntry, AttackResult, Model, Parameter, Params, Targeted};
use crate::device::Buffer;
use crate::device::trace::Range;
use crate::error::Result;
use crate::ops::add::accumulate;
use crate::ops::apgd::{Iterates, Phase, State, step_l2, step_linf};
use crate::ops::fill::scale;
use crate::ops::gather::select;
use crate::ops::predict::{correct, top_class};
use crate::rng::{Key, Purpose};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// The loss that APGD ascends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApgdLoss {
    CrossEntropy,
    /// Needs three classes.
    Dlr,
    /// DLR towards the clean image's runner-up, then towards the next class, and so on; needs four
    /// classes.
    DlrTargeted,
}

/// APGD-CE, APGD-DLR and APGD-T.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Apgd {
    pub loss: ApgdLoss,
    pub ball: Ball,
    /// T.
    pub steps: usize,
    /// Random starts (for each target), each on the points that withstood the earlier ones.
    pub restarts: usize,
    /// Targets of APGD-T: the classes of rank 2 to `targets` + 1 on the clean image.
    pub targets: usize,
    /// Passes that each gradient is averaged over.
    pub eot_iter: usize,
    pub seed: u64,
}

pub(super) const ATTACKS: &[AttackEntry] = &[
    AttackEntry {
        name: ApgdLoss::CrossEntropy.attack(),
        about: "Auto-PGD on the cross entropy, 100 steps: momentum, and a step size that halves by itself",
        paper: PAPER,
        parameters: &[Parameter::Steps, Parameter::Restarts, Parameter::EotIter],
        build: |params| Box::new(Apgd::new(ApgdLoss::CrossEntropy, params)),
    },
    AttackEntry {
        name: ApgdLoss::Dlr.attack(),
        about: "Auto-PGD on the difference of logits ratio",
        paper: PAPER,
        parameters: &[Parameter::Steps, Parameter::Restarts, Parameter::EotIter],
        build: |params| Box::new(Apgd::new(ApgdLoss::Dlr, params)),
    },
    AttackEntry {
        name: ApgdLoss::DlrTargeted.attack(),
        about: "Auto-PGD on the targeted difference of logits ratio, towards nine classes one after the \
            other",
        paper: PAPER,
        parameters: &[Parameter::Steps, Parameter::Restarts, Parameter::Targets, Parameter::EotIter],
        build: |params| Box::new(Apgd::new(ApgdLoss::DlrTargeted, params)),
    },
];
const PAPER: &str = "Croce and Hein, ICML 2020, arXiv 2003.01690";

impl ApgdLoss {
    /// The name of the attack on this loss.
    const fn attack(self) -> &'static str {
        match self {
            ApgdLoss::CrossEntropy => "apgd-ce",
            ApgdLoss::Dlr => "apgd-dlr",
            ApgdLoss::DlrTargeted => "apgd-t",
        }
    }
}

impl Apgd {
    /// With these parameters; 100 steps by default.
    pub fn new(loss: ApgdLoss, params: &Params) -> Apgd {
        let &Params { ball, steps, restarts, targets, eot_iter, seed, .. } = params;
        Apgd { loss, ball, steps: steps.unwrap_or(100), restarts, targets, eot_iter, seed }
    }

    /// One run from one start on every point. `target_ranks` `[N]` gives the class that APGD-T aims at in
    /// each row: that of this rank among the logits of the clean image, the predicted one being 1. Rows may
    /// be the same point with several ranks. The other losses take no target; the ranks still keep starts
    /// apart, and are 0 in [`Attack::run`].
    pub fn run_once(
        &self,
        model: &mut dyn Model,
        points: Points,
        target_ranks: &Buffer<i32>,
        restart: u32,
    ) -> Result<AttackResult> {
        let Points { x, y, images } = points.checked()?;
        let (device, Ball { norm, eps }) = (x.device(), self.ball);
        let _attack = device.scope(Range::Attack);
        let z = logits(model, x)?;
        let clean_correct = correct(device, &z, y)?;
        let targeted = self.loss == ApgdLoss::DlrTargeted;
        let targets = if targeted { Some(top_class(device, &z, target_ranks)?) } else { None };
        let objective = match (self.loss, &targets) {
            (ApgdLoss::DlrTargeted, Some(targets)) => Objective::DlrTargeted(targets),
            (ApgdLoss::Dlr, _) => Objective::Dlr,
            _ => Objective::CrossEntropy,
        };
        let key = Key::new(self.seed, Purpose::Apgd, self.loss as u32, restart);
        let adv = self.ball.surface(x, RngKey { key, images }, target_ranks)?;
        let mut prev = adv.clone();
        let mut state = State::new(device, y.len())?;
        let Evaluation { logits, losses, grad } = self.evaluate(model, &objective, &adv, y)?;
        state.update(&losses, &correct(device, &logits, y)?, &clean_correct, eps, Phase::Start)?;
        let (best, best_grad) = (Tensor::uninit(device, x.shape())?, Tensor::uninit(device, x.shape())?);
        let mut iterates = Iterates { adv, grad, best, best_grad, found: x.clone() };
        iterates.keep(&state)?;
        let step = if norm == Norm::L2 { step_l2 } else { step_linf };
        for (k, phase) in phases(self.steps).into_iter().enumerate() {
            let _step = device.scope(Range::AttackStep(k + 1));
            let a = if k == 0 { 1.0 } else { 0.75 };
            step(&iterates.adv, &mut prev, x, &iterates.grad, &state, eps, a)?;
            std::mem::swap(&mut iterates.adv, &mut prev);
            let Evaluation { logits, losses, grad } = self.evaluate(model, &objective, &iterates.adv, y)?;
            iterates.grad = grad;
            state.update(&losses, &correct(device, &logits, y)?, &clean_correct, eps, phase)?;
            iterates.keep(&state)?;
        }
        // `found` stays the clean image where that is misclassified.
        let x_adv = select(&state.success, &iterates.found, &iterates.best)?;
        Ok(AttackResult { x_adv, success: state.success })
    }

    /// Logits and losses of the last of `eot_iter` passes, and the mean of their gradients.
    fn evaluate(
        &self,
        model: &mut dyn Model,
        objective: &Objective,
        x: &Tensor,
        y: &Buffer<i32>,
    ) -> Result<Evaluation> {
        let mut last = objective.evaluate(model, x, y)?;
        if self.eot_iter <= 1 {
            return Ok(last);
        }
        let mut sum = last.grad.clone();
        for _ in 1..self.eot_iter {
            last = objective.evaluate(model, x, y)?;
            accumulate(&mut sum, &last.grad)?;
        }
        let tape = Tape::new(x.device());
        let mean = scale(&tape, tape.constant(sum), 1.0 / self.eot_iter as f32)?;
        Ok(Evaluation { grad: tape.value(mean), ..last })
    }
}

impl Attack for Apgd {
    fn name(&self) -> String {
        self.loss.attack().into()
    }

    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult> {
        let ranks = match self.loss {
            ApgdLoss::DlrTargeted => self.target_ranks(model.classes()),
            _ => 0..=0,
        };
        at_target_ranks(points, ranks, self.restarts, |points, ranks, restart| {
            self.run_once(model, points, ranks, restart as u32)
        })
    }

    fn min_classes(&self) -> usize {
        match self.loss {
            ApgdLoss::CrossEntropy => 2,
            ApgdLoss::Dlr => 3,
            ApgdLoss::DlrTargeted => 4,
        }
    }

    fn passes(&self) -> usize {
        1 + (self.steps + 1) * self.eot_iter
    }

    fn targeted(&self) -> Option<&dyn Targeted> {
        (self.loss == ApgdLoss::DlrTargeted && self.restarts == 1).then_some(self)
    }
}

impl Targeted for Apgd {
    fn targets(&self) -> usize {
        self.targets
    }

    fn attempt(
        &self,
        model: &mut dyn Model,
        points: Points,
        target_ranks: &Buffer<i32>,
    ) -> Result<AttackResult> {
        self.run_once(model, points, target_ranks, 0)
    }
}

/// The phase of each step: the windows between checkpoints shrink from 0.22 T by 0.03 T to 0.06 T.
fn phases(steps: usize) -> Vec<Phase> {
    let share = |part: f64| ((part * steps as f64) as usize).max(1);
    let (mut window, mut since) = (share(0.22), 0);
    let after_step = |_| {
        since += 1;
        if since < window {
            return Phase::Step;
        }
        let ended = window;
        window = window.saturating_sub(share(0.03)).max(share(0.06));
        since = 0;
        Phase::Checkpoint(ended)
    };
    (0..steps).map(after_step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps with a checkpoint after them, and the windows that end there.
    fn checkpoints(steps: usize) -> Vec<(usize, usize)> {
        let ended = |(k, phase): (usize, Phase)| match phase {
            Phase::Checkpoint(window) => Some((k + 1, window)),
            _ => None,
        };
        phases(steps).into_iter().enumerate().filter_map(ended).collect()
    }

    #[test]
    fn checkpoints_stand_where_the_paper_has_them() {
        let hundred = [(22, 22), (41, 19), (57, 16), (70, 13), (80, 10), (87, 7), (93, 6), (99, 6)];
        assert_eq!(checkpoints(100), hundred);
        // 0.22 * 20 = 4.4, 0.03 * 20 = 0.6, which is at least one, 0.06 * 20 = 1.2.
        assert_eq!(
            checkpoints(20),
            [(4, 4), (7, 3), (9, 2), (10, 1)]
                .into_iter()
                .chain((11..=20).map(|k| (k, 1)))
                .collect::<Vec<_>>()
        );
        assert_eq!(checkpoints(1), [(1, 1)]);
        assert_eq!(checkpoints(0), []);
    }
}
