//! Standard training: the cross entropy of clean images, loss = CE(z(x)`[train]`, y).

use super::{Entry, Loss, Step};
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;

pub const METHOD: Entry = Entry {
    name: "standard",
    about: "cross entropy on clean images, without any attack",
    paper: "",
    loss,
};

fn loss(step: &mut Step) -> Result<Loss> {
    let x = step.tape.constant(step.x.clone());
    let z = step.net.forward(step.tape, x, BnMode::Train, Some(step.leaves))?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    Ok(Loss { total: ce, terms: vec![("ce", ce)], logits: z })
}
