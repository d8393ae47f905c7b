//! From counts to time: for each resource of a GPU, the time below which a launch cannot go.
//!
//! These are bounds, no predictions. Each one takes its resource to be busy without a pause and all others to
//! be free; latency, dependences and the start of a launch are left out. A real launch takes longer than the
//! largest of them, often much longer. They are bounds of the PTX, which ptxas may still improve: it removes
//! moves and address arithmetic, so that these are in no bound, and it may fuse a product with a sum.

use crate::counts::{Counts, InstructionCount, Tally, tensor_kind};
use crate::gpu::Gpu;
use crate::instruction::Category;
use crate::lanes::LANES;
use crate::occupancy::Occupancy;
use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// DRAM: each sector that is touched crosses once, from and to empty caches.
    Dram,
    /// L2: the same, and copies and atomics that pass L1 by.
    L2,
    /// The path of L1 and shared memory: the fewest wavefronts that banks allow, and the necessary sectors of
    /// global memory, four at a time.
    L1,
    /// The same with wavefronts as the model counts them and all sectors: an estimate, and in no bound.
    L1Model,
    LoadStore,
    Shuffle,
    Fma,
    Half,
    Double,
    Special,
    Tensor,
    /// Instructions of warps that no assembler can leave out.
    Issue,
    /// All instructions of warps, if each one of PTX were one of the GPU's: an estimate, and in no bound.
    IssueAll,
}

impl Resource {
    /// Whether it is a guess that no bound contains.
    pub fn is_estimate(self) -> bool {
        matches!(self, Resource::L1Model | Resource::IssueAll)
    }

    pub fn name(self) -> &'static str {
        match self {
            Resource::Dram => "DRAM",
            Resource::L2 => "L2 cache",
            Resource::L1 => "L1 and shared memory",
            Resource::L1Model => "L1 and shared, model",
            Resource::LoadStore => "load/store units",
            Resource::Shuffle => "shuffles",
            Resource::Fma => "FMA units",
            Resource::Half => "half units",
            Resource::Double => "double units",
            Resource::Special => "special functions",
            Resource::Tensor => "tensor cores",
            Resource::Issue => "issue slots",
            Resource::IssueAll => "issue slots, all PTX",
        }
    }
}

/// The least time of one resource.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Limit {
    pub resource: Resource,
    pub seconds: f64,
}

/// The bounds of a launch on a GPU.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Bounds {
    /// The longest first; those of 0 are left out.
    pub limits: Vec<Limit>,
    /// The time below which the launch cannot go when its data starts and ends in DRAM, and when the L2 cache
    /// holds it.
    pub cold: f64,
    pub warm: f64,
    /// Blocks of the launch over those that the GPU holds at once; `None` where no block fits.
    pub waves: Option<f64>,
    /// The share of the time that multiprocessors are busy when the one with the most blocks always is.
    pub balance: f64,
}

impl Bounds {
    /// What bounds the launch from empty caches.
    pub fn binding(&self) -> Option<Resource> {
        self.limits.iter().map(|limit| limit.resource).find(|resource| !resource.is_estimate())
    }
}

