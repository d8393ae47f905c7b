//! Adversarial training down to the kernel.
//!
//! Every numeric operation is a hand-written CUDA kernel of `kernels/`, which runs on an NVIDIA GPU and, from
//! the same source, on the CPU. `docs/architecture.md` shows how the modules build on each other: `cli` ->
//! `train`, `eval` -> `method` -> `attack` -> `nn` -> `ops` -> `tape`, `tensor` -> `device`.
#![deny(unsafe_code)]

pub mod attack;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod inspect;
pub mod method;
pub mod nn;
pub mod numeric;
pub mod ops;
pub mod profile;
pub mod report;
pub mod rng;
pub mod run;
pub mod study;
pub mod tape;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
