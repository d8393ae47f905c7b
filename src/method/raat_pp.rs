//! RAAT++: RAAT (Wang, Ye, Liu, Liang, Hu, CVPR 2026 Findings, arXiv 2604.26496) on MART (ICLR 2020).
//!
//! ```text
//! X' = PGD(CE) as MART attacks, from X + 0.001 N(0,1);  x_ce as in RAAT
//! [train] passes: X', X, x_ce;  then S [eval];  then DICAR's: interpolated, X
//! loss = BCE(z(x_ce), y) + beta mean KL(p(X) || p(X')) (1 - p_y(X)) + lambda JS_T(u, v)
//! ```
//!
//! `paper`: one lambda over both the divergence and DICAR. The divergence takes the full X' of all samples;
//! BCE and its constants are MART's.

use super::common::align::{both_right, dicar_of_both};
use super::{Attacked, Entry, Loss, Step, mart, raat};
use crate::error::Result;
use crate::ops::mart::{bce, weighted_kl};
use crate::ops::reduce::Reduction;
use crate::ops::split::Variant;
use crate::ops::split::correct;

pub const METHOD: Entry = Entry {
    name: "raat++",
    about: "RAAT on MART",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496",
    keys: &["beta", "lambda", "rho", "temperature", "variant", "mix_beta", "start_sigma"],
    attack: |step| {
        let x_adv = mart::attack(step)?.x_adv;
        raat::align(step, x_adv)
    },
    loss,
    ..raat::METHOD
};

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    let (x_ce, _) = made.aligned()?;
    let z_adv = step.train(&made.x_adv)?;
    let z_clean = step.train(step.x)?;
    let z = step.train(x_ce)?;
    let bce = bce(step.tape, z, step.y, Reduction::Mean)?;
    let kl = weighted_kl(step.tape, z_clean, z_adv, step.y, Reduction::Mean)?;
    // The three passes have moved the running statistics: S is made again.
    let right = correct(step.x.device(), &step.eval(step.x)?, step.y)?;
    let s = both_right(step, &right)?;
    let dicar = dicar_of_both(step, &made.x_adv, &s)?;
    let (beta, lambda) = match step.set.variant {
        Variant::Code => (step.set.beta, step.set.lambda),
        Variant::Paper => (step.set.lambda, step.set.lambda),
    };
    Ok(Loss::new(step.tape, z, &[("bce", 1.0, bce), ("kl", beta, kl), ("dicar", lambda, dicar)])?
        .with_subset(&s))
}
