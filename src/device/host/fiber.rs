//! Runs blocks: fibers, barriers, warps.
//!
//! A worker enters a kernel's trampoline on a fiber; the trampoline runs one thread of the block after the other. When a thread has to
//! wait, it parks its fiber, and a fresh fiber goes on with the threads not yet started. Once every thread has either ended or parked, the
//! worker looks for a meeting that is complete (all threads of the block at one barrier, all lanes of a mask at one warp operation) and
//! resumes who met. When nothing is complete, the kernel diverged: that is an error which names who waits where, never a hang.

use super::Order;
use super::block::{Block, SLOTS, saddle_set_block};
use super::checked::Arena;
use crate::device::{Grid, Kernel};
use crate::error::{Error, Result};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr::null;

const STACK: usize = 256 * 1024;
const WARP: u32 = 32;

/// What all blocks of a launch have in common.
pub(super) struct Launch {
    pub kernel: &'static Kernel,
    pub enter: unsafe extern "C" fn(*const *const c_void),
    pub args: *const *const c_void,
    pub grid: Grid,
    pub threads: u32,
    pub checked: Option<Order>,
}

/// What a worker hands to a fiber: enter this trampoline with these arguments.
type Job = (unsafe extern "C" fn(*const *const c_void), *const *const c_void);

/// What a fiber says when it stops: it ran out of threads, or a thread of it waits.
enum Stop {
    Idle,
    Waits(Wait),
    Overflow(u32),
}

/// A thread that waits.
#[derive(Clone, Copy)]
struct Wait {
    thread: u32,
    kind: Kind,
    mask: u32,
    value: u64,
    lane: u32,
    file: *const c_char,
    line: c_int,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Block,
    Sync,
    Shuffle,
    Ballot,
    All,
    Any,
}
const KINDS: [Kind; 6] = [Kind::Block, Kind::Sync, Kind::Shuffle, Kind::Ballot, Kind::All, Kind::Any];

/// What a resumed fiber gets: a new job, or the result of what it waited for.
#[derive(Clone, Copy)]
enum Resume {
    Enter(Job),
    Result(u64),
}

struct Fiber {
    coroutine: Coroutine<Resume, Stop, (), DefaultStack>,
}

thread_local! {
    static WORKER: RefCell<Worker> = const { RefCell::new(Worker { idle: Vec::new(), arena: None, order: Vec::new() }) };
    /// The yielder of the fiber that runs on this OS thread.
    static YIELDER: std::cell::Cell<*const Yielder<Resume, Stop>> = const { std::cell::Cell::new(null()) };
}

/// What an OS thread keeps between blocks.
struct Worker {
    idle: Vec<Fiber>,
    arena: Option<Arena>,
    order: Vec<u32>,
}

/// Runs the blocks `range` (linear indices, x fastest) of a launch on this OS thread.
pub(super) fn run_blocks(launch: &Launch, range: Range<usize>) -> Result<()> {
    WORKER.with(|worker| match worker.try_borrow_mut() {
        Ok(mut worker) => worker.run(launch, range),
        // Only a launch from inside a kernel could get here.
        Err(_) => Err(Error::Device { device: "host".into(), reason: "a kernel launched a kernel".into() }),
    })
}

impl Worker {
    fn run(&mut self, launch: &Launch, range: Range<usize>) -> Result<()> {
        let mut arena = match self.arena.take() {
            Some(arena) => arena,
            None => Arena::new()?,
        };
        let [gx, gy, _] = launch.grid.0.map(|n| n as usize);
        let mut described = Block {
            block_idx: [0; 3],
            grid_dim: launch.grid.0,
            threads: launch.threads,
            thread: 0,
            started: 0,
            shared_size: arena.size() as u32,
            shared_used: 0,
            dynamic_size: 0,
            order: null(),
            shared: arena.start(),
            slots: [0; SLOTS],
            slot_ends: [0; SLOTS],
            kernel: launch.kernel.c_name.as_ptr(),
        };
        // Kernels change the block behind the compiler's back: it is only touched through this pointer from here on.
        let shared: *mut Block = &raw mut described;
        // SAFETY: `described` outlives every use: fibers are parked or done when this function returns.
        unsafe { saddle_set_block(shared) };
        let mut outcome = Ok(());
        for index in range {
            // SAFETY: no kernel runs between two blocks.
            let block = unsafe { &mut *shared };
            block.block_idx = [(index % gx) as u32, (index / gx % gy) as u32, (index / gx / gy) as u32];
            block.started = 0;
            if block.shared_used > 0 {
                block.shared_used = 0;
                block.slots = [0; SLOTS];
            }
            if let Some(order) = launch.checked {
                arena.poison();
                fill_order(&mut self.order, order, launch.threads, index);
                block.order = self.order.as_ptr();
            }
            outcome = self.run_block(launch, shared);
            if outcome.is_ok() && launch.checked.is_some() {
                // SAFETY: as above.
                let block = unsafe { &*shared };
                outcome = arena.check_red_zones(block).map_err(|reason| failure(launch, block.block_idx, reason));
            }
            if outcome.is_err() {
                break;
            }
        }
        // SAFETY: no kernel runs on this OS thread any more.
        unsafe { saddle_set_block(std::ptr::null_mut()) };
        self.arena = Some(arena);
        outcome
    }

