//! One module per file of `kernels/`, with its PER_DEVICE constants and a typed launcher per kernel. Written
//! by `build.rs`.
//!
//! A launcher has the kernel's name without the file's, and the kernel's parameters: of `kl_forward` in
//! `kl.cu` it is `kl::forward(device, grid, u, v, loss, n, k)`. More than eight parameters are the fields of
//! a struct: `kl::BackwardFirst { grad_out, u, .. }.launch(device, grid)`.
//!
//! | C | Rust |
//! |---|---|
//! | `int` | `usize`; 2^31 and more is an error |
//! | `signed int` | `i32` |
//! | `bool`, `float`, `uint32_t`, `uint64_t` | `bool`, `f32`, `u32`, `u64` |
//! | `const float*` | `&Buffer<f32>`, and so a `&Tensor` |
//! | `float*` | `&mut` [`Output`]: a buffer or a tensor |
//! | `bf16` for `float` | `bf16` for `f32` |
//! | `T` for `float` | the launcher is generic over [`Real`]; there are two kernels, one of them `_bf16` |
//! | other pointers | `&Buffer<_>`, `&mut Buffer<_>` |
//! | `NULLABLE` pointers | an `Option` of them |

use super::{Arg, Buffer, Device, Element, Grid, IntoArg, Kernel, PerDevice, Real, Source};
use crate::error::{Error, Result};
use half::bf16;

/// Numbers that a kernel may write. A tensor that shares its memory gets a copy of its own first.
pub trait Output<T: Element = f32> {
    fn output(&mut self) -> Result<&mut Buffer<T>>;
}

impl<T: Element> Output<T> for Buffer<T> {
    fn output(&mut self) -> Result<&mut Buffer<T>> {
        Ok(self)
    }
}

/// A size as a kernel argument; kernels count in 32 bits.
fn narrowed(kernel: &Kernel, parameter: &str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::Shape {
        op: kernel.name,
        expected: format!("{parameter} below 2^31"),
        got: vec![value],
    })
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels of `kernels/conformance`, which test the devices and are no part of the program.
#[cfg(test)]
pub mod conformance {
    use super::*;

    #[link(name = "saddle_conformance", kind = "static")]
    unsafe extern "C" {}

    include!(concat!(env!("OUT_DIR"), "/conformance.rs"));
}
