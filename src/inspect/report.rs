//! What was counted, and what follows from it: the record of `saddle inspect`.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::source::SourceFile;
use crate::device::LaunchCost;
use crate::error::{Error, Result};
use crate::run::provenance::Provenance;
use ptx::bound::{Bounds, bounds};
use ptx::cubin::Resources;
use ptx::gpu::Gpu;
use ptx::occupancy::{Demand, Occupancy};
use ptx::{Category, Tally};

/// An operation, its launches, and the lines of their sources.
#[derive(Clone, Serialize)]
pub struct Report {
    pub what: String,
    pub operation: &'static str,
    pub detail: String,
    pub gpu: &'static Gpu,
    /// What ptxas compiled for.
    pub arch: String,
    /// The most blocks of a launch that ran; `None`: all, and values were computed.
    pub blocks: Option<u64>,
    /// The sum of the bounds of all launches, in seconds: with data in DRAM, and in the L2 cache.
    pub cold: f64,
    pub warm: f64,
    /// Each different launch; the longest bounds first.
    pub kernels: Vec<KernelReport>,
    pub lines: Vec<SourceFile>,
    pub provenance: Provenance,
}

/// A different launch. Counts and bounds are of one launch, all its blocks.
#[derive(Clone, Serialize)]
pub struct KernelReport {
    pub kernel: &'static str,
    pub file: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// How often it was launched.
    pub times: u64,
    pub blocks: u64,
    /// The blocks that ran, from which the counts of all are estimated.
    pub counted: u64,
    pub registers: u32,
    /// Bytes of a thread in local memory: arrays and spilled registers.
    pub stack: u32,
    pub static_shared: u32,
    pub dynamic_shared: u32,
    pub occupancy: Occupancy,
    pub total: Tally,
    pub categories: BTreeMap<Category, Tally>,
    /// The most bytes of asynchronous copies under way in a block.
    pub async_in_flight: u64,
    pub distinct_read: u64,
    pub distinct_written: u64,
    pub bounds: Bounds,
}

impl KernelReport {
    /// `None` for a launch of which no block was counted. Errors: the cubins lack the kernel.
    pub(super) fn of(
        cost: &LaunchCost,
        resources: &HashMap<String, Resources>,
        gpu: &Gpu,
    ) -> Result<Option<KernelReport>> {
        let Some(counts) = &cost.counts else { return Ok(None) };
        let found = resources.get(cost.kernel.name);
        let Resources { registers, static_shared, stack, .. } = found.cloned().ok_or_else(|| {
            Error::Internal { what: format!("{} is not in the cubin of its source", cost.kernel.name) }
        })?;
        let dynamic_shared = counts.dynamic_shared as u32;
        let demand =
            Demand { threads: counts.threads_per_block, registers, shared: static_shared + dynamic_shared };
        let occupancy = Occupancy::of(demand, &gpu.limits());
        Ok(Some(KernelReport {
            kernel: cost.kernel.name,
            file: cost.kernel.source.file,
            grid: cost.grid,
            threads: counts.threads_per_block,
            times: cost.times,
            blocks: counts.blocks,
            counted: counts.counted,
            registers,
            stack,
            static_shared,
            dynamic_shared,
            occupancy,
            bounds: bounds(counts, gpu, Some(&occupancy)),
            total: counts.total,
            categories: counts.categories.clone(),
            async_in_flight: counts.async_in_flight,
            distinct_read: counts.distinct_read,
            distinct_written: counts.distinct_written,
        }))
    }

    /// The bound of all its launches, with data in DRAM.
    pub fn all_cold(&self) -> f64 {
        self.bounds.cold * self.times as f64
    }

    /// The same with data in the L2 cache.
    pub fn all_warm(&self) -> f64 {
        self.bounds.warm * self.times as f64
    }
}
