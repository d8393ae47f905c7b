//! Networks: parameters by PyTorch name, layers, and the architectures that adversarial training papers use.
//!
//! The batch-norm mode is an argument of every forward pass, never a state of the network. In
//! [`BnMode::Eval`] with frozen weights (inside an attack, and in evaluation) batch norms are folded into the
//! convolutions before them.

pub mod families;
mod init;
mod layers;
mod maps;
mod net;
mod params;
mod residual;

pub use crate::ops::batch_norm::BnMode;
pub use crate::ops::conv2d::Precision;
pub use crate::ops::valid::Rows;
pub use families::{Arch, architectures};
pub use layers::Builder;
pub use maps::Maps;
pub use net::{Net, Shape};
pub use params::{Leaves, Param, ParamId, Params, Role};
pub use residual::Size;
