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

use super::common::align::reduced;
use super::{Attacked, Entry, Loss, Step, consistency_at, mart, pgd_at, trades};
use crate::config::{Base, Config};
use crate::error::Result;
use crate::ops::combine::combine;
use crate::ops::mse::mse;
use crate::ops::split::Variant;

pub const METHOD: Entry = Entry {
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
    views: |config| (base(config).views)(config),
    attack: |step| (base(step.set).attack)(step),
    loss,
    ..Entry::BASE
};

fn base(config: &Config) -> &'static Entry {
    match config.base {
        Base::PgdAt => &pgd_at::METHOD,
        Base::Trades => &trades::METHOD,
        Base::Mart => &mart::METHOD,
        Base::ConsistencyAt => &consistency_at::METHOD,
    }
}

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    // lambda is the weight of L_RP: the base keeps its own.
    let loss = match step.set.base {
        Base::ConsistencyAt => consistency_at::weighted(step, made, step.set.base_lambda)?,
        _ => (base(step.set).loss)(step, made)?,
    };
    let (Some(z_adv), true) = (loss.logits, step.epoch >= step.set.rpat_start_epoch) else { return Ok(loss) };
    let (a, tape) = (step.set.a, step.tape);
    let z_a = step.train(&reduced(step.x, &made.x_adv, 1.0 - a)?)?;
    let z = match loss.clean {
        Some(z) => z,
        None => step.train(step.x)?,
    };
    let rp = match step.set.variant {
        Variant::Code => mse(tape, z_a, combine(tape, z, a, z_adv, 1.0 - a)?)?,
        Variant::Paper => {
            let t = 1.0 - a;
            mse(
                tape,
                combine(tape, z_a, 1.0 / t, z, -1.0 / t)?,
                combine(tape, z_adv, 1.0 / a, z_a, -1.0 / a)?,
            )?
        }
    };
    loss.plus(tape, "rp", step.set.lambda, rp)
}
