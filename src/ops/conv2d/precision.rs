//! The precision of a convolution's products. In bf16 and tf32 both operands are rounded, which tensor cores
//! multiply; products are exact and are summed in float32.

use super::{Conv, Epilogue, Filter};
use crate::ops::batch_norm::ChunkStatistics;
use crate::ops::cast::{round_into, rounded_to_tf32, widen_into, widened};
use crate::ops::conv2d_mma::{self, Packed};
use crate::ops::prelude::*;
use half::bf16;

pub use crate::device::Precision;

impl Precision {
    /// The precision of a convolution with so many channels: tensor cores take multiples of 16; others, such
    /// as the first one, whose input carries the perturbation, multiply in float32.
    pub fn of_channels(self, out_channels: usize, in_channels: usize) -> Precision {
        if out_channels.is_multiple_of(16) && in_channels.is_multiple_of(16) { self } else { Precision::F32 }
    }
}

/// Types of feature maps that convolutions read (`Self`) and write (`Y`): the same, or a float32 image and
/// bf16.
pub trait Convolve<Y: Real = Self>: Real {
    /// conv(x, w) with an epilogue. Past the first `num_valid` images the convolution counts as 0.
    fn forward(
        conv: &Conv,
        x: &Tensor<Self>,
        filter: &Filter,
        epilogue: Epilogue<Y>,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<Tensor<Y>>;

    /// conv(x, w) and, where the kernel computes them on the way, the statistics of its channels.
    fn forward_with_statistics(
        conv: &Conv,
        x: &Tensor<Self>,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<(Tensor<Y>, Option<ChunkStatistics>)> {
        Ok((Self::forward(conv, x, filter, Epilogue::default(), num_valid)?, None))
    }

    /// The gradient of x into `into`, written or (`accumulate`) added; with `input_mask`, the sum is then
    /// zeroed where the bit is 0, which is the gradient through the ReLU that made x. Past the first
    /// `num_valid` images the gradient is 0.
    fn input_grad(
        conv: &Conv,
        grad: &Tensor<Y>,
        filter: &Filter,
        input_mask: Option<&Buffer<u8>>,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<Self>,
        accumulate: bool,
    ) -> Result<()>;

    /// The gradient of w `[Cout,kh,kw,Cin]` into `into`, written or (`accumulate`) added; summed over the
    /// first `num_valid` images.
    fn weight_grad(
        conv: &Conv,
        x: &Tensor<Self>,
        grad: &Tensor<Y>,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()>;
}

/// x as the operand of a product without tensor cores.
fn operand(x: &Tensor, filter: &Filter) -> Result<Tensor> {
    if filter.precision == Precision::Tf32 { rounded_to_tf32(x) } else { Ok(x.clone()) }
}

fn on_tensor_cores<T: Real>(
    conv: &Conv,
    x: &Tensor<T>,
    packed: &Packed<T>,
    epilogue: Epilogue<T>,
    num_valid: Option<&Buffer<i32>>,
) -> Result<Tensor<T>> {
    let mut y = Tensor::uninit(x.device(), &conv.out_shape())?;
    conv2d_mma::forward(conv, x, packed, epilogue, num_valid, y.make_mut()?, None)?;
    Ok(y)
}

fn with_statistics_on_tensor_cores<T: Real>(
    conv: &Conv,
    x: &Tensor<T>,
    packed: &Packed<T>,
    num_valid: Option<&Buffer<i32>>,
) -> Result<(Tensor<T>, Option<ChunkStatistics>)> {
    let mut y = Tensor::uninit(x.device(), &conv.out_shape())?;
    let statistics = conv2d_mma::forward_with_statistics(conv, x, packed, num_valid, y.make_mut()?, None)?;
    Ok((y, Some(statistics)))
}

impl Convolve for f32 {
    fn forward(
        conv: &Conv,
        x: &Tensor,
        filter: &Filter,
        epilogue: Epilogue,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<Tensor> {
        if let Some(packed) = filter.packed_tf32()? {
            return on_tensor_cores(conv, x, packed, epilogue, num_valid);
        }
        super::forward(conv, &operand(x, filter)?, filter, epilogue, num_valid)
    }

    fn forward_with_statistics(
        conv: &Conv,
        x: &Tensor,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<(Tensor, Option<ChunkStatistics>)> {
        match filter.packed_tf32()? {
            Some(packed) => with_statistics_on_tensor_cores(conv, x, packed, num_valid),
            None => Ok((Self::forward(conv, x, filter, Epilogue::default(), num_valid)?, None)),
        }
    }

    fn input_grad(
        conv: &Conv,
        grad: &Tensor,
        filter: &Filter,
        input_mask: Option<&Buffer<u8>>,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        if let Some(packed) = filter.packed_tf32()? {
            return conv2d_mma::input_grad(conv, grad, packed, input_mask, num_valid, into, accumulate, None);
        }
        super::input_grad(conv, &operand(grad, filter)?, filter, input_mask, num_valid, into, accumulate)
    }

    fn weight_grad(
        conv: &Conv,
        x: &Tensor,
        grad: &Tensor,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        if filter.packed_tf32()?.is_some() {
            return conv2d_mma::weight_grad(conv, x, grad, num_valid, into, accumulate, None);
        }
        let (x, grad) = (operand(x, filter)?, operand(grad, filter)?);
        super::weight_grad(conv, &x, &grad, num_valid, into, accumulate)
    }
}

/// The first convolution of a network in bf16.
impl Convolve<bf16> for f32 {
    fn forward(
        conv: &Conv,
        x: &Tensor,
        filter: &Filter,
        epilogue: Epilogue<bf16>,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<Tensor<bf16>> {
        super::forward(conv, &operand(x, filter)?, filter, epilogue, num_valid)
    }

    fn input_grad(
        conv: &Conv,
        grad: &Tensor<bf16>,
        filter: &Filter,
        input_mask: Option<&Buffer<u8>>,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        if conv.narrow(grad.device()) {
            return super::input_grad_narrow(conv, grad, filter, num_valid, into, accumulate);
        }
        super::input_grad(conv, &widened(grad)?, filter, input_mask, num_valid, into, accumulate)
    }

    fn weight_grad(
        conv: &Conv,
        x: &Tensor,
        grad: &Tensor<bf16>,
        _: &Filter,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        super::weight_grad(conv, x, &widened(grad)?, num_valid, into, accumulate)
    }
}

/// Without tensor cores the float32 kernels work on copies: the filter's panels hold rounded weights, and
/// results are rounded as they go back to memory.
impl Convolve for bf16 {
    fn forward(
        conv: &Conv,
        x: &Tensor<bf16>,
        filter: &Filter,
        epilogue: Epilogue<bf16>,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<Tensor<bf16>> {
        if let Some(packed) = filter.packed_bf16()? {
            return on_tensor_cores(conv, x, packed, epilogue, num_valid);
        }
        super::forward(conv, &widened(x)?, filter, epilogue, num_valid)
    }

    fn forward_with_statistics(
        conv: &Conv,
        x: &Tensor<bf16>,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
    ) -> Result<(Tensor<bf16>, Option<ChunkStatistics>)> {
        match filter.packed_bf16()? {
            Some(packed) => with_statistics_on_tensor_cores(conv, x, packed, num_valid),
            None => Ok((Self::forward(conv, x, filter, Epilogue::default(), num_valid)?, None)),
        }
    }

    fn input_grad(
        conv: &Conv,
        grad: &Tensor<bf16>,
        filter: &Filter,
        input_mask: Option<&Buffer<u8>>,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<bf16>,
        accumulate: bool,
    ) -> Result<()> {
        if let Some(packed) = filter.packed_bf16()? {
            return conv2d_mma::input_grad(conv, grad, packed, input_mask, num_valid, into, accumulate, None);
        }
        let mut sum = Buffer::uninit(grad.device(), into.len())?;
        if accumulate {
            widen_into(into, &mut sum, false)?;
        }
        super::input_grad(conv, &widened(grad)?, filter, input_mask, num_valid, &mut sum, accumulate)?;
        round_into(&sum, into, false)
    }

    fn weight_grad(
        conv: &Conv,
        x: &Tensor<bf16>,
        grad: &Tensor<bf16>,
        filter: &Filter,
        num_valid: Option<&Buffer<i32>>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        if filter.packed_bf16()?.is_some() {
            return conv2d_mma::weight_grad(conv, x, grad, num_valid, into, accumulate, None);
        }
        super::weight_grad(conv, &widened(x)?, &widened(grad)?, num_valid, into, accumulate)
    }
}
