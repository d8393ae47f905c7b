//! MART. Wang, Zou, Yi, Bailey, Ma, Gu: Improving Adversarial Robustness Requires Revisiting Misclassified
//! Examples, ICLR 2020 (OpenReview rklOg6EFwS), equation 11.
//!
//! ```text
//! x' = PGD(CE) from x + 0.001 N(0,1), not clipped
//! BCE_i = CE(z(x'_i), y_i) - log(1.0001 - max_{k != y_i} p_k(x'_i) + 1e-12)
//! loss = mean BCE_i + beta mean KL(p(x_i) || p(x'_i) + 1e-12) (1.0000001 - p_y(x_i))
//! ```
//!
//! `[train]` passes: x, then x'. The small constants are the released code's. Its beta is 5; 6 is what the
//! benchmarks of RPAT and RAAT use.

use super::{AdversarialLoss, BaseLoss, Loss, Method, Step};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::mart::{boosted_ce, weighted_kl};
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "mart",
    about: "a cross entropy that also lowers the strongest rival, plus a divergence that counts most for misclassified images",
    paper: "Wang et al., ICLR 2020, OpenReview rklOg6EFwS",
    keys: &["beta", "start_sigma"],
    prepare: |step| Ok(AdversarialLoss::on(attack(step)?, loss)),
    ..Method::BASE
};

pub fn attack(step: &mut Step) -> Result<Tensor> {
    let pgd = step.pgd(Start::Gaussian(step.set.start_sigma), BnMode::Eval);
    step.attack_ce(&pgd, step.x, 0)
}

pub fn loss(step: &mut Step, x_adv: &Tensor) -> Result<BaseLoss> {
    let z = step.train(step.x)?;
    let z_adv = step.train(x_adv)?;
    let bce = boosted_ce(step.tape, z_adv, step.y, Reduction::Mean)?;
    let kl = weighted_kl(step.tape, z, z_adv, step.y, Reduction::Mean)?;
    let loss = Loss::new(step.tape, z_adv, &[("bce", 1.0, bce), ("kl", step.set.beta, kl)])?;
    Ok(BaseLoss { loss, adv: z_adv, clean: Some(z) })
}
