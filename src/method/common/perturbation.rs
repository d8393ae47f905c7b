//! Images that keep a part of their perturbation.

use crate::error::Result;
use crate::ops::interpolate::interpolate;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// `x + factor * (x' - x)`.
pub fn reduced(x: &Tensor, x_adv: &Tensor, factor: f32) -> Result<Tensor> {
    let tape = Tape::new(x.device());
    let point = interpolate(&tape, tape.constant(x_adv.clone()), tape.constant(x.clone()), factor)?;
    Ok(tape.value(point))
}
