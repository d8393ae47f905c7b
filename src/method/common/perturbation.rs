//! Images that keep a part of their perturbation.

use crate::error::Result;
use crate::ops::axpby::axpby;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// `x + factor * (x' - x)`.
pub fn reduced(x: &Tensor, x_adv: &Tensor, factor: f32) -> Result<Tensor> {
    let tape = Tape::new(x.device());
    let (x_adv, x) = (tape.constant(x_adv.clone()), tape.constant(x.clone()));
    let point = axpby(&tape, x_adv, factor, x, 1.0 - factor)?;
    Ok(tape.value(point))
}
