//! PGD-AT. Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial
//! Attacks, ICLR 2018, arXiv 1706.06083, equation 2.1: min_theta E max_{|d| <= eps} L(theta, x + d, y).
//!
//! ```text
//! x' = PGD(CE) from x             uniform start, batch norm in eval mode
//! loss = CE(z(x')[train], y)
//! ```

use super::{AdversarialLoss, BaseLoss, Loss, Method, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "pgd-at",
    about: "cross entropy on PGD images: the baseline of adversarial training",
    paper: "Madry et al., ICLR 2018, arXiv 1706.06083",
    prepare: |step| Ok(AdversarialLoss::on(step.pgd_on_cross_entropy()?, loss)),
    ..Method::BASE
};

/// CE(z(x')`[train]`, y) for any images of all views.
pub fn loss(step: &mut Step, x_adv: &Tensor) -> Result<BaseLoss> {
    let z = step.train(x_adv)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    Ok(BaseLoss { loss: Loss::new(step.tape, z, &[("ce", 1.0, ce)])?, adv: z, clean: None })
}
