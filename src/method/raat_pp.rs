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

use super::common::raat::{BoundarySplit, both_right, dicar_of_both};
use super::{AdversarialLoss, Loss, Method, Step, mart};
use crate::error::Result;
use crate::ops::mart::{boosted_ce, weighted_kl};
use crate::ops::reduce::Reduction;
use crate::ops::split::Variant;
use crate::ops::split::correct;

pub const METHOD: Method = Method {
    name: "raat++",
    about: "RAAT on MART",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496",
    keys: &["beta", "lambda", "rho", "temperature", "variant", "mix_beta", "start_sigma"],
    views: |_| 2,
    prepare,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let x_adv = mart::attack(step)?;
    let split = BoundarySplit::new(step, step.x, &x_adv, step.y, |step, x| step.eval(x))?;
    Ok(AdversarialLoss::on(x_adv, move |step, x_adv| {
        let z_adv = step.train(x_adv)?;
        let z_clean = step.train(step.x)?;
        let z = step.train(&split.x_ce)?;
        let bce = boosted_ce(step.tape, z, step.y, Reduction::Mean)?;
        let kl = weighted_kl(step.tape, z_clean, z_adv, step.y, Reduction::Mean)?;
        // S is made after the three passes, which move the running statistics.
        let right = correct(step.x.device(), &step.eval(step.x)?, step.y)?;
        let s = both_right(step, &right)?;
        let dicar = dicar_of_both(step, x_adv, &s)?;
        let (beta, lambda) = match step.set.variant {
            Variant::Code => (step.set.beta, step.set.lambda),
            Variant::Paper => (step.set.lambda, step.set.lambda),
        };
        let terms = [("bce", 1.0, bce), ("kl", beta, kl), ("dicar", lambda, dicar)];
        Ok(Loss::new(step.tape, z, &terms)?.with_log(split.log(Some(&s))))
    }))
}
