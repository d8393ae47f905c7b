//! RAAT. Wang, Ye, Liu, Liang, Hu: Robust Alignment: Harmonizing Clean Accuracy and Adversarial Robustness in
//! Adversarial Training, CVPR 2026 Findings, arXiv 2604.26496: boundary samples are trained on with a reduced
//! perturbation, and the prediction of an interpolated image is aligned with the interpolated predictions of
//! two views (DICAR).
//!
//! ```text
//! X = [x1; x2];  X' = PGD(CE) from X;  X'' = X + rho (X' - X)
//! boundary: h(X) = y, h(X') != y and h(X'') != y     [eval]
//! x_ce = X'' for boundary samples, X' for all others
//! L_ce = CE(z(x_ce)[train], y)
//! S = images whose views are both right;  r = max(l, 1 - l), l ~ Beta(0.75, 0.75)
//! u = z(r x1'[S] + (1-r) x2'[S])[train];  Z = z(X)[train];  v = r Z1[S] + (1-r) Z2[S]
//! loss = L_ce + lambda JS_T(u, v)                    skipped, with its passes, when S is empty
//! ```
//!
//! `paper`: boundary is h(X'') != y; S asks for the first view only; v mixes probabilities softmax(Z/T)
//! instead of logits.

use super::common::raat::{BoundarySplit, both_right, dicar_of_both};
use super::{AdversarialLoss, Loss, Method, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;

pub const METHOD: Method = Method {
    name: "raat",
    about: "a reduced perturbation for boundary samples, and consistency of interpolated images and \
        predictions",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496",
    keys: &["lambda", "rho", "temperature", "variant", "mix_beta"],
    views: |_| 2,
    prepare,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let x_adv = step.pgd_on_cross_entropy()?;
    let split = BoundarySplit::new(step, step.x, &x_adv, step.y, |step, x| step.eval(x))?;
    let s = both_right(step, &split.correct)?;
    Ok(AdversarialLoss::on(x_adv, move |step, x_adv| {
        let z = step.train(&split.x_ce)?;
        let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
        let dicar = dicar_of_both(step, x_adv, &s)?;
        let loss = Loss::new(step.tape, z, &[("ce", 1.0, ce), ("dicar", step.set.lambda, dicar)])?;
        Ok(loss.with_log(split.log(Some(&s))))
    }))
}
