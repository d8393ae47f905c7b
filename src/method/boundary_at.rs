//! The study behind RAAT (arXiv 2604.26496, figure 1): PGD-AT in which boundary samples, or the others, keep
//! only a part of their perturbation.
//!
//! ```text
//! x' = PGD(CE);  boundary as in RAAT, with x'' = x + rho (x' - x)
//! x_ce = x + rho_boundary (x' - x) for boundary samples, x + rho_other (x' - x) for all others;  loss = CE(z(x_ce)[train], y)
//! ```

use super::common::align::{boundary, reduced};
use super::common::loss::pgd_on_cross_entropy;
use super::{Attacked, Entry, Loss, Step, pgd_at};
use crate::error::Result;
use crate::ops::split::select;

pub const METHOD: Entry = Entry {
    name: "boundary-at",
    about: "PGD-AT whose boundary samples, or others, keep a part of their perturbation: the study behind RAAT",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496, figure 1",
    keys: &["rho", "variant", "rho_boundary", "rho_other"],
    attack,
    loss,
    ..Entry::BASE
};

fn attack(step: &mut Step) -> Result<Attacked> {
    let x_adv = pgd_on_cross_entropy(step)?.x_adv;
    let mut align = boundary(step, step.x, &x_adv, step.y, |step, x| step.eval(x))?;
    let of_boundary = reduced(step.x, &x_adv, step.set.rho_boundary)?;
    let of_others = reduced(step.x, &x_adv, step.set.rho_other)?;
    align.x_ce = select(step.x.device(), &of_boundary, &of_others, &align.split.boundary)?;
    Ok(Attacked { x_adv, align: Some(align) })
}

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    pgd_at::loss_on(step, made.align.as_ref().map_or(&made.x_adv, |align| &align.x_ce))
}
