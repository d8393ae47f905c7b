//! The losses that attacks ascend, and their gradients in the image.

use super::Model;
use crate::device::Buffer;
use crate::device::trace::Range;
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::dlr::{dlr, dlr_targeted};
use crate::ops::fill::{full, scale};
use crate::ops::head::Target;
use crate::ops::margin::margin_above;
use crate::ops::reduce::Reduction::PerSample;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// The gradients of the sum of a loss of x.
pub fn gradients(tape: &Tape, x: Var, loss: impl FnOnce(&Tape, Var) -> Result<Var>) -> Result<Gradients> {
    let forward = tape.device().scope(Range::Forward);
    let loss = loss(tape, x)?;
    let ones = full(tape.device(), tape.value(loss).shape(), 1.0)?;
    drop(forward);
    tape.backward(loss, Some(ones))
}

/// The logits `[N,K]` of images, without a gradient.
pub fn logits(model: &mut dyn Model, x: &Tensor) -> Result<Tensor> {
    let _evaluation = x.device().scope(Range::Evaluation);
    let tape = Tape::new(x.device());
    let x = tape.constant(x.clone());
    let z = model.logits(&tape, x)?;
    Ok(tape.value(z))
}

/// A loss of each image that an attack ascends.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    CrossEntropy,
    /// The difference of logits ratio; needs three classes.
    Dlr,
    /// The same towards these classes `[N]`; needs four.
    DlrTargeted(&'a Buffer<i32>),
    /// -max(z_y - max over k != y of z_k, -kappa).
    Margin {
        kappa: f32,
    },
}

/// An objective at a batch of images: one forward and one backward pass.
pub struct Evaluation {
    /// `[N,K]`.
    pub logits: Tensor,
    /// `[N]`.
    pub losses: Tensor,
    /// Of each image's loss in that image; 0 where the loss does not depend on it.
    pub grad: Tensor,
}

impl Objective<'_> {
    /// The losses `[N]` of logits `[N,K]` and labels `[N]`.
    pub fn losses(&self, tape: &Tape, z: Var, y: &Buffer<i32>) -> Result<Var> {
        match *self {
            Objective::CrossEntropy => cross_entropy(tape, z, y, PerSample),
            Objective::Dlr => dlr(tape, z, y, PerSample),
            Objective::DlrTargeted(targets) => dlr_targeted(tape, z, y, targets, PerSample),
            Objective::Margin { kappa } => {
                let margin = margin_above(tape, z, y, -kappa)?;
                scale(tape, margin, -1.0)
            }
        }
    }

    /// The gradients of the summed loss of images x on a tape.
    pub fn gradients(
        &self,
        model: &mut dyn Model,
        tape: &Tape,
        x: Var,
        y: &Buffer<i32>,
    ) -> Result<Gradients> {
        if let Objective::CrossEntropy = self {
            return model.gradients(tape, x, Target::Labels(y));
        }
        gradients(tape, x, |tape, x| self.losses(tape, model.logits(tape, x)?, y))
    }

    /// Logits, losses and gradients at x.
    pub fn evaluate(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>) -> Result<Evaluation> {
        let tape = Tape::new(x.device());
        let leaf = tape.leaf(x.clone());
        let forward = x.device().scope(Range::Forward);
        let z = model.logits(&tape, leaf)?;
        let losses = self.losses(&tape, z, y)?;
        let ones = full(x.device(), tape.value(losses).shape(), 1.0)?;
        drop(forward);
        let grad = tape.backward(losses, Some(ones))?.take(leaf);
        let grad = grad.map_or_else(|| Tensor::zeros(x.device(), x.shape()), Ok)?;
        let (logits, losses) = (tape.value(z), tape.value(losses));
        Ok(Evaluation { logits, losses, grad })
    }
}
