//! Adversarial training down to the kernel.
//!
//! An arrow means "may use": cli -> {train, eval, report} -> method -> attack -> nn -> ops -> {tape, tensor} -> device; data -> tensor.
#![deny(unsafe_code)]


pub mod device;
pub mod error;
pub mod ops;
pub mod tape;
pub mod tensor;

pub use error::{Error, Result};
