//! Steps of one length, with or without momentum: what FGSM, PGD, the attack of Carlini and Wagner and MIM
//! have in common.
//!
//! ```text
//! x' <- the start
//! repeat K times:  g <- gradient of the objective at x';  m <- mu m + g / |g|_1 (without momentum: m <- g)
//!                  x' <- the step along m, as in PGD
//! ```
//! The last iterate is what counts.

use super::attempts::{Points, attempts};
use super::objective::Objective;
use super::{Attack, Draws, Entry, Found, Model, Norm, Pgd, Settings};
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::attack_step::{add_momentum, l2_step, linf_step};
use crate::rng::{Key, Purpose};
use crate::tensor::Tensor;

/// Steps of one length on an objective.
pub struct Iterated {
    pub name: String,
    /// Ball, step, number of steps, start.
    pub pgd: Pgd,
    pub objective: Objective<'static>,
    /// mu, of the accumulated gradient.
    pub momentum: Option<f32>,
    /// Starts, each on the points that withstood the earlier ones.
    pub restarts: usize,
    pub seed: u64,
    /// Tells apart the random starts of attacks of one seed.
    pub stream: u32,
}

/// PGD's usual step for a radius: a quarter of eps for Linf (2/255 of 8/255), 15/128 of eps for L2 (15/255 of
/// 128/255).
pub fn usual_step(norm: Norm, eps: f32) -> f32 {
    match norm {
        Norm::Linf => eps / 4.0,
        Norm::L2 => eps * 15.0 / 128.0,
    }
}

pub(super) const PGD: Entry = Entry {
    name: "pgdK",
    about: "K projected gradient steps on the cross entropy from a random start, such as pgd20",
    paper: "Madry et al., arXiv 1706.06083",
    build: |settings| {
        let steps = settings.steps.unwrap_or(20);
        Box::new(Iterated {
            name: format!("pgd{steps}"),
            pgd: Pgd { steps, ..ball(settings) },
            objective: Objective::CrossEntropy,
            momentum: None,
            restarts: settings.restarts,
            seed: settings.seed,
            stream: 0,
        })
    },
};

/// PGD in the ball of these settings with the usual step.
pub(super) fn ball(settings: &Settings) -> Pgd {
    let Settings { norm, eps, step, .. } = *settings;
    Pgd { norm, eps, step: step.unwrap_or(usual_step(norm, eps)), ..Pgd::default() }
}

impl Iterated {
    /// The last iterate from one start.
    pub fn attack(&self, model: &mut dyn Model, points: Points, restart: u32) -> Result<Tensor> {
        let Points { x, y, images } = points;
        let Pgd { norm, eps, step, steps, .. } = self.pgd;
        let key = Key::new(self.seed, Purpose::EvalStart, self.stream, restart);
        let mut x_adv = self.pgd.start(x, Draws { key, images })?;
        let mut accumulated =
            self.momentum.map(|mu| Ok((mu, Tensor::zeros(x.device(), x.shape())?))).transpose()?;
        for _ in 0..steps {
            let grad = self.objective.pass(model, &x_adv, y)?.grad;
            let direction = match &mut accumulated {
                Some((mu, sum)) => {
                    add_momentum(sum, &grad, *mu)?;
                    &*sum
                }
                None => &grad,
            };
            match norm {
                Norm::Linf => linf_step(&mut x_adv, direction, x, step, eps)?,
                Norm::L2 => l2_step(&mut x_adv, direction, x, step, eps)?,
            }
        }
        Ok(x_adv)
    }
}

impl Attack for Iterated {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, images: &Buffer<i32>) -> Result<Found> {
        attempts(Points { x, y, images }, 0..self.restarts, |restart, points| {
            let x_adv = self.attack(model, points, restart as u32)?;
            Found::of(model, points, &x_adv)
        })
    }
}
