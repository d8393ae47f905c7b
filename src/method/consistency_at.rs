//! Consistency-AT. Tack, Yu, Jeong, Kim, Hwang, Shin: Consistency Regularization for Adversarial Robustness,
//! AAAI 2022, arXiv 2103.04623, equation 5.
//!
//! ```text
//! X = [x1; x2], two augmentations of the batch;  X' = PGD(CE) from X
//! loss = CE(z(X')[train], [y; y]) + lambda JS_T(z(x1'), z(x2'))       one pass over 2B images
//! ```

use super::{Attacked, Entry, Loss, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::js::js;
use crate::ops::reduce::Reduction;
use crate::ops::slice::slice;

pub const METHOD: Entry = Entry {
    name: "consistency-at",
    about: "PGD-AT on two views of each image, with the divergence between their predictions",
    paper: "Tack et al., AAAI 2022, arXiv 2103.04623",
    keys: &["lambda", "temperature"],
    views: |_| 2,
    loss,
    ..Entry::BASE
};

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    weighted(step, made, step.set.lambda)
}

/// The loss with this weight of the divergence.
pub fn weighted(step: &mut Step, made: &Attacked, lambda: f32) -> Result<Loss> {
    let b = step.batch();
    let z = step.train(&made.x_adv)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    let (z1, z2) = (slice(step.tape, z, 0, b)?, slice(step.tape, z, b, b)?);
    let js = js(step.tape, z1, z2, step.set.temperature, Reduction::Mean)?;
    Loss::new(step.tape, z, &[("ce", 1.0, ce), ("js", lambda, js)])
}
