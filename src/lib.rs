//! Adversarial training down to the kernel.
#![deny(unsafe_code)]
pub mod error;
pub use error::{Error, Result};
