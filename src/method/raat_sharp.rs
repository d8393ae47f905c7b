//! RAAT#: RAAT (Wang, Ye, Liu, Liang, Hu, CVPR 2026 Findings, arXiv 2604.26496) on the ReBAT recipe; the
//! averaged network `wa` makes the split and S.
//!
//! ```text
//! x1', x2' = PGD(CE), view by view, every pass [train], and one pass more each
//! split of view 1 and clean correctness of view 2 by wa, in the order x1, x1', x1'', x2
//! loss = CE(z(x_ce)[train], y) + w lambda JS_T(u, v)        view 1 only;  w = 0 before epoch average_start_epoch (0-based), then 1
//! [train] passes: x_ce, interpolated, x1, x2, then x1' without gradient;  after the update x1
//! ```
//!
//! As in the released code, DICAR's passes also run while its weight is 0.

use super::common::raat::{BoundarySplit, consistency};
use super::{AdversarialLoss, Loss, Method, Step, rebat};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::ops::slice::{concat_tensor, slice_tensor};
use crate::ops::split::Variant;
use crate::ops::split::correct;
use crate::ops::subset::{RowsFrom, subset};

pub const METHOD: Method = Method {
    name: "raat#",
    about: "RAAT on the ReBAT recipe: the averaged network finds the boundary samples and the correctly classified images",
    paper: "Wang et al., CVPR 2026 Findings, arXiv 2604.26496",
    keys: &["lambda", "rho", "temperature", "variant", "mix_beta", "wa_mode"],
    views: |_| 2,
    averaged: true,
    prepare,
    after: rebat::after,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let pgd = step.pgd(Start::Uniform, BnMode::Train);
    let (x1, x2) = (step.view(0)?, step.view(1)?);
    let x1_adv = rebat::attack_in_train_mode(step, &pgd, &x1, 0)?;
    let x2_adv = rebat::attack_in_train_mode(step, &pgd, &x2, 1)?;
    let split = BoundarySplit::new(step, &x1, &x1_adv, step.y1, |step, x| step.wa(x))?;
    let second = correct(x2.device(), &step.wa(&x2)?, step.y1)?;
    let second = (step.set.variant == Variant::Code).then_some(RowsFrom::all(&second));
    let s = subset(x1.device(), RowsFrom::all(&split.correct), second, step.batch())?;
    Ok(AdversarialLoss::on(concat_tensor(&x1_adv, &x2_adv)?, move |step, x_adv| {
        let z = step.train(&split.x_ce)?;
        let ce = cross_entropy(step.tape, z, step.y1, Reduction::Mean)?;
        let dicar = consistency(step, x_adv, &s, |step, rows| {
            Ok([RowsFrom::all(step.train_rows(&x1, rows)?), RowsFrom::all(step.train_rows(&x2, rows)?)])
        })?;
        step.pass(&slice_tensor(x_adv, 0, step.batch())?, BnMode::Train)?;
        let weight = if step.averaging() { step.set.lambda } else { 0.0 };
        let loss = Loss::new(step.tape, z, &[("ce", 1.0, ce), ("dicar", weight, dicar)])?;
        Ok(loss.with_log(split.log(Some(&s))))
    }))
}
