//! Feature maps of either type, as they go from layer to layer.

use super::layers::Pass;
use crate::error::{Error, Result};
use crate::ops::cast::{to_bf16, widened};
use crate::ops::conv2d::Precision;
use crate::ops::global_avg_pool::global_avg_pool;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use half::bf16;

/// Feature maps `[N,H,W,C]`: float32, or bf16 after the stem of a network of that precision.
#[derive(Clone, Copy, Debug)]
pub enum Maps {
    F32(Var),
    Bf16(Var<bf16>),
}

/// Evaluates the same expression for feature maps of either type: `each_type!(maps, |x| relu(tape, x)?)`.
macro_rules! each_type {
    ($maps:expr, |$x:ident| $body:expr) => {
        match $maps {
            $crate::nn::maps::Maps::F32($x) => $crate::nn::maps::Maps::F32($body),
            $crate::nn::maps::Maps::Bf16($x) => $crate::nn::maps::Maps::Bf16($body),
        }
    };
}
pub(super) use each_type;

impl Maps {
    /// The maps in the type of the pass's precision.
    pub fn of_precision(self, pass: &Pass) -> Result<Maps> {
        match self {
            Maps::F32(x) if pass.params.precision() == Precision::Bf16 => {
                to_bf16(pass.tape, x).map(Maps::Bf16)
            }
            same => Ok(same),
        }
    }

    /// The mean over the pixels, `[N,C]`.
    pub fn pooled(self, tape: &Tape) -> Result<Var> {
        match self {
            Maps::F32(x) => global_avg_pool(tape, x),
            Maps::Bf16(x) => global_avg_pool(tape, x),
        }
    }

    /// Keeps the gradient of the maps.
    pub fn retain_grad(self, tape: &Tape) {
        match self {
            Maps::F32(x) => tape.retain_grad(x),
            Maps::Bf16(x) => tape.retain_grad(x),
        }
    }

    /// Their gradient, if there is one, in float32.
    pub fn gradient(self, gradients: &Gradients) -> Result<Option<Vec<f32>>> {
        match self {
            Maps::F32(x) => gradients.get(x).map(Tensor::to_vec).transpose(),
            Maps::Bf16(x) => gradients.get(x).map(|gradient| widened(gradient)?.to_vec()).transpose(),
        }
    }

    pub(super) fn f32(self) -> Result<Var> {
        match self {
            Maps::F32(x) => Ok(x),
            Maps::Bf16(_) => Err(mixed()),
        }
    }

    pub(super) fn bf16(self) -> Result<Var<bf16>> {
        match self {
            Maps::Bf16(x) => Ok(x),
            Maps::F32(_) => Err(mixed()),
        }
    }
}

fn mixed() -> Error {
    Error::Internal { what: "a layer got feature maps of float32 and of bf16".into() }
}
