//! Occupancy: how many blocks of a kernel a multiprocessor holds at once, and what keeps it from holding
//! more.
//! The rules are those of NVIDIA's occupancy calculator.

use crate::gpu::Limits;
use serde::Serialize;

/// What a block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Static and dynamic shared memory in bytes.
    pub shared: u32,
}

/// What keeps a multiprocessor from holding one block more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limiter {
    Registers,
    SharedMemory,
    /// The warps that a multiprocessor holds.
    Warps,
    /// The blocks that it holds.
    Blocks,
}

impl Limiter {
    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Limiter::Registers => "registers",
            Limiter::SharedMemory => "shared memory",
            Limiter::Warps => "warps",
            Limiter::Blocks => "blocks",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Occupancy {
    /// Blocks on a multiprocessor at once; 0 where not even one fits.
    pub blocks: u32,
    pub warps: u32,
    /// The share of the warps that a multiprocessor could hold.
    pub share: f64,
    pub limiter: Limiter,
}

const LANES: u32 = 32;
/// Registers are given to a warp in units of this many.
const REGISTERS: u32 = 256;
/// Each scheduler has its own part of the register file, and a warp stays with one.
const SCHEDULERS: u32 = 4;

impl Occupancy {
    pub fn of(demand: Demand, limits: &Limits) -> Occupancy {
        let warps = demand.threads.div_ceil(LANES).max(1);
        let of_a_warp = (demand.registers.max(1) * LANES).next_multiple_of(REGISTERS);
        let warps_by_registers = limits.registers / SCHEDULERS / of_a_warp * SCHEDULERS;
        let shared = (demand.shared + limits.shared_reserved).next_multiple_of(limits.shared_unit);
        let by_shared = match demand.shared > limits.shared_of_block {
            true => 0,
            // A kernel without shared memory still takes what the system reserves.
            false => limits.shared.checked_div(shared).unwrap_or(u32::MAX),
        };
        let candidates = [
            (limits.warps / warps, Limiter::Warps),
            (limits.blocks, Limiter::Blocks),
            (warps_by_registers / warps, Limiter::Registers),
            (by_shared, Limiter::SharedMemory),
        ];
        // The first of equals: the warps are full before registers are short.
        let (blocks, limiter) =
            candidates.into_iter().min_by_key(|&(blocks, _)| blocks).unwrap_or((0, Limiter::Blocks));
        let held = blocks * warps;
        Occupancy { blocks, warps: held, share: held as f64 / limits.warps as f64, limiter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu;

    fn on(name: &str, threads: u32, registers: u32, shared: u32) -> (u32, u32, Limiter) {
        let limits = gpu::find(name).unwrap().limits();
        let Occupancy { blocks, warps, limiter, .. } =
            Occupancy::of(Demand { threads, registers, shared }, &limits);
        (blocks, warps, limiter)
    }

    /// The example of the CUDA C++ Best Practices Guide (section "Calculating Occupancy"), for 65,536
    /// registers and 2,048 threads: 37 registers give 12 blocks of 128 threads, which is 75 %, and 4 blocks
    /// of 320 threads, which is 63 %; 32 registers are the most for full occupancy.
    #[test]
    fn the_best_practices_guide_agrees() {
        assert_eq!(on("a100-80gb", 128, 37, 0), (12, 48, Limiter::Registers));
        assert_eq!(on("a100-80gb", 320, 37, 0), (4, 40, Limiter::Registers));
        assert_eq!(on("a100-80gb", 256, 32, 0), (8, 64, Limiter::Warps));
        assert_eq!(on("a100-80gb", 256, 33, 0).1, 48);
    }

    /// From the tables of the CUDA C++ Programming Guide: 32, 24 or 16 blocks; 164 KiB for blocks on 8.0, of
    /// which the system takes 1 KiB a block, so that two blocks of 81 KiB fit and two of 82 KiB do not;
    /// 64 KiB on 7.5, all of it for one block.
    #[test]
    fn blocks_and_shared_memory_limit() {
        assert_eq!(on("h200", 32, 16, 0), (32, 32, Limiter::Blocks));
        assert_eq!(on("rtx4090", 32, 16, 0), (24, 24, Limiter::Blocks));
        assert_eq!(on("t4", 32, 16, 0), (16, 16, Limiter::Blocks));
        assert_eq!(on("a100-80gb", 128, 32, 81 << 10), (2, 8, Limiter::SharedMemory));
        assert_eq!(on("a100-80gb", 128, 32, 82 << 10), (1, 4, Limiter::SharedMemory));
        assert_eq!(on("h200", 128, 32, 227 << 10), (1, 4, Limiter::SharedMemory));
        assert_eq!(on("h200", 128, 32, (227 << 10) + 1).0, 0);
        assert_eq!(on("t4", 128, 32, 64 << 10), (1, 4, Limiter::SharedMemory));
        assert_eq!(on("t4", 1024, 64, 0), (1, 32, Limiter::Warps));
        assert_eq!(on("h200", 1024, 65, 0).0, 0, "a block of 1024 threads has 64 registers a thread");
    }
}
