//! RPAT++: RPAT (Wang, Liu, ICCV 2025, arXiv 2508.02186) on the ReBAT recipe, with the averaged network as
//! the teacher of the perception.
//!
//! ```text
//! loss = CE(z(x')[train], y) + lambda KL( softmax(z_wa(x_a) - a z_wa(x)) || softmax((1 - a) z(x')) ),   x_a = (1 - a) x' + a x
//! passes of wa: x, then x_a
//! ```
//!
//! The second term counts from epoch average_start_epoch (0-based), with gradient only through z(x'). Attack,
//! passes and averaging are ReBAT's. As in the released code `wa` sees x first, which shows in its running
//! statistics while it is in train mode.

use super::common::perturbation::reduced;
use super::{AdversarialLoss, Loss, Method, Step, pgd_at, rebat};
use crate::error::Result;
use crate::ops::axpby::axpby;
use crate::ops::fill::scale;
use crate::ops::kl::kl;
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "rpat++",
    about: "robust perception on the ReBAT recipe, with the averaged network as teacher",
    paper: "Wang and Liu, ICCV 2025, arXiv 2508.02186",
    keys: &["lambda", "a", "wa_mode"],
    averaged: true,
    prepare: |step| Ok(AdversarialLoss::on(rebat::attack(step)?, loss)),
    after: rebat::after,
    ..Method::BASE
};

fn loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    let base = pgd_at::loss(step, x_adv)?;
    if !step.averaging() {
        return Ok(base.loss);
    }
    let (a, tape) = (step.set.a, step.tape);
    let z_clean = step.wa(step.x)?;
    let z_a = step.wa(&reduced(step.x, x_adv, 1.0 - a)?)?;
    let teacher = axpby(tape, tape.constant(z_a), 1.0, tape.constant(z_clean), -a)?;
    let rp = kl(tape, teacher, scale(tape, base.adv, 1.0 - a)?, Reduction::Mean)?;
    base.loss.plus(tape, "rp", step.set.lambda, rp)
}
