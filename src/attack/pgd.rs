//! Projected gradient ascent with steps of one length: the attacks FGSM, PGD, CW and MIM, and the inner
//! attack of adversarial training.
//!
//! ```text
//! x' <- the start
//! repeat K times:  g <- gradient of the loss at x';  m <- mu m + g / |g|_1  (without momentum: m <- g)
//!                  x' <- the ball's step of length alpha along m  (ball.rs)
//! ```
//! The last iterate is the result. The attacks of the evaluator:
//!
//! ```text
//!        loss                                     start    K    alpha                    mu
//! FGSM   cross entropy                            x        1    eps                      -
//! PGD    cross entropy                            uniform  20   eps/4, L2: 15/128 eps    -
//! CW     -max(z_y - max over k != y of z_k, -kappa)  uniform  100  as PGD                   -
//! MIM    cross entropy                            x        10   eps/K                    1
//! ```
//! FGSM: Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, arXiv 1412.6572. PGD:
//! Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv 1706.06083. CW: the
//! loss of Carlini and Wagner: Towards Evaluating the Robustness of Neural Networks, arXiv 1608.04644, with
//! PGD's steps. MIM: Dong et al.: Boosting Adversarial Attacks with Momentum, arXiv 1710.06081.

use super::attempts::{Points, attempts};
use super::ball::{Ball, RngKey, Start};
use super::objective::Objective;
use super::{Attack, AttackEntry, AttackResult, Model, Parameter, Params};
use crate::device::trace::Range;
use crate::error::Result;
use crate::ops::attack_step::add_momentum;
use crate::rng::{Key, Purpose};
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

pub(super) const ATTACKS: &[AttackEntry] = &[
    AttackEntry {
        name: "fgsm",
        about: "one signed (L2: normalised) gradient step of length eps from the clean image",
        paper: "Goodfellow et al., arXiv 1412.6572",
        parameters: &[],
        build: |params| {
            let ball = params.ball;
            let pgd = Pgd { ball, start: Start::Clean, steps: 1, step_size: ball.eps, momentum: None };
            boxed("fgsm".into(), pgd, Objective::CrossEntropy, params, 0)
        },
    },
    AttackEntry {
        name: "pgdK",
        about: "K projected gradient steps on the cross entropy from a random start, such as pgd20",
        paper: "Madry et al., arXiv 1706.06083",
        parameters: &[Parameter::Steps, Parameter::StepSize, Parameter::Restarts],
        build: |params| {
            let pgd = Pgd::new(params, 20);
            boxed(format!("pgd{}", pgd.steps), pgd, Objective::CrossEntropy, params, 0)
        },
    },
    AttackEntry {
        name: "cwK",
        about: "K projected gradient steps on the margin, confidence kappa = 50; 100 steps if no number is \
            given",
        paper: "Carlini and Wagner, arXiv 1608.04644",
        parameters: &[Parameter::Steps, Parameter::StepSize, Parameter::Restarts, Parameter::Kappa],
        build: |params| {
            let pgd = Pgd::new(params, 100);
            boxed(format!("cw{}", pgd.steps), pgd, Objective::Margin { kappa: params.kappa }, params, 1)
        },
    },
    AttackEntry {
        name: "mimK",
        about: "K steps of length eps/K along the accumulated gradient, momentum 1.0; 10 steps if no \
            number is given",
        paper: "Dong et al., arXiv 1710.06081",
        parameters: &[Parameter::Steps, Parameter::StepSize, Parameter::Momentum],
        build: |params| {
            let pgd = Pgd::new(params, 10);
            let step_size = params.step_size.unwrap_or(pgd.ball.eps / pgd.steps as f32);
            let pgd = Pgd { start: Start::Clean, step_size, momentum: Some(params.momentum), ..pgd };
            boxed(format!("mim{}", pgd.steps), pgd, Objective::CrossEntropy, params, 0)
        },
    },
];

/// Projected gradient ascent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pgd {
    pub ball: Ball,
    pub start: Start,
    /// K.
    pub steps: usize,
    /// alpha.
    pub step_size: f32,
    /// mu, of the accumulated gradient.
    pub momentum: Option<f32>,
}

impl Default for Pgd {
    /// Linf 8/255, ten steps of 2/255 from a uniform start.
    fn default() -> Pgd {
        Pgd {
            ball: Ball::default(),
            start: Start::Uniform,
            steps: 10,
            step_size: 2.0 / 255.0,
            momentum: None,
        }
    }
}

