//! Spreads the blocks of a launch over the cores.
//!
//! Each worker has a share of the blocks, the same part of every launch: blocks come in the order of the
//! images, so that what a kernel reads was mostly written by the same core a kernel earlier, and lies in its
//! cache. A worker that is done helps with the others' shares.
//!
//! The launching thread works itself, and asks rayon for helpers. It waits only for blocks that a helper has
//! begun: a helper that wakes up late finds nothing left and goes away, so that a short launch never waits
//! for a sleeping thread. After its last block a helper lingers for a moment and takes part in the next
//! launch: helpers that slept between short launches were often woken on the launching thread's own core and
//! stayed there (a digits training step took 41 ms in half of all processes, and 25 in the others).

use super::fiber::{Launch, run_blocks};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A worker takes a quarter of what is left of a share at a time: neighbouring blocks, which share data in
/// the cache, and in the end single ones, so that all workers end together.
const PART: usize = 4;
/// How often the launching thread looks whether the helpers are done before it lets other threads have its
/// core.
const LOOKS: usize = 2000;

/// How long a helper waits for the next launch.
const LINGER: Duration = Duration::from_micros(200);

/// The last launch that was offered to lingering helpers, how many have been, and how many helpers linger.
static OFFERED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);
static OFFERS: AtomicUsize = AtomicUsize::new(0);
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// A launch that several threads work on.
struct Shared {
    /// Used only while blocks are left or running: its arguments live in the launching thread's frame.
    launch: Launch,
    /// One for each worker.
    shares: Vec<Share>,
    /// Blocks that have been run, or given up after an error.
    done: AtomicUsize,
    error: Mutex<Option<Error>>,
}

/// A worker's part of the blocks, with cache lines of its own.
#[repr(align(128))]
struct Share {
    /// The next block that nobody has begun.
    next: AtomicUsize,
    end: usize,
}

impl Share {
    fn new(blocks: usize, workers: usize, worker: usize) -> Share {
        Share { next: AtomicUsize::new(blocks * worker / workers), end: blocks * (worker + 1) / workers }
    }

    /// The next blocks of what is left, for the caller to run.
    fn take(&self) -> Option<Range<usize>> {
        let behind = |first: usize| first + ((self.end - first) / PART).max(1);
        let advance = |first: usize| (first < self.end).then(|| behind(first));
        let first = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance).ok()?;
        Some(first..behind(first))
    }

    /// Takes all that is left; how many blocks.
    fn give_up(&self) -> usize {
        self.end - self.next.swap(self.end, Ordering::Relaxed)
    }
}

// SAFETY: the launch is plain data and pointers to arguments that are only read; buffers that kernels write
// are split among blocks by the kernels themselves.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Runs all blocks of a launch.
pub(super) fn run(launch: &Launch) -> Result<()> {
    let blocks = launch.grid.0.iter().map(|n| *n as usize).product::<usize>();
    let workers = rayon::current_num_threads().min(blocks);
    if workers == 1 {
        return run_blocks(launch, 0..blocks);
    }
    let shared = Arc::new(Shared {
        launch: *launch,
        shares: (0..workers).map(|worker| Share::new(blocks, workers, worker)).collect(),
        done: AtomicUsize::new(0),
        error: Mutex::new(None),
    });
    // A helper that stops lingering just now does not come: then the launching thread does its share.
    let lingering = LINGERING.load(Ordering::Acquire).min(workers - 1);
    if lingering > 0 {
        *OFFERED.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared.clone());
        OFFERS.fetch_add(1, Ordering::Release);
    }
    for _ in lingering..workers - 1 {
        let shared = shared.clone();
        rayon::spawn(move || help(shared));
    }
    shared.work(0);
    let mut looks = 0;
    while shared.done.load(Ordering::Acquire) < blocks {
        looks += 1;
        if looks < LOOKS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
    let error = shared.error.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(Ok(()), Err)
}

/// What a helper does: works on a launch, and on those that follow soon.
fn help(mut shared: Arc<Shared>) {
    let number = rayon::current_thread_index().unwrap_or(0);
    loop {
        let seen = OFFERS.load(Ordering::Acquire);
        shared.work(1 + number % (shared.shares.len() - 1));
        LINGERING.fetch_add(1, Ordering::AcqRel);
        let since = Instant::now();
        while OFFERS.load(Ordering::Acquire) == seen && since.elapsed() < LINGER {
            std::hint::spin_loop();
        }
        LINGERING.fetch_sub(1, Ordering::AcqRel);
        if OFFERS.load(Ordering::Acquire) == seen {
            return;
        }
        match &*OFFERED.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(offered) => shared = offered.clone(),
            None => return,
        }
    }
}

impl Shared {
    /// Runs the blocks of this worker's share, then of the others', until none is left.
    fn work(&self, worker: usize) {
        let (before, from) = self.shares.split_at(worker);
        for share in from.iter().chain(before) {
            while let Some(blocks) = share.take() {
                let mut ended = blocks.len();
                if let Err(error) = run_blocks(&self.launch, blocks) {
                    // Nobody begins another block; those not begun count as done.
                    ended += self.shares.iter().map(Share::give_up).sum::<usize>();
                    self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                self.done.fetch_add(ended, Ordering::Release);
            }
        }
    }
}
