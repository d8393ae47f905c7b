//! The study behind RAAT (arXiv 2604.26496, figure 1): PGD-AT in which boundary samples, or the others, keep
//! only a part of their perturbation.
//!
//! ```text
//! x' = PGD(CE);  boundary as in RAAT, with x'' = x + rho (x' - x)
//! x_ce = x + rho_boundary (x' - x) for boundary samples, x + rho_other (x' - x) for all others
//! loss = CE(z(x_ce)[train], y)
//! ```

use super::common::perturbation::reduced;
use super::common::raat::BoundarySplit;
use super::{AdversarialLoss, Method, Step, pgd_at};
use crate::error::Result;
use crate::ops::split::select;

pub const METHOD: Method = Method {
    name: "boundary-at",
    about: "PGD-AT whose boundary samples, or others, keep a part of their perturbation: the study behind \
        RAAT",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496, figure 1",
    keys: &["rho", "variant", "rho_boundary", "rho_other"],
    prepare,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let x_adv = step.pgd_on_cross_entropy()?;
    let split = BoundarySplit::new(step, step.x, &x_adv, step.y, |step, x| step.eval(x))?;
    let of_boundary = reduced(step.x, &x_adv, step.set.rho_boundary)?;
    let of_others = reduced(step.x, &x_adv, step.set.rho_other)?;
    let x_ce = select(step.x.device(), &of_boundary, &of_others, &split.boundary)?;
    Ok(AdversarialLoss::on(x_adv, move |step, _| {
        Ok(pgd_at::loss(step, &x_ce)?.loss.with_log(split.log(None)))
    }))
}
