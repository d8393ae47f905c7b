//! The CUDA driver in software: a library with the driver's C functions, strict where NVIDIA documents
//! a rule, over the PTX machine of crate `ptx`.
//!
//! ```text
//! api/       the C functions, one file per chapter of NVIDIA's manual; `calls!` wraps each of them
//! call       what every call goes through: injected errors, initialisation, the current context, faults
//! driver     all state of the process
//! stream     a queue and the thread that works it off, late
//! work       what a queue holds, and how it runs
//! capture    the rules of stream capture
//! nvtx       a tool that hears the ranges of a program
//! ```
//!
//! Handles are numbers from tables and are never dereferenced: a wrong one is an error, not a crash.
//! docs/software-gpu.md says what is modelled and what is not.

#[macro_use]
mod call;
mod api;
mod capture;
mod codes;
mod context;
mod device;
mod driver;
mod handles;
mod launch;
mod memory;
mod nvtx;
mod options;
mod report;
mod stream;
mod work;
