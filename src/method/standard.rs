//! Standard training: the cross entropy of clean images, loss = CE(z(x)`[train]`, y).

use super::{Attacked, Entry, Loss, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;

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
    let z = step.train(step.x)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    Ok(Loss::new(step.tape, z, &[("ce", 1.0, ce)])?.with_clean(z))
}