impl Pgd {
    /// From a uniform start in the ball of `params`, with its number and length of steps, or else `steps` and
    /// the ball's default.
    fn new(params: &Params, steps: usize) -> Pgd {
        let &Params { ball, .. } = params;
        Pgd {
            ball,
            start: Start::Uniform,
            steps: params.steps.unwrap_or(steps),
            step_size: params.step_size.unwrap_or(ball.default_step_size()),
            momentum: None,
        }
    }

    /// Adversarial images `[N,H,W,C]` that raise `objective` at the points, from a start with the random
    /// numbers of `key`.
    pub fn attack(
        &self,
        model: &mut dyn Model,
        objective: Objective,
        Points { x, y, images }: Points,
        key: Key,
    ) -> Result<Tensor> {
        let _attack = x.device().scope(Range::Attack);
        let start = self.start.draw(self.ball, x, RngKey { key, images })?;
        self.ascend(x, start, |tape, x| objective.gradients(model, tape, x, y))
    }

    /// Ascends from `x_adv` in the balls around x; all `[N,H,W,C]`. `gradients` gives those of the loss of an
    /// iterate on a tape; where the loss does not depend on the images, the ascent ends.
    pub fn ascend(
        &self,
        x: &Tensor,
        mut x_adv: Tensor,
        mut gradients: impl FnMut(&Tape, Var) -> Result<Gradients>,
    ) -> Result<Tensor> {
        let mut accumulated =
            self.momentum.map(|mu| Ok((mu, Tensor::zeros(x.device(), x.shape())?))).transpose()?;
        for step in 1..=self.steps {
            let _step = x.device().scope(Range::AttackStep(step));
            let grad = match self.pass(x, &x_adv, &mut gradients)? {
                Outcome::Moved(moved) => {
                    x_adv = moved;
                    continue;
                }
                Outcome::Gradient(grad) => grad,
                Outcome::Flat => break,
            };
            let direction = match &mut accumulated {
                Some((mu, sum)) => {
                    add_momentum(sum, &grad, *mu)?;
                    &*sum
                }
                None => &grad,
            };
            self.ball.step(&mut x_adv, direction, x, self.step_size)?;
        }
        Ok(x_adv)
    }

    /// One pass at `x_adv`. A step along the sign of the gradient itself may be made by the kernel that
    /// computes it.
    fn pass(
        &self,
        x: &Tensor,
        x_adv: &Tensor,
        gradients: impl FnOnce(&Tape, Var) -> Result<Gradients>,
    ) -> Result<Outcome> {
        let tape = Tape::new(x.device());
        let leaf = match (self.momentum, self.ball.sign_step(x, self.step_size)) {
            (None, Some(step)) => tape.stepping_leaf(x_adv.clone(), step),
            _ => tape.leaf(x_adv.clone()),
        };
        let mut gradients = gradients(&tape, leaf)?;
        if let Some(moved) = gradients.take_moved(leaf) {
            return Ok(Outcome::Moved(moved));
        }
        Ok(gradients.take(leaf).map_or(Outcome::Flat, Outcome::Gradient))
    }
}

/// What a pass leaves.
enum Outcome {
    /// The next iterate.
    Moved(Tensor),
    /// The gradient of the loss, to be stepped along.
    Gradient(Tensor),
    /// The loss does not depend on the images.
    Flat,
}

/// A row of the table: PGD on an objective, several times.
struct PgdAttack {
    name: String,
    pgd: Pgd,
    objective: Objective<'static>,
    /// Starts, each on the points that withstood the earlier ones.
    restarts: usize,
    seed: u64,
    /// Keeps the random starts of attacks with one seed apart.
    stream: u32,
}

fn boxed(
    name: String,
    pgd: Pgd,
    objective: Objective<'static>,
    &Params { restarts, seed, .. }: &Params,
    stream: u32,
) -> Box<dyn Attack> {
    // Without a random start every restart is the same.
    let restarts = if pgd.start.is_random() { restarts } else { 1 };
    Box::new(PgdAttack { name, pgd, objective, restarts, seed, stream })
}

impl Attack for PgdAttack {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult> {
        attempts(points, 0..self.restarts, |restart, points| {
            let key = Key::new(self.seed, Purpose::EvalStart, self.stream, restart as u32);
            let x_adv = self.pgd.attack(model, self.objective, points, key)?;
            AttackResult::of(model, points.y, x_adv)
        })
    }
}
