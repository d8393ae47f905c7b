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

use super::{Attacked, Entry, Loss, Step};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::mart::{bce, weighted_kl};
use crate::ops::reduce::Reduction;

pub const METHOD: Entry = Entry {
    name: "mart",
    about: "a cross entropy that also lowers the strongest rival, plus a divergence that counts most for misclassified images",
    paper: "Wang et al., ICLR 2020, OpenReview rklOg6EFwS",
    keys: &["beta", "start_sigma"],
    attack,
    loss,
    ..Entry::BASE
};

pub fn attack(step: &mut Step) -> Result<Attacked> {
    let pgd = step.pgd(Start::Gaussian(step.set.start_sigma), BnMode::Eval);
    Ok(step.attack_ce(&pgd, step.x, 0)?.into())
}

pub fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    let z = step.train(step.x)?;
    let z_adv = step.train(&made.x_adv)?;
    let bce = bce(step.tape, z_adv, step.y, Reduction::Mean)?;
    let kl = weighted_kl(step.tape, z, z_adv, step.y, Reduction::Mean)?;
    Ok(Loss::new(step.tape, z_adv, &[("bce", 1.0, bce), ("kl", step.set.beta, kl)])?.with_clean(z))
}
