//! What attacks make larger, and its gradient in the image.

use super::Model;
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::dlr::{dlr, dlr_targeted};
use crate::ops::fill::{full, scale};
use crate::ops::margin::margin_above;
use crate::ops::reduce::Reduction::PerSample;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

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

/// One forward and one backward pass.
pub struct Pass {
    /// `[N,K]`.
    pub logits: Tensor,
    /// `[N]`.
    pub losses: Tensor,
    /// Of each image's loss in that image.
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

    /// Logits, losses and gradients at x.
    pub fn pass(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>) -> Result<Pass> {
        let tape = Tape::new(x.device());
        let leaf = tape.leaf(x.clone());
        let z = model.logits(&tape, leaf)?;
        let losses = self.losses(&tape, z, y)?;
        let ones = full(x.device(), &[y.len()], 1.0)?;
        let grad = tape.backward(losses, Some(ones))?.take(leaf);
        // Logits that do not depend on the image have no gradient.
        let grad = grad.map_or_else(|| Tensor::zeros(x.device(), x.shape()), Ok)?;
        Ok(Pass { logits: tape.value(z), losses: tape.value(losses), grad })
    }
}

/// The logits `[N,K]` of images, without a gradient.
pub fn logits(model: &mut dyn Model, x: &Tensor) -> Result<Tensor> {
    let tape = Tape::new(x.device());
    let x = tape.constant(x.clone());
    let z = model.logits(&tape, x)?;
    Ok(tape.value(z))
}
