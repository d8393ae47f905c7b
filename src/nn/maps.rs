//! Feature maps of either type, as they go from layer to layer.

use crate::error::{Error, Result};
use crate::ops::cast::widened;
use crate::ops::global_avg_pool::global_avg_pool;
use crate::tape::{Gradients, NodeId, Tape, Var};
use crate::tensor::Tensor;
use half::bf16;

/// Feature maps `[N,H,W,C]`: float32, or bf16 from the first convolution of a network of that precision on.
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
    /// The mean over the pixels, `[N,C]`.
    pub fn pooled(self, tape: &Tape) -> Result<Var> {
        match self {
            Maps::F32(x) => global_avg_pool(tape, x),
            Maps::Bf16(x) => global_avg_pool(tape, x),
        }
    }

    /// Lets go of maps that no layer reads any more, unless they are `of` these, too.
    pub fn release(self, tape: &Tape, of: &[Maps]) {
        if !of.iter().any(|other| other.node() == self.node()) {
            tape.release(self.node());
        }
    }

    fn node(self) -> NodeId {
        match self {
            Maps::F32(x) => x.into(),
            Maps::Bf16(x) => x.into(),
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
