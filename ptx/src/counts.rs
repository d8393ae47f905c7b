//! What a launch cost: per instruction, summed to source lines, categories and the whole.

use crate::access::Target;
use crate::banks::{WAVEFRONT, Wavefronts};
use crate::fault::Space;
use crate::instruction::{Category, Description, Source};
use crate::lanes::{LANES, lanes};
use crate::module::{Kernel, Module};
use crate::run::Launch;
use serde::Serialize;
use std::collections::BTreeMap;

/// The counts of one instruction.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Raw {
    pub warps: u64,
    pub lanes: u64,
    pub sectors: u64,
    pub sectors_least: u64,
    pub wavefronts: u64,
    pub wavefronts_least: u64,
    pub wavefronts_merged: u64,
    pub global_bytes: u64,
    pub shared_bytes: u64,
    pub local_bytes: u64,
    pub async_bytes: u64,
}

/// A sector of global memory.
const SECTOR: usize = 32;

impl Raw {
    #[inline(always)]
    pub fn issue(&mut self, mask: u32) {
        self.warps += 1;
        self.lanes += mask.count_ones() as u64;
    }

    /// Each count through `f`, with that of another at the same place.
    fn combine(&mut self, other: &Raw, f: impl Fn(u64, u64) -> u64) {
        macro_rules! each {
            ($($field:ident)*) => { $(self.$field = f(self.$field, other.$field);)* };
        }
        each!(warps lanes sectors sectors_least wavefronts wavefronts_least wavefronts_merged global_bytes
            shared_bytes local_bytes async_bytes);
    }

    pub fn add(&mut self, other: &Raw) {
        self.combine(other, |a, b| a + b);
    }

    pub fn times(mut self, factor: f64) -> Raw {
        let own = self;
        self.combine(&own, |a, _| (a as f64 * factor).round() as u64);
        self
    }

    /// One access of `bytes` a lane.
    pub fn access(&mut self, target: &Target, mask: u32, bytes: usize) {
        let total = mask.count_ones() as u64 * bytes as u64;
        match target.space {
            Space::Global => {
                self.global_bytes += total;
                let (sectors, least) = if target.contiguous {
                    let (start, end) = (target.offsets[0], target.offsets[0] + LANES * bytes);
                    (end.div_ceil(SECTOR) - start / SECTOR, (LANES * bytes).div_ceil(SECTOR))
                } else {
                    let sectors = distinct(&target.offsets, mask, SECTOR);
                    (sectors, (distinct(&target.offsets, mask, bytes) * bytes).div_ceil(SECTOR))
                };
                self.sectors += sectors as u64;
                self.sectors_least += least as u64;
            }
            Space::Shared => {
                self.shared_bytes += total;
                let found = if target.contiguous && bytes >= 4 {
                    let all = LANES * bytes / WAVEFRONT;
                    Wavefronts { model: all, least: all, merged: all }
                } else {
                    let distinct = distinct(&target.offsets, mask, bytes) * bytes;
                    Wavefronts::of(&target.offsets, mask, bytes, distinct)
                };
                self.wavefronts += found.model as u64;
                self.wavefronts_least += found.least as u64;
                self.wavefronts_merged += found.merged as u64;
            }
            Space::Local => self.local_bytes += total,
            _ => {}
        }
    }
}

/// The number of different units that the lanes start in.
fn distinct(offsets: &[usize; LANES], mask: u32, unit: usize) -> usize {
    let shift = unit.trailing_zeros();
    let mut sorted = [0; LANES];
    let mut n = 0;
    let mut ordered = true;
    for lane in lanes(mask) {
        sorted[n] = offsets[lane] >> shift;
        ordered &= n == 0 || sorted[n - 1] <= sorted[n];
        n += 1;
    }
    let sorted = &mut sorted[..n];
    if !ordered {
        sorted.sort_unstable();
    }
    sorted.windows(2).filter(|pair| pair[0] != pair[1]).count() + (n > 0) as usize
}

