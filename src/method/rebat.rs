//! ReBAT. Wang, Li, Yang, Lin, Wang: Balance, Imbalance, and Rebalance: Understanding Robust Overfitting from
//! a Minimax Game Perspective, NeurIPS 2023, arXiv 2310.19360: the averaged network `wa` holds the trained
//! one back after the learning rate has decayed.
//!
//! ```text
//! x' = PGD(CE), every pass [train], and one pass more for the loss of each sample
//! loss = CE(z(x')[train], y) + lambda KL(p_wa(x') || p(x'))
//!     the second from epoch average_start_epoch (0-based), gradient through p(x')
//! update;  z(x)[train] without gradient;  wa <- d wa + (1 - d) net, d = 0 before average_start_epoch
//! ```
//!
//! As in the released code: eleven `[train]` passes of the attack and the clean pass after the update only
//! move the running statistics, and `wa` itself is in train mode until its first evaluation (`wa_mode =
//! "eval"`: never).

use super::common::inner_attack::InnerAttack;
use super::{AdversarialLoss, Loss, Method, Step, pgd_at};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::kl::kl;
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "rebat",
    about: "PGD-AT that the average of its own weights holds back after the learning rate has decayed",
    paper: "Wang et al., NeurIPS 2023, arXiv 2310.19360",
    keys: &["lambda", "wa_mode"],
    averaged: true,
    prepare: |step| Ok(AdversarialLoss::on(attack(step)?, loss)),
    after,
    ..Method::BASE
};

/// The attack of the recipe.
pub fn attack(step: &mut Step) -> Result<Tensor> {
    let pgd = step.pgd(Start::Uniform, BnMode::Train);
    attack_in_train_mode(step, &pgd, step.x, 0)
}

/// PGD in train mode on one view, and the pass after it.
pub fn attack_in_train_mode(step: &mut Step, pgd: &InnerAttack, x: &Tensor, view: usize) -> Result<Tensor> {
    let x_adv = step.attack_ce(pgd, x, view)?;
    step.pass(&x_adv, pgd.bn)?;
    Ok(x_adv)
}

pub fn loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    let base = pgd_at::loss(step, x_adv)?;
    if !step.averaging() {
        return Ok(base.loss);
    }
    let teacher = step.wa(x_adv)?;
    let rebat = kl(step.tape, step.tape.constant(teacher), base.adv, Reduction::Mean)?;
    base.loss.plus(step.tape, "rebat", step.set.lambda, rebat)
}

/// One clean pass of the updated network.
pub fn after(step: &mut Step) -> Result<()> {
    step.pass(&step.view(0)?, BnMode::Train)
}
