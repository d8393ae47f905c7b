//! Standard training: the cross entropy of clean images, loss = CE(z(x)`[train]`, y).

use super::{Attacked, Entry, Loss, Step, pgd_at};
use crate::error::Result;

pub const METHOD: Entry = Entry {
    name: "standard",
    about: "cross entropy on clean images, without any attack",
    attack,
    loss,
    ..Entry::BASE
};

fn attack(step: &mut Step) -> Result<Attacked> {
    Ok(step.x.clone().into())
}

fn loss(step: &mut Step, _: &Attacked) -> Result<Loss> {
    let loss = pgd_at::loss_on(step, step.x)?;
    Ok(Loss { clean: loss.logits, ..loss })
}