    fn run_block(&mut self, launch: &Launch, block: *mut Block) -> Result<()> {
        // SAFETY (here and below): `block` points to the live block of this OS thread.
        let place = unsafe { (*block).block_idx };
        let mut waiting: Vec<(Fiber, Wait)> = Vec::new();
        while unsafe { (*block).started } < launch.threads {
            let fiber = self.fiber()?;
            self.resume(fiber, Resume::Enter((launch.enter, launch.args)), &mut waiting).map_err(|reason| failure(launch, place, reason))?;
        }
        while !waiting.is_empty() {
            let met = match meeting(launch.threads, &waiting) {
                Ok(met) => met,
                Err(reason) => {
                    abandon(waiting);
                    return Err(failure(launch, place, reason));
                }
            };
            let mut still = Vec::with_capacity(waiting.len());
            let mut resumed = waiting.into_iter().zip(met);
            while let Some(((fiber, wait), result)) = resumed.next() {
                match result {
                    None => still.push((fiber, wait)),
                    Some(result) => {
                        unsafe { (*block).thread = wait.thread };
                        if let Err(reason) = self.resume(fiber, Resume::Result(result), &mut still) {
                            abandon(still);
                            abandon(resumed.map(|(parked, _)| parked).collect());
                            return Err(failure(launch, place, reason));
                        }
                    }
                }
            }
            waiting = still;
        }
        Ok(())
    }

    /// Lets a fiber go on; afterwards it is idle again or in `waiting`.
    fn resume(&mut self, mut fiber: Fiber, with: Resume, waiting: &mut Vec<(Fiber, Wait)>) -> Result<(), String> {
        match fiber.coroutine.resume(with) {
            CoroutineResult::Yield(Stop::Waits(wait)) => waiting.push((fiber, wait)),
            CoroutineResult::Yield(Stop::Idle) => self.idle.push(fiber),
            CoroutineResult::Yield(Stop::Overflow(bytes)) => {
                abandon_one(fiber);
                return Err(format!("a shared array of {bytes} bytes does not fit: a block has 227 KiB and a source file {SLOTS} arrays"));
            }
            CoroutineResult::Return(()) => {}
        }
        Ok(())
    }

    fn fiber(&mut self) -> Result<Fiber> {
        if let Some(fiber) = self.idle.pop() {
            return Ok(fiber);
        }
        let stack = DefaultStack::new(STACK).map_err(|e| Error::Device { device: "host".into(), reason: format!("no memory for a fiber: {e}") })?;
        let coroutine = Coroutine::with_stack(stack, |yielder: &Yielder<Resume, Stop>, mut input: Resume| {
            loop {
                if let Resume::Enter((enter, args)) = input {
                    YIELDER.set(yielder);
                    // SAFETY: the generated launcher built `args` to match the kernel's parameters.
                    unsafe { enter(args) };
                }
                input = yielder.suspend(Stop::Idle);
            }
        });
        Ok(Fiber { coroutine })
    }
}

/// Called by kernels (through the shim) when a thread must wait.
///
/// # Safety
/// Only from kernel code that runs on a fiber.
#[unsafe(no_mangle)]
unsafe extern "C" fn saddle_wait(kind: c_int, mask: u32, value: u64, lane: u32, file: *const c_char, line: c_int) -> u64 {
    // SAFETY: a block is set while kernels run.
    let thread = unsafe { (*super::block::saddle_get_block()).thread };
    let wait = Wait { thread, kind: KINDS[kind as usize], mask, value, lane, file, line };
    match suspend(Stop::Waits(wait)) {
        Resume::Result(value) => value,
        Resume::Enter(_) => 0,
    }
}

/// # Safety
/// Only from kernel code that runs on a fiber.
#[unsafe(no_mangle)]
unsafe extern "C" fn saddle_shared_overflow(asked: u32) {
    suspend(Stop::Overflow(asked));
}

fn suspend(stop: Stop) -> Resume {
    let yielder = YIELDER.get();
    // SAFETY: a kernel runs on a fiber, whose yielder lives on that fiber's stack.
    let resumed = unsafe { (*yielder).suspend(stop) };
    YIELDER.set(yielder);
    resumed
}

