//! Names that every operation uses.

pub use crate::device::{Buffer, Device, Real, kernels};
pub use crate::error::{Error, Result};
pub use crate::tape::{Sink, Tape, Var};
pub use crate::tensor::Tensor;

/// The grid of an element-wise kernel over n elements (`each_vec` in `kernels/lib/common.cuh`).
pub fn elementwise(device: &Device, n: usize) -> usize {
    n.div_ceil(kernels::ELEMENTWISE_CHUNK.on(device))
}

/// Bytes of a bit mask of n elements; whole 16-bit words.
pub fn mask_bytes(n: usize) -> usize {
    n.div_ceil(16) * 2
}

/// An error that names `op` unless both shapes are equal.
pub fn same_shape<A: Real, B: Real>(op: &'static str, a: &Tensor<A>, b: &Tensor<B>) -> Result<()> {
    if a.shape() == b.shape() {
        Ok(())
    } else {
        Err(Error::Shape { op, expected: format!("{:?} for both", a.shape()), got: b.shape().to_vec() })
    }
}
