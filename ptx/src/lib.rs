//! A machine for NVIDIA's PTX: parses what NVRTC emits, runs it on the CPU, checks it and counts its costs.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = ptx::Module::parse(&std::fs::read_to_string("add.ptx")?)?;
//! let mut memory = ptx::Memory::new(true);
//! let x = memory.allocate(4096).ok_or("no memory")?;
//! let params = x.to_le_bytes();
//! let launch = ptx::Launch { grid: [1; 3], block: [256, 1, 1], dynamic_shared: 0, params: &params };
//! let counts = ptx::run(&module, "kernel", &launch, &mut memory, &ptx::Options::default())?;
//! println!("{} instructions of warps", counts.total.warp_instructions);
//! # Ok(()) }
//! ```
//!
//! The way of an instruction: `text` (words) → `body` (declarations) → `opcode` (what it does) → `flow`
//! (where lanes meet, rows of registers) → `warp` (lockstep), which calls the table in `arith` or
//! `access` (memory).

// Loops over 32 lanes by index: that is what the compiler vectorises. Comparisons with NaN in PTX's own
// terms.
#![allow(clippy::needless_range_loop, clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]
// A fault ends the launch: its size does not matter.
#![allow(clippy::result_large_err)]

mod access;
mod arith;
mod asynchronous;
mod banks;
mod block;
mod body;
pub mod bound;
mod check;
mod counts;
pub mod cubin;
mod fault;
mod flow;
mod footprint;
mod gather;
pub mod gpu;
mod instruction;
mod lanes;
mod matrix;
mod memory;
mod module;
pub mod occupancy;
mod opcode;
mod opcode_memory;
mod opcode_warp;
mod run;
mod sample;
mod shadow;
mod specials;
mod text;
mod transfer;
mod unwritten;
mod vote;
mod warp;

pub use counts::{Counts, InstructionCount, LineCount, Tally};
pub use fault::{Fault, FaultKind, ParseError, Party, Space, Touch};
pub use instruction::{Category, Source};
pub use memory::Memory;
pub use module::{Kernel, Module, Param};
pub use run::{Checks, Launch, Options, Order, run};