/// For each waiting thread, the result to resume it with, if its meeting is complete; an explanation if none is.
fn meeting(threads: u32, waiting: &[(Fiber, Wait)]) -> Result<Vec<Option<u64>>, String> {
    let at_barrier = waiting.iter().filter(|(_, w)| w.kind == Kind::Block).count();
    if at_barrier == waiting.len() {
        let first = &waiting[0].1;
        if let Some((_, other)) = waiting.iter().find(|(_, w)| (w.file, w.line) != (first.file, first.line)) {
            return Err(format!(
                "barrier in a branch: thread {} waits at {}, thread {} at {}",
                first.thread,
                first.place(),
                other.thread,
                other.place()
            ));
        }
        if waiting.len() < threads as usize {
            let missing = missing(threads, waiting);
            return Err(format!(
                "{} of {} threads wait at the barrier {}, but thread {missing} ended without it",
                waiting.len(),
                threads,
                first.place()
            ));
        }
        return Ok(vec![Some(0); waiting.len()]);
    }
    let mut results = vec![None; waiting.len()];
    let mut explanation = String::new();
    for (_, wait) in waiting.iter().filter(|(_, w)| w.kind != Kind::Block) {
        let warp = wait.thread / WARP;
        let lanes = (threads - warp * WARP).min(WARP);
        let existing = if lanes == WARP { u32::MAX } else { (1 << lanes) - 1 };
        let lane = wait.thread % WARP;
        if wait.mask >> lane & 1 == 0 {
            return Err(format!("{}: lane {lane} of warp {warp} calls with mask {:#010x}, which does not name it", wait.place(), wait.mask));
        }
        if wait.mask & !existing != 0 {
            return Err(format!("{}: mask {:#010x} names lanes that warp {warp} of {lanes} threads does not have", wait.place(), wait.mask));
        }
        let here = |other: &Wait| {
            other.thread / WARP == warp && (other.kind, other.mask, other.file, other.line) == (wait.kind, wait.mask, wait.file, wait.line)
        };
        let arrived: u32 = waiting.iter().filter(|(_, w)| here(w)).map(|(_, w)| 1u32 << (w.thread % WARP)).sum();
        if arrived == wait.mask {
            let mut values = [0u64; WARP as usize];
            for (_, other) in waiting.iter().filter(|(_, w)| here(w)) {
                values[(other.thread % WARP) as usize] = other.value;
            }
            for (slot, (_, other)) in results.iter_mut().zip(waiting).filter(|(_, (_, w))| here(w)) {
                *slot = Some(other.result(&values)?);
            }
        } else if explanation.is_empty() {
            explanation = format!(
                "{}: lanes {arrived:#010x} of warp {warp} wait with mask {:#010x}, but lanes {:#010x} wait elsewhere or ended",
                wait.place(),
                wait.mask,
                wait.mask & !arrived
            );
        }
    }
    if results.iter().all(Option::is_none) { Err(explanation) } else { Ok(results) }
}

impl Wait {
    fn result(&self, values: &[u64; WARP as usize]) -> Result<u64, String> {
        let ones: u64 = (0..WARP).filter(|l| self.mask >> l & 1 == 1 && values[*l as usize] != 0).map(|l| 1u64 << l).sum();
        match self.kind {
            Kind::Block | Kind::Sync => Ok(0),
            Kind::Shuffle if self.mask >> self.lane & 1 == 0 => Err(format!(
                "{}: lane {} reads from lane {}, which mask {:#010x} does not name",
                self.place(),
                self.thread % WARP,
                self.lane,
                self.mask
            )),
            Kind::Shuffle => Ok(values[self.lane as usize]),
            Kind::Ballot => Ok(ones),
            Kind::All => Ok((ones == self.mask as u64) as u64),
            Kind::Any => Ok((ones != 0) as u64),
        }
    }

    fn place(&self) -> String {
        // SAFETY: `file` is a `__FILE__` literal of the kernel source.
        let file = unsafe { CStr::from_ptr(self.file) }.to_string_lossy();
        format!("{file}:{}", self.line)
    }
}

fn missing(threads: u32, waiting: &[(Fiber, Wait)]) -> u32 {
    (0..threads).find(|t| waiting.iter().all(|(_, w)| w.thread != *t)).unwrap_or(threads)
}

fn failure(launch: &Launch, block: [u32; 3], reason: String) -> Error {
    Error::Kernel { kernel: launch.kernel.name.into(), block, reason }
}

fn abandon(waiting: Vec<(Fiber, Wait)>) {
    waiting.into_iter().for_each(|(fiber, _)| abandon_one(fiber));
}

/// Forgets a parked fiber without running it to its end.
fn abandon_one(mut fiber: Fiber) {
    // SAFETY: kernel frames own nothing that would have to be dropped.
    unsafe { fiber.coroutine.force_reset() };
}

fn fill_order(order: &mut Vec<u32>, kind: Order, threads: u32, block: usize) {
    order.clear();
    order.extend(0..threads);
    match kind {
        Order::Forward => {}
        Order::Reverse => order.reverse(),
        Order::Shuffled(seed) => {
            // Fisher-Yates over a 64-bit mix of seed, block and position.
            for i in (1..order.len()).rev() {
                let mut bits = seed ^ ((block as u64) << 32) ^ i as u64;
                for _ in 0..2 {
                    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                }
                order.swap(i, (bits >> 20) as usize % (i + 1));
            }
        }
    }
}