/// The category of an opcode and the floating-point operations of a lane.
pub fn classify(opcode: &str) -> (Category, u32) {
    let parts: Vec<&str> = opcode.split('.').collect();
    let kind = parts.last().copied().unwrap_or("");
    let wide = if kind.ends_with("x2") { 2 } else { 1 };
    let half = kind.contains("f16");
    let float = half || kind == "f32" || kind == "f64";
    match parts[0] {
        "mma" | "wgmma" => {
            let shape = parts.iter().find_map(|part| {
                let (n, rest) = part.strip_prefix('m')?.split_once('n')?;
                let (m, k) = rest.split_once('k')?;
                Some(n.parse::<u32>().ok()? * m.parse::<u32>().ok()? * k.parse::<u32>().ok()?)
            });
            (Category::Tensor, shape.unwrap_or(0) * 2 / LANES as u32)
        }
        "fma" | "mad" if half => (Category::Half, 2 * wide),
        "fma" | "mad" if float => (Category::Fma, 2),
        "add" | "sub" | "mul" if half => (Category::Half, wide),
        "add" | "sub" | "mul" if float => (Category::Float, 1),
        "div" | "rcp" | "sqrt" if float => (Category::Special, 1),
        "ex2" | "lg2" | "rsqrt" | "sin" | "cos" | "tanh" => (Category::Special, 1),
        "setp" | "not" | "and" | "or" | "xor" if kind == "pred" || parts[0] == "setp" => {
            (Category::Predicate, 0)
        }
        "min" | "max" | "abs" | "neg" if float => (Category::Float, 0),
        "cvt" => (Category::Convert, 0),
        "mov" | "cvta" | "selp" | "prmt" => (Category::Move, 0),
        "bra" | "ret" | "exit" => (Category::Branch, 0),
        "ld" | "ldu" | "ldmatrix" => (Category::Load, 0),
        "st" | "stmatrix" => (Category::Store, 0),
        "atom" | "red" => (Category::Atomic, 0),
        "cp" => (Category::Async, 0),
        "bar" | "barrier" => (Category::Barrier, 0),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => (Category::Shuffle, 0),
        "membar" | "fence" | "trap" | "prefetch" | "nanosleep" => (Category::Other, 0),
        _ => (Category::Integer, 0),
    }
}

/// Whether an instruction goes to the load/store units: parameters and constants come from elsewhere.
pub fn reaches_memory(opcode: &str) -> bool {
    let mut parts = opcode.split('.');
    let known =
        matches!(parts.next(), Some("ld" | "ldu" | "ldmatrix" | "st" | "stmatrix" | "atom" | "red" | "cp"));
    known
        && !parts
            .any(|part| matches!(part, "param" | "const") || part.ends_with("_group") || part == "wait_all")
}

/// The place in `Gpu::tensor` of the type that a tensor instruction multiplies, when it adds up in f32.
pub(crate) fn tensor_kind(opcode: &str) -> Option<usize> {
    let types: Vec<&str> = opcode.rsplit('.').take(4).collect();
    match types[..] {
        ["f32", b, a, "f32"] if a == b => ["tf32", "bf16", "f16"].iter().position(|kind| *kind == a),
        _ => None,
    }
}

/// Sums over instructions.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub warp_instructions: u64,
    pub thread_instructions: u64,
    /// Floating-point operations: of FMA, other single and double precision, special, packed halves, tensor.
    pub flops_fma: u64,
    pub flops_float: u64,
    pub flops_special: u64,
    pub flops_half: u64,
    pub flops_tensor: u64,
    pub global_loaded: u64,
    pub global_stored: u64,
    pub shared_bytes: u64,
    pub local_bytes: u64,
    pub async_bytes: u64,
    /// 32-byte sectors of global memory asked for, and the fewest that could hold the same bytes.
    pub sectors: u64,
    pub sectors_least: u64,
    /// Wavefronts of shared memory by a model of its banks, in which 8 bytes of a lane take two phases of
    /// half a warp, and 16 bytes four; the fewest in this model for as many bytes; and how many there are at
    /// least if the hardware needs no phases.
    pub wavefronts: u64,
    pub wavefronts_least: u64,
    pub wavefronts_merged: u64,
    /// Barriers reached, each by one warp.
    pub barriers: u64,
    /// Instructions of warps that the load/store units get.
    pub memory_instructions: u64,
}

impl Tally {
    /// The counts of one instruction.
    fn of(raw: &Raw, description: &Description) -> Tally {
        let category = description.category;
        let flops = |of: Category| if category == of { raw.lanes * description.flops as u64 } else { 0 };
        let when = |is: bool, count: u64| if is { count } else { 0 };
        let stores = category == Category::Store;
        Tally {
            warp_instructions: raw.warps,
            thread_instructions: raw.lanes,
            flops_fma: flops(Category::Fma),
            flops_float: flops(Category::Float),
            flops_special: flops(Category::Special),
            flops_half: flops(Category::Half),
            flops_tensor: flops(Category::Tensor),
            global_loaded: when(!stores, raw.global_bytes),
            global_stored: when(stores, raw.global_bytes),
            shared_bytes: raw.shared_bytes,
            local_bytes: raw.local_bytes,
            async_bytes: raw.async_bytes,
            sectors: raw.sectors,
            sectors_least: raw.sectors_least,
            wavefronts: raw.wavefronts,
            wavefronts_least: raw.wavefronts_least,
            wavefronts_merged: raw.wavefronts_merged,
            barriers: when(category == Category::Barrier, raw.warps),
            memory_instructions: when(description.reaches_memory, raw.warps),
        }
    }

