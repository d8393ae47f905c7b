//! RAAT's two ideas (arXiv 2604.26496), for `raat`, `raat++`, `raat#` and `boundary-at`: a reduced
//! perturbation for boundary samples, and DICAR, the consistency of an interpolation.
//!
//! Counts and flags stay in device memory: the set S is compacted there, and batch norm reads |S| from there.

use super::log::{Log, LogValue};
use super::perturbation::reduced;
use super::step::Step;
use crate::device::Buffer;
use crate::error::Result;
use crate::nn::Rows;
use crate::ops::dicar::dicar;
use crate::ops::split::{Split, Variant, select, split};
use crate::ops::subset::{RowsFrom, Subset, mix, subset};
use crate::tape::Var;
use crate::tensor::Tensor;
use std::rc::Rc;

/// The split of a batch into boundary samples and others.
pub struct BoundarySplit {
    /// Margins at X, X' and X''.
    margins: [Tensor; 3],
    /// 1 for boundary samples `[N]`.
    pub boundary: Rc<Buffer<u8>>,
    /// 1 for samples whose clean image is classified correctly `[N]`.
    pub correct: Buffer<u8>,
    /// X'' for boundary samples, X' for all others.
    pub x_ce: Tensor,
}

impl BoundarySplit {
    /// The split of images X with labels `y`, where X'' = X + rho (X' - X) and `z` gives logits without
    /// gradient.
    pub fn new(
        step: &mut Step,
        x: &Tensor,
        x_adv: &Tensor,
        y: &Buffer<i32>,
        mut z: impl FnMut(&mut Step, &Tensor) -> Result<Tensor>,
    ) -> Result<BoundarySplit> {
        let x_reduced = reduced(x, x_adv, step.set.rho)?;
        let (z_clean, z_adv, z_reduced) = (z(step, x)?, z(step, x_adv)?, z(step, &x_reduced)?);
        let Split { clean, adv, reduced, boundary, correct } =
            split(x.device(), &z_clean, &z_adv, &z_reduced, y, step.set.variant)?;
        let x_ce = select(x.device(), &x_reduced, x_adv, &boundary)?;
        let boundary = Rc::new(boundary);
        Ok(BoundarySplit { margins: [clean, adv, reduced], boundary, correct, x_ce })
    }

    /// The parts of the samples that are boundary samples and in S, and the margins.
    pub fn log(&self, s: Option<&Subset>) -> Log {
        let aligned = s.map_or(LogValue::Absent, |s| LogValue::Count(s.count.clone()));
        let [clean, adv, reduced] = self.margins.clone().map(LogValue::Values);
        vec![
            ("boundary", LogValue::Flags(self.boundary.clone())),
            ("aligned", aligned),
            ("margin.clean", clean),
            ("margin.adv", adv),
            ("margin.reduced", reduced),
        ]
    }
}

/// S from the flags of correctly classified images `[2B]`: both views right, or in the paper the first.
pub fn both_right(step: &Step, right: &Buffer<u8>) -> Result<Subset> {
    let second = (step.set.variant == Variant::Code).then_some(RowsFrom::new(right, step.batch()));
    subset(right.device(), RowsFrom::all(right), second, step.batch())
}

/// `JS_T(u, v)` averaged over S, 0 when it is empty, where `u = z(r x1'[S] + (1-r) x2'[S])[train]` and v
/// interpolates the clean logits of both views, which `clean` gives in further `[train]` passes. `x_adv` is
/// X' of both views.
///
/// Without an S none of these passes moves a running statistic.
pub fn consistency(
    step: &mut Step,
    x_adv: &Tensor,
    s: &Subset,
    clean: impl FnOnce(&mut Step, &Rows) -> Result<[RowsFrom<Var>; 2]>,
) -> Result<Var> {
    let (r, b) = (step.mix, step.batch());
    let mixed = mix(x_adv.device(), RowsFrom::all(x_adv), RowsFrom::new(x_adv, b), s, r)?;
    let u = step.train_rows(&mixed, &Rows::First(s.count.clone()))?;
    let [z1, z2] = clean(step, &Rows::AllIf(s.count.clone()))?;
    dicar(step.tape, u, z1, z2, s, r, step.set.temperature, step.set.variant)
}

/// [`consistency`] with both views in one pass over X.
pub fn dicar_of_both(step: &mut Step, x_adv: &Tensor, s: &Subset) -> Result<Var> {
    consistency(step, x_adv, s, |step, rows| {
        let z = step.train_rows(step.x, rows)?;
        Ok([RowsFrom::all(z), RowsFrom::new(z, step.batch())])
    })
}