/// The bounds of a launch.
pub fn bounds(counts: &Counts, gpu: &Gpu, occupancy: Option<&Occupancy>) -> Bounds {
    let limits = gpu.limits();
    let total = &counts.total;
    let of = |category: Category| counts.categories.get(&category).copied().unwrap_or_default();
    // The multiprocessor with the most blocks decides.
    let multiprocessors = gpu.multiprocessors as f64;
    let most = counts.blocks.div_ceil(gpu.multiprocessors as u64) as f64;
    let balance = counts.blocks as f64 / (most * multiprocessors).max(1.0);
    let clocks = |amount: f64, per_clock: u32| {
        if amount == 0.0 {
            0.0
        } else {
            amount / per_clock.max(1) as f64 / multiprocessors / balance / gpu.clock()
        }
    };
    let lanes = |warps: u64, per_clock: u32| clocks(warps as f64 * LANES as f64, per_clock);
    let units = Units::of(&counts.instructions);
    let distinct = (counts.distinct_read + counts.distinct_written) as f64;
    let past_l1 = of(Category::Async).sectors + of(Category::Atomic).sectors;
    let l2 = distinct.max(past_l1 as f64 * 32.0);
    let l2_rate = gpu.l2_per_clock.map(|bytes| bytes as f64 * gpu.clock());
    let tensor = |of: Tensor| {
        let peak = gpu.tensor[of.kind];
        if peak > 0.0 { of.flops / peak / balance } else { 0.0 }
    };
    let l1 =
        |wavefronts: u64, sectors: u64| clocks((wavefronts * 128 + sectors * 32) as f64, limits.l1_bytes);
    let certain = l1(total.wavefronts_merged, total.sectors_least);
    let modelled = l1(total.wavefronts, total.sectors);
    let necessary = units.single.least()
        + units.half.least()
        + units.double.least()
        + units.special
        + units.tensor_warps
        + total.memory_instructions
        + units.shuffles
        + total.barriers;
    let all = [
        (Resource::Dram, distinct / gpu.bandwidth),
        (Resource::L2, l2_rate.map_or(0.0, |rate| l2 / rate)),
        (Resource::L1, certain),
        (Resource::L1Model, if modelled > certain { modelled } else { 0.0 }),
        (Resource::LoadStore, lanes(total.memory_instructions, limits.load_store)),
        (Resource::Shuffle, lanes(units.shuffles, limits.shuffle)),
        (Resource::Fma, lanes(units.single.least(), limits.fp32)),
        (Resource::Half, lanes(units.half.least(), limits.half2)),
        (Resource::Double, lanes(units.double.least(), limits.fp64)),
        (Resource::Special, lanes(units.special, limits.special)),
        (Resource::Tensor, units.tensor.into_iter().map(tensor).sum()),
        (Resource::Issue, clocks(necessary as f64, limits.issued)),
        (Resource::IssueAll, clocks(total.warp_instructions as f64, limits.issued)),
    ];
    let mut limits: Vec<Limit> = all
        .into_iter()
        .filter(|&(_, seconds)| seconds > 0.0)
        .map(|(resource, seconds)| Limit { resource, seconds })
        .collect();
    limits.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let longest = |counts: fn(Resource) -> bool| {
        let counted = limits.iter().filter(|limit| !limit.resource.is_estimate() && counts(limit.resource));
        counted.map(|limit| limit.seconds).fold(0.0, f64::max)
    };
    let (cold, warm) = (longest(|_| true), longest(|resource| resource != Resource::Dram));
    let held = occupancy.map_or(0, |occupancy| occupancy.blocks) as f64 * multiprocessors;
    let waves = (held > 0.0).then(|| counts.blocks as f64 / held);
    Bounds { limits, cold, warm, waves, balance }
}

#[derive(Clone, Copy)]
struct Tensor {
    /// The index in `Gpu::tensor`.
    kind: usize,
    flops: f64,
}

/// Instructions of warps for each unit.
#[derive(Default)]
struct Units {
    single: Arithmetic,
    half: Arithmetic,
    double: Arithmetic,
    special: u64,
    shuffles: u64,
    tensor_warps: u64,
    tensor: Vec<Tensor>,
}

impl Units {
    fn of(instructions: &[InstructionCount]) -> Units {
        let mut sum = Units::default();
        for InstructionCount { opcode, warps, lanes, category, flops, .. } in instructions {
            match category {
                Category::Fma | Category::Float if *flops > 0 && opcode.ends_with(".f64") => {
                    sum.double.add(opcode, *warps);
                }
                Category::Fma | Category::Float if *flops > 0 => sum.single.add(opcode, *warps),
                Category::Half => sum.half.add(opcode, *warps),
                Category::Special => sum.special += warps,
                Category::Shuffle if opcode.starts_with("shfl") => sum.shuffles += warps,
                Category::Tensor => {
                    sum.tensor_warps += warps;
                    if let Some(kind) = tensor_kind(opcode) {
                        sum.tensor.push(Tensor { kind, flops: *lanes as f64 * *flops as f64 });
                    }
                }
                _ => {}
            }
        }
        sum
    }
}

/// Instructions of one precision.
#[derive(Default)]
struct Arithmetic {
    fma: u64,
    sums: u64,
    products: u64,
}

impl Arithmetic {
    fn add(&mut self, opcode: &str, warps: u64) {
        match opcode.split('.').next() {
            Some("fma" | "mad") => self.fma += warps,
            Some("mul") => self.products += warps,
            _ => self.sums += warps,
        }
    }

    /// The fewest, when as many products and sums as there are become FMAs.
    fn least(&self) -> u64 {
        self.fma + self.sums.max(self.products)
    }
}

/// The share of `least` in `asked`, in percent; 100 where nothing was asked.
pub fn efficiency(least: u64, asked: u64) -> f64 {
    if asked == 0 { 100.0 } else { 100.0 * least as f64 / asked as f64 }
}

impl Tally {
    /// Active lanes of an instruction, in percent.
    pub fn active_lanes(&self) -> f64 {
        efficiency(self.thread_instructions, self.warp_instructions * LANES as u64)
    }
}
