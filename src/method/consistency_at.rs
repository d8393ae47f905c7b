//! Consistency-AT. Tack, Yu, Jeong, Kim, Hwang, Shin: Consistency Regularization for Adversarial Robustness,
//! AAAI 2022, arXiv 2103.04623, equation 5.
//!
//! ```text
//! X = [x1; x2], two augmentations of the batch;  X' = PGD(CE) from X
//! loss = CE(z(X')[train], [y; y]) + lambda JS_T(z(x1'), z(x2'))       one pass over 2B images
//! ```

use super::{AdversarialLoss, BaseLoss, Loss, Method, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::js::js;
use crate::ops::reduce::Reduction;
use crate::ops::slice::slice;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "consistency-at",
    about: "PGD-AT on two views of each image, with the divergence between their predictions",
    paper: "Tack et al., AAAI 2022, arXiv 2103.04623",
    keys: &["lambda", "temperature"],
    views: |_| 2,
    prepare: |step| {
        let x_adv = step.pgd_on_cross_entropy()?;
        Ok(AdversarialLoss::on(x_adv, |step, x_adv| loss(step, x_adv, step.set.lambda)))
    },
    ..Method::BASE
};

/// The loss, in which the divergence has this weight.
pub fn loss(step: &mut Step, x_adv: &Tensor, lambda: f32) -> Result<BaseLoss> {
    let b = step.batch();
    let z = step.train(x_adv)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    let (z1, z2) = (slice(step.tape, z, 0, b)?, slice(step.tape, z, b, b)?);
    let js = js(step.tape, z1, z2, step.set.temperature, Reduction::Mean)?;
    let loss = Loss::new(step.tape, z, &[("ce", 1.0, ce), ("js", lambda, js)])?;
    Ok(BaseLoss { loss, adv: z, clean: None })
}
