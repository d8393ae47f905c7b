//! ReBAT++, the stronger form of ReBAT (arXiv 2310.19360): from epoch `late_epoch` (0-based) the attack uses `late_eps` = 10/255 and
//! `late_steps` = 12, and the learning rate decays by 1.7 instead of 1.5 (the recipes' `gamma`). All else is ReBAT.

use super::{Attacked, Entry, Step, rebat};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;

pub const METHOD: Entry = Entry {
    name: "rebat++",
    about: "ReBAT with a stronger attack once the learning rate has decayed",
    keys: &["lambda", "wa_mode", "late_epoch", "late_eps", "late_steps"],
    attack,
    ..rebat::METHOD
};

fn attack(step: &mut Step) -> Result<Attacked> {
    let mut pgd = step.set.inner.pgd(Start::Uniform, BnMode::Train);
    if step.epoch >= step.set.late_epoch {
        (pgd.eps, pgd.steps) = (step.set.late_eps, step.set.late_steps);
    }
    Ok(rebat::attack_in_train_mode(step, &pgd, step.x, 0)?.into())
}
