//! ReBAT++, the stronger form of ReBAT. Wang, Li, Yang, Lin, Wang: Balance, Imbalance, and Rebalance:
//! Understanding Robust Overfitting from a Minimax Game Perspective, NeurIPS 2023, arXiv 2310.19360.
//!
//! ```text
//! from epoch late_start_epoch (0-based):  x' = PGD(CE) with eps = late_eps = 10/255 and late_steps = 12 steps;  before, and all else: ReBAT
//! ```
//!
//! The learning rate decays by 1.7 instead of 1.5: the recipes' `lr_gamma`.

use super::{AdversarialLoss, Method, Step, rebat};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;

pub const METHOD: Method = Method {
    name: "rebat++",
    about: "ReBAT with a stronger attack once the learning rate has decayed",
    paper: "Wang et al., NeurIPS 2023, arXiv 2310.19360",
    keys: &["lambda", "wa_mode", "late_start_epoch", "late_eps", "late_steps"],
    averaged: true,
    prepare,
    after: rebat::after,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let mut pgd = step.pgd(Start::Uniform, BnMode::Train);
    if step.epoch >= step.set.late_start_epoch {
        (pgd.pgd.ball.eps, pgd.pgd.steps) = (step.set.late_eps.get(), step.set.late_steps);
    }
    let x_adv = rebat::attack_in_train_mode(step, &pgd, step.x, 0)?;
    Ok(AdversarialLoss::on(x_adv, rebat::loss))
}
