//! Spreads the blocks of a launch over the cores.
//!
//! Each worker has a share of the blocks, the same part of every launch: blocks come in the order of the images, so that what a kernel reads
//! was mostly written by the same core a kernel earlier, and lies in its cache. A worker that is done helps with the others' shares.
//!
//! The launching thread works itself, and asks rayon for helpers. It waits only for blocks that a helper has begun: a helper that wakes up
//! late finds nothing left and goes away, so that a short launch never waits for a sleeping thread. After its last block a helper lingers
//! for a moment and takes part in the next launch: helpers that slept between short launches were often woken on the launching thread's own
//! core and stayed there (a digits training step took 41 ms in half of all processes, and 25 in the others).

use super::fiber::{Launch, run_blocks};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A worker takes a quarter of what is left of a share at a time: neighbouring blocks, which share data in the cache, and in the end single
/// ones, so that all workers end together.
const PART: usize = 4;
/// How often the launching thread looks whether the helpers are done before it lets other threads have its core.
const LOOKS: usize = 2000;

/// How long a helper waits for the next launch.
const LINGER: Duration = Duration::from_micros(200);

/// The last launch that was offered to lingering helpers, how many have been, and how many helpers linger.
static OFFERED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);
static OFFERS: AtomicUsize = AtomicUsize::new(0);
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// A launch that several threads work on.
struct Shared {
    /// Used only while `done < blocks`: its arguments live in the launching thread's frame.
    launch: Launch,
    blocks: usize,
    /// For each worker the next block of its share that nobody has begun.
    next: Vec<Place>,
    /// Blocks that have been run, or given up after an error.
    done: AtomicUsize,
    error: Mutex<Option<Error>>,
}

/// A counter with cache lines of its own.
#[repr(align(128))]
struct Place(AtomicUsize);

// SAFETY: the launch is plain data and pointers to arguments that are only read; buffers that kernels write are split among blocks by the
// kernels themselves.
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
        blocks,
        next: (0..workers).map(|worker| Place(AtomicUsize::new(share(blocks, workers, worker)))).collect(),
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
        shared.work(1 + number % (shared.next.len() - 1));
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

/// The first block of a worker's share.
fn share(blocks: usize, workers: usize, worker: usize) -> usize {
    blocks * worker / workers
}

impl Shared {
    /// Runs chunks of blocks of this worker's share, then of the others', until none is left.
    fn work(&self, worker: usize) {
        let workers = self.next.len();
        for owner in (worker..workers).chain(0..worker) {
            let next = &self.next[owner].0;
            let last = share(self.blocks, workers, owner + 1);
            let ahead = |first: usize| (first < last).then(|| first + ((last - first) / PART).max(1));
            while let Ok(first) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead) {
                let end = ahead(first).unwrap_or(last);
                let mut ended = end - first;
                if let Err(error) = run_blocks(&self.launch, first..end) {
                    ended += self.give_up();
                    self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                self.done.fetch_add(ended, Ordering::Release);
            }
        }
    }

    /// Takes all blocks that nobody has begun; how many.
    fn give_up(&self) -> usize {
        let left = |(owner, next): (usize, &Place)| {
            let last = share(self.blocks, self.next.len(), owner + 1);
            last - next.0.swap(last, Ordering::Relaxed).min(last)
        };
        self.next.iter().enumerate().map(left).sum()
    }
}