    /// Each count through `f`, with that of another tally at the same place.
    fn combine(&mut self, other: &Tally, f: impl Fn(u64, u64) -> u64) {
        macro_rules! each {
            ($($field:ident)*) => { $(self.$field = f(self.$field, other.$field);)* };
        }
        each!(warp_instructions thread_instructions flops_fma flops_float flops_special flops_half
            flops_tensor global_loaded global_stored shared_bytes local_bytes async_bytes sectors
            sectors_least wavefronts wavefronts_least wavefronts_merged barriers memory_instructions);
    }

    pub fn add(&mut self, other: &Tally) {
        self.combine(other, |a, b| a + b);
    }

    pub fn times(mut self, factor: u64) -> Tally {
        let own = self;
        self.combine(&own, |a, _| a * factor);
        self
    }

    /// Floating-point operations of all units.
    pub fn flops(&self) -> u64 {
        self.flops_fma + self.flops_float + self.flops_special + self.flops_half + self.flops_tensor
    }
}

/// One PTX instruction; `warps` 0 where it never ran.
#[derive(Clone, Debug, Serialize)]
pub struct InstructionCount {
    /// The line of the PTX text.
    pub line: u32,
    pub opcode: String,
    pub source: Source,
    pub category: Category,
    /// Floating-point operations of one lane.
    pub flops: u32,
    pub warps: u64,
    pub lanes: u64,
}

/// The counts of a source line, which `.loc` names.
#[derive(Clone, Debug, Serialize)]
pub struct LineCount {
    pub file: String,
    pub line: u32,
    pub tally: Tally,
    /// Instructions of warps in functions that are inlined at this line; they count at their own lines.
    pub inlined: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    pub kernel: String,
    /// Blocks of the launch, and how many of them ran. Counts are those of all: where fewer ran, the first
    /// and the last stand for themselves, and the others for all that lie between.
    pub blocks: u64,
    pub counted: u64,
    pub threads_per_block: u32,
    pub static_shared: usize,
    pub dynamic_shared: usize,
    /// The most bytes that asynchronous copies have in flight in one block, when each warp has its most.
    pub async_in_flight: u64,
    /// Bytes of global memory in the sectors that the whole launch reads and writes, each counted once; of a
    /// sample, an estimate. 0 without `Options::footprint`.
    pub distinct_read: u64,
    pub distinct_written: u64,
    pub total: Tally,
    pub categories: BTreeMap<Category, Tally>,
    pub lines: Vec<LineCount>,
    pub instructions: Vec<InstructionCount>,
}

impl Counts {
    pub(crate) fn of(module: &Module, kernel: &Kernel, launch: &Launch, raw: &[Raw]) -> Counts {
        let mut counts = Counts {
            kernel: kernel.name.clone(),
            blocks: launch.blocks(),
            threads_per_block: launch.block.iter().product(),
            static_shared: kernel.static_shared,
            dynamic_shared: launch.dynamic_shared,
            ..Counts::default()
        };
        let mut lines = BTreeMap::<(u32, u32), (Tally, u64)>::new();
        for (raw, description) in raw.iter().zip(&kernel.code.descriptions) {
            let (category, flops, source) = (description.category, description.flops, description.source);
            let tally = Tally::of(raw, description);
            counts.total.add(&tally);
            counts.categories.entry(category).or_default().add(&tally);
            lines.entry((source.file, source.line)).or_default().0.add(&tally);
            if source.inlined_at != (0, 0) {
                lines.entry(source.inlined_at).or_default().1 += raw.warps;
            }
            counts.instructions.push(InstructionCount {
                line: description.line,
                opcode: description.opcode.clone(),
                source,
                category,
                flops,
                warps: raw.warps,
                lanes: raw.lanes,
            });
        }
        let name = |file: u32| module.files.get(file as usize).cloned().unwrap_or_default();
        counts.lines = lines
            .into_iter()
            .map(|((file, line), (tally, inlined))| LineCount { file: name(file), line, tally, inlined })
            .collect();
        counts
    }
}
