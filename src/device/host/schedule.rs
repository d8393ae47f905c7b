//! Schedules the blocks of a launch on the cores.
//!
//! Each worker has a partition of the blocks, the same part of every launch: blocks come in the order of the
//! images, so that most of what a kernel reads was written by the same core a kernel earlier, and lies in its
//! cache. A worker that has finished its partition takes blocks from the others'.
//!
//! The launching thread is a worker itself, and asks rayon for more. It waits only for blocks that a worker
//! has begun: a worker that wakes up late finds nothing left and goes away, so that a short launch never
//! waits for a sleeping thread. After its last block a worker spins for a moment and takes part in the next
//! launch: workers that slept between short launches were often woken on the launching thread's own core and
//! stayed there (a digits training step took 41 ms in half of all processes, and 25 in the others).

use super::fiber::{Launch, run_blocks};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A worker takes a quarter of the rest of a partition at a time: neighbouring blocks, which share data in
/// the cache, and in the end single ones, so that all workers end together.
const FRACTION: usize = 4;
/// How often the launching thread checks whether the workers are done before it yields its core.
const CHECKS: usize = 2000;
/// How long a worker waits for the next launch.
const SPIN: Duration = Duration::from_micros(200);

/// The last launch that was offered to spinning workers, the number of offers, and the number of workers that
/// spin.
static OFFERED: Mutex<Option<Arc<Dispatch>>> = Mutex::new(None);
static OFFERS: AtomicUsize = AtomicUsize::new(0);
static SPINNING: AtomicUsize = AtomicUsize::new(0);

/// A launch that several workers run.
struct Dispatch {
    /// Used only while blocks are left or running: its arguments live in the launching thread's frame.
    launch: Launch,
    /// One for each worker.
    partitions: Vec<Partition>,
    /// Blocks that have been run, or abandoned after an error.
    done: AtomicUsize,
    error: Mutex<Option<Error>>,
}

/// A worker's part of the blocks, with cache lines of its own.
#[repr(align(128))]
struct Partition {
    /// The next block that no worker has begun.
    next: AtomicUsize,
    end: usize,
}

impl Partition {
    fn new(blocks: usize, workers: usize, worker: usize) -> Partition {
        Partition { next: AtomicUsize::new(blocks * worker / workers), end: blocks * (worker + 1) / workers }
    }

    /// The next blocks, for the caller to run.
    fn take(&self) -> Option<Range<usize>> {
        let end = |first: usize| first + ((self.end - first) / FRACTION).max(1);
        let advance = |first: usize| (first < self.end).then(|| end(first));
        let first = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance).ok()?;
        Some(first..end(first))
    }

    /// Takes all blocks that are left, without running them; their number.
    fn abandon(&self) -> usize {
        self.end - self.next.swap(self.end, Ordering::Relaxed)
    }
}

// SAFETY: the launch is plain data and pointers to arguments that are only read; buffers that kernels write
// are split among blocks by the kernels themselves.
unsafe impl Send for Dispatch {}
// SAFETY: as above.
unsafe impl Sync for Dispatch {}

/// Runs all blocks of a launch.
pub(super) fn run(launch: &Launch) -> Result<()> {
    let blocks = launch.grid.0.iter().map(|n| *n as usize).product::<usize>();
    let workers = rayon::current_num_threads().min(blocks);
    if workers == 1 {
        return run_blocks(launch, 0..blocks);
    }
    let dispatch = Arc::new(Dispatch {
        launch: *launch,
        partitions: (0..workers).map(|worker| Partition::new(blocks, workers, worker)).collect(),
        done: AtomicUsize::new(0),
        error: Mutex::new(None),
    });
    // A worker that stops spinning just now does not come: then the launching thread runs its partition.
    let spinning = SPINNING.load(Ordering::Acquire).min(workers - 1);
    if spinning > 0 {
        *OFFERED.lock().unwrap_or_else(PoisonError::into_inner) = Some(dispatch.clone());
        OFFERS.fetch_add(1, Ordering::Release);
    }
    for _ in spinning..workers - 1 {
        let dispatch = dispatch.clone();
        rayon::spawn(move || work(dispatch));
    }
    dispatch.work(0);
    let mut checks = 0;
    while dispatch.done.load(Ordering::Acquire) < blocks {
        checks += 1;
        if checks < CHECKS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
    let error = dispatch.error.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(Ok(()), Err)
}

/// A worker's run: one launch, and those that follow soon.
fn work(mut dispatch: Arc<Dispatch>) {
    let number = rayon::current_thread_index().unwrap_or(0);
    loop {
        let seen = OFFERS.load(Ordering::Acquire);
        dispatch.work(1 + number % (dispatch.partitions.len() - 1));
        SPINNING.fetch_add(1, Ordering::AcqRel);
        let since = Instant::now();
        while OFFERS.load(Ordering::Acquire) == seen && since.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        SPINNING.fetch_sub(1, Ordering::AcqRel);
        if OFFERS.load(Ordering::Acquire) == seen {
            return;
        }
        match &*OFFERED.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(offered) => dispatch = offered.clone(),
            None => return,
        }
    }
}

impl Dispatch {
    /// Runs the blocks of this worker's partition, then of the others', until none is left.
    fn work(&self, worker: usize) {
        let (before, from) = self.partitions.split_at(worker);
        for partition in from.iter().chain(before) {
            while let Some(blocks) = partition.take() {
                let mut ended = blocks.len();
                if let Err(error) = run_blocks(&self.launch, blocks) {
                    // No worker begins another block; those not begun count as done.
                    ended += self.partitions.iter().map(Partition::abandon).sum::<usize>();
                    self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                self.done.fetch_add(ended, Ordering::Release);
            }
        }
    }
}
