//! RPAT++: RPAT (Wang, Liu, ICCV 2025, arXiv 2508.02186) on the ReBAT recipe, with the averaged network as
//! the one whose perception is followed.
//!
//! ```text
//! loss = CE(z(x')[train], y) + lambda KL( softmax(z_wa(x_a) - a z_wa(x)) || softmax((1 - a) z(x')) ),   x_a = (1 - a) x' + a x
//! passes of wa: x, then x_a
//! ```
//!
//! The second term counts from epoch average_start_epoch (0-based), with gradient only through z(x'). Attack,
//! passes and averaging are ReBAT's. As in the released code `wa` sees x first, which its running statistics
//! tell while it is in train mode.

use super::common::align::reduced;
use super::{Attacked, Entry, Loss, Step, pgd_at, rebat};
use crate::error::Result;
use crate::ops::combine::{combine, scaled};
use crate::ops::kl::kl;
use crate::ops::reduce::Reduction;

pub const METHOD: Entry = Entry {
    name: "rpat++",
    about: "robust perception on the ReBAT recipe, with the averaged network as teacher",
    paper: "Wang and Liu, ICCV 2025, arXiv 2508.02186",
    keys: &["lambda", "a", "wa_mode"],
    loss,
    ..rebat::METHOD
};

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    let loss = pgd_at::loss(step, made)?;
    let (Some(z), true) = (loss.logits, step.averaging()) else { return Ok(loss) };
    let (a, tape) = (step.set.a, step.tape);
    let z_clean = step.wa(step.x)?;
    let z_a = step.wa(&reduced(step.x, &made.x_adv, 1.0 - a)?)?;
    let teacher = combine(tape, tape.constant(z_a), 1.0, tape.constant(z_clean), -a)?;
    let rp = kl(tape, teacher, scaled(tape, z, 1.0 - a)?, Reduction::Mean)?;
    loss.plus(tape, "rp", step.set.lambda, rp)
}
