//! RPAT. Wang, Liu: "Failure Cases Are Better Learned But Boundary Says Sorry: Facilitating Smooth Perception
//! Change for Accuracy-Robustness Trade-Off in Adversarial Training", ICCV 2025, arXiv 2508.02186: on top of
//! PGD-AT, TRADES, MART or Consistency-AT (`base`), perception is to change evenly on the way from x to x'.
//!
//! ```text
//! x_a = (1 - a) x' + a x
//! L_RP = MSE(z(x_a), a z(x) + (1 - a) z(x'))       over batch and classes, gradient through all three
//! loss = L_base + lambda L_RP
//! ```
//!
//! `paper`: with t = 1 - a and D = x' - x, L_RP = MSE((z(x + tD) - z(x)) / t, (z(x') - z(x + tD)) / (1 - t)),
//! which is the above divided by (t (1 - t))^2. The `[train]` passes follow the released code: those of the
//! base, then x_a, then x where the base made no pass over it. They move running statistics by themselves,
//! which is why `lambda = 0` keeps them; before `rpat_start_epoch` there are none.

use super::common::perturbation::reduced;
use super::{AdversarialLoss, Loss, Method, Step, consistency_at, mart, pgd_at, trades};
use crate::config::Base;
use crate::error::Result;
use crate::ops::axpby::axpby;
use crate::ops::mse::mse;
use crate::ops::split::Variant;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "rpat",
    about: "robust perception on top of a base method: logits change evenly from the clean to the adversarial image",
    paper: "Wang and Liu, ICCV 2025, arXiv 2508.02186",
    keys: &[
        "base",
        "base_lambda",
        "lambda",
        "a",
        "variant",
        "rpat_start_epoch",
        "beta",
        "trades_passes",
        "start_sigma",
        "temperature",
    ],
    views: |set| if set.base == Base::ConsistencyAt { 2 } else { 1 },
    prepare,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let x_adv = match step.set.base {
        Base::PgdAt | Base::ConsistencyAt => step.pgd_on_cross_entropy()?,
        Base::Trades => trades::attack(step)?,
        Base::Mart => mart::attack(step)?,
    };
    Ok(AdversarialLoss::on(x_adv, loss))
}

fn loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    // lambda is the weight of L_RP: the base keeps its own.
    let base = match step.set.base {
        Base::PgdAt => pgd_at::loss(step, x_adv)?,
        Base::Trades => trades::loss(step, x_adv)?,
        Base::Mart => mart::loss(step, x_adv)?,
        Base::ConsistencyAt => consistency_at::loss(step, x_adv, step.set.base_lambda)?,
    };
    if step.epoch < step.set.rpat_start_epoch {
        return Ok(base.loss);
    }
    let (a, tape, z_adv) = (step.set.a, step.tape, base.adv);
    let z_a = step.train(&reduced(step.x, x_adv, 1.0 - a)?)?;
    let z = match base.clean {
        Some(z) => z,
        None => step.train(step.x)?,
    };
    let rp = match step.set.variant {
        Variant::Code => mse(tape, z_a, axpby(tape, z, a, z_adv, 1.0 - a)?)?,
        Variant::Paper => {
            let t = 1.0 - a;
            mse(tape, axpby(tape, z_a, 1.0 / t, z, -1.0 / t)?, axpby(tape, z_adv, 1.0 / a, z_a, -1.0 / a)?)?
        }
    };
    base.loss.plus(tape, "rp", step.set.lambda, rp)
}
