//! Launches.

use crate::block::{Machine, Place};
use crate::counts::{Counts, Raw};
use crate::fault::{Fault, FaultKind};
use crate::footprint::Footprint;
use crate::instruction::Source;
use crate::memory::{Buffer, Memory};
use crate::module::Module;
use crate::sample::Sample;
use crate::shadow::{LAST_GENERATION, Shadow};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A grid of blocks and their parameters, laid out as `Kernel::params` says.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    pub params: &'a [u8],
}

impl Launch<'_> {
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| n as u64).product()
    }
}

/// What is looked for. Bounds and alignment are always checked, because device addresses are host addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    pub races: bool,
    /// Reads of bytes that nothing has written; in global memory only where `Memory` is checked.
    pub uninitialised: bool,
    /// Shared memory that a `cp.async` is still filling.
    pub async_copies: bool,
    /// Threads that have ended before a barrier, and the masks of `.sync` instructions.
    pub barriers: bool,
}

impl Checks {
    pub const ALL: Checks = Checks { races: true, uninitialised: true, async_copies: true, barriers: true };
    pub const NONE: Checks =
        Checks { races: false, uninitialised: false, async_copies: false, barriers: false };
}

/// The order of blocks, of the warps in a block, and of the sides of a branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    Forward,
    Reverse,
    /// Shuffled by a seed; warps also take turns between barriers.
    Shuffled(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub checks: Checks,
    /// Host threads that run blocks.
    pub threads: usize,
    pub order: Order,
    pub count: bool,
    /// Instructions of a block's warps after which it counts as endless.
    pub limit: u64,
    /// Counts each sector of global memory that is touched once, too; only where `count` is set.
    pub footprint: bool,
    /// Runs only this many blocks of a larger grid. Costs can be counted so, but results are incomplete.
    pub sample: Option<u64>,
}

/// Takes minutes; the project's longest block runs a thousandth of it.
const LIMIT: u64 = 1 << 33;

impl Default for Options {
    fn default() -> Options {
        Options {
            checks: Checks::ALL,
            threads: 1,
            order: Order::Forward,
            count: true,
            limit: LIMIT,
            footprint: false,
            sample: None,
        }
    }
}

/// A generator for orders, not for statistics (splitmix64).
pub struct Shuffler(u64);

impl Shuffler {
    pub fn new(seed: u64) -> Shuffler {
        Shuffler(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.next() % (at as u64 + 1);
            items.swap(at, other as usize);
        }
    }
}

/// The most threads of a block, and blocks along y and z.
const MOST_THREADS: usize = 1024;
const MOST_BLOCKS: u32 = 65535;

/// Runs a kernel to its end. The fault reported is that of the first block that fails.
pub fn run(
    module: &Module,
    kernel: &str,
    launch: &Launch,
    memory: &mut Memory,
    options: &Options,
) -> Result<Counts, Fault> {
    let refuse = |text: String| Err(Fault::outside(kernel, FaultKind::Launch(text)));
    let Some(found) = module.kernel(kernel) else { return refuse("no such kernel in the module".into()) };
    let threads: usize = launch.block.iter().map(|&n| n as usize).product();
    if threads == 0 || threads > MOST_THREADS || launch.block[2] > 64 {
        return refuse(format!(
            "a block of {:?} threads; 1 to {MOST_THREADS}, and at most 64 along z",
            launch.block
        ));
    }
    if let Some(most) = found.max_threads.filter(|&most| threads > most as usize) {
        return refuse(format!("a block of {threads} threads; the kernel was compiled for at most {most}"));
    }
    if launch.grid.contains(&0) || launch.grid[1] > MOST_BLOCKS || launch.grid[2] > MOST_BLOCKS {
        return refuse(format!("a grid of {:?} blocks", launch.grid));
    }
    if launch.params.len() < found.param_bytes() {
        return refuse(format!(
            "{} bytes of parameters instead of {}",
            launch.params.len(),
            found.param_bytes()
        ));
    }
    if let Some(at) = found.code.unwritten.filter(|_| options.checks.uninitialised) {
        let description = &found.code.descriptions[at];
        let source = Some(description.source).filter(|source| source.line > 0);
        let file = |source: Source| (module.files[source.file as usize].clone(), source.line);
        let outside = Fault::outside(kernel, FaultKind::UnwrittenRegister);
        return Err(Fault { source: source.map(file), line: description.line, ..outside });
    }
    memory.begin_launch();
    let Some(variables) = memory.variables_of(module.id, &module.variables) else {
        return refuse("no memory for the module's variables".into());
    };
    let memory = &*memory;
    let Some(params) = Buffer::new(launch.params.len()) else { return refuse("no memory".into()) };
    for (at, &byte) in launch.params.iter().enumerate() {
        // SAFETY: inside the buffer that was just made.
        unsafe { params.base().add(at).write(byte) };
    }
    let machine = Machine {
        module,
        kernel: found,
        code: &found.code,
        memory,
        launch,
        options,
        params,
        footprint: (options.count && options.footprint).then(|| {
            Footprint::new(memory.spans().iter().map(|&(start, end, _)| (start, (end - start) as usize)))
        }),
        spans: memory.spans(),
        variables,
        interpret: crate::warp::interpret(),
        taken_first: options.order != Order::Reverse,
        checking: options.checks.races || options.checks.uninitialised || options.checks.async_copies,
    };
    let sample = Sample::of(launch.blocks(), options.sample.unwrap_or(u64::MAX));
    let counted = sample.len();
    let (mut tallies, in_flight) = blocks(&machine, sample.inside)?;
    let mut async_in_flight = in_flight;
    if counted < launch.blocks() {
        tallies.iter_mut().for_each(|raw| *raw = raw.times(sample.weight));
        let (ends, in_flight) = blocks(&machine, sample.ends)?;
        tallies.iter_mut().zip(&ends).for_each(|(raw, end)| raw.add(end));
        async_in_flight = async_in_flight.max(in_flight);
    }
    let footprint = machine.footprint.as_ref().map(|footprint| footprint.bytes(launch.blocks(), counted));
    let [distinct_read, distinct_written] = footprint.unwrap_or_default();
    let counts = Counts::of(module, found, launch, &tallies);
    Ok(Counts { counted, async_in_flight, distinct_read, distinct_written, ..counts })
}

