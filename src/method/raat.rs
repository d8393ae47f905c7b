//! RAAT. Wang, Ye, Liu, Liang, Hu: Robust Alignment: Harmonizing Clean Accuracy and Adversarial Robustness in
//! Adversarial Training, CVPR 2026 Findings, arXiv 2604.26496: boundary samples are trained on with a reduced
//! perturbation, and the prediction of an interpolated image is aligned with the interpolated predictions of
//! two views (DICAR).
//!
//! ```text
//! X = [x1; x2];  X' = PGD(CE) from X;  X'' = X + rho (X' - X)
//! boundary: h(X) = y, h(X') != y and h(X'') != y     [eval]       x_ce = X'' for boundary samples, X' for all others
//! L_ce = CE(z(x_ce)[train], y)
//! S = images whose views are both right;  r = max(l, 1 - l), l ~ Beta(0.75, 0.75)
//! u = z(r x1'[S] + (1-r) x2'[S])[train];  Z = z(X)[train];  v = r Z1[S] + (1-r) Z2[S]
//! loss = L_ce + lambda JS_T(u, v)                    skipped, with its passes, when S is empty
//! ```
//!
//! `paper`: boundary is h(X'') != y; S asks for the first view only; v mixes probabilities softmax(Z/T)
//! instead of logits.

use super::common::align::{both_right, boundary, dicar_of_both};
use super::common::loss::pgd_on_cross_entropy;
use super::{Attacked, Entry, Loss, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Entry = Entry {
    name: "raat",
    about: "a reduced perturbation for boundary samples, and consistency of interpolated images and predictions",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496",
    keys: &["lambda", "rho", "temperature", "variant", "mix_beta"],
    views: |_| 2,
    attack,
    loss,
    ..Entry::BASE
};

fn attack(step: &mut Step) -> Result<Attacked> {
    let x_adv = pgd_on_cross_entropy(step)?.x_adv;
    align(step, x_adv)
}

/// The split, x_ce and S that follow from X'.
pub fn align(step: &mut Step, x_adv: Tensor) -> Result<Attacked> {
    let mut align = boundary(step, step.x, &x_adv, step.y, |step, x| step.eval(x))?;
    align.subset = Some(both_right(step, &align.split.correct)?);
    Ok(Attacked { x_adv, align: Some(align) })
}

fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    let (x_ce, s) = made.aligned()?;
    let z = step.train(x_ce)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    let dicar = dicar_of_both(step, &made.x_adv, s)?;
    Loss::new(step.tape, z, &[("ce", 1.0, ce), ("dicar", step.set.lambda, dicar)])
}