/// Launches that last fewer nanoseconds than this run in one thread: starting others takes as long.
const WORTH_HELPERS: u64 = 100_000;

/// Runs blocks over the threads and adds what they counted; with the most bytes of copies in flight.
fn blocks(machine: &Machine, mut blocks: Vec<u64>) -> Result<(Vec<Raw>, u64), Fault> {
    match machine.options.order {
        Order::Forward => {}
        Order::Reverse => blocks.reverse(),
        Order::Shuffled(seed) => Shuffler::new(seed).shuffle(&mut blocks),
    }
    let total = blocks.len() as u64;
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let tallies = Mutex::new((Vec::<Raw>::new(), 0));
    let faults = Mutex::new(Vec::<(u64, Fault)>::new());
    let busy = AtomicU64::new(0);
    let work = || {
        let start = Instant::now();
        let Some(mut place) = Place::new(machine) else {
            let what = FaultKind::Launch("no memory for a block".into());
            lock(&faults).push((0, Fault::outside(&machine.kernel.name, what)));
            return;
        };
        while !failed.load(Relaxed) {
            let at = next.fetch_add(1, Relaxed);
            let Some(&block) = blocks.get(at as usize) else { break };
            if let Err(fault) = place.run(block) {
                failed.store(true, Relaxed);
                lock(&faults).push((at, fault));
            }
        }
        busy.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        let mut tallies = lock(&tallies);
        let (all, most_in_flight) = &mut *tallies;
        all.resize(place.tallies.len(), Raw::default());
        all.iter_mut().zip(&place.tallies).for_each(|(all, own)| all.add(own));
        *most_in_flight = place.most_in_flight().max(*most_in_flight);
    };
    let block_time = &machine.kernel.block_time;
    let expected = block_time.load(Relaxed).saturating_mul(total);
    let helpers = match expected {
        1..WORTH_HELPERS => 0,
        _ => (machine.options.threads.max(1) as u64).min(total).saturating_sub(1),
    };
    if helpers == 0 {
        work();
    } else {
        std::thread::scope(|scope| {
            (0..helpers).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }
    block_time.store((busy.into_inner() / total.max(1)).max(1), Relaxed);
    let mut faults = faults.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    faults.sort_by_key(|&(at, _)| at);
    match faults.into_iter().next() {
        Some((_, fault)) => Err(fault),
        None => Ok(tallies.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Memory {
    /// Marks of earlier launches lose their meaning; before their numbers repeat, the shadows are cleared.
    fn begin_launch(&mut self) {
        self.generation += 1;
        if self.generation > LAST_GENERATION {
            self.generation = 1;
            for allocation in self.allocations_mut() {
                allocation.shadow = Shadow::default();
            }
        }
    }
}
