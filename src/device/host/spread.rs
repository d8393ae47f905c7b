//! Spreads the blocks of a launch over the cores.
//!
//! The launching thread works itself, and asks rayon for helpers. It waits only for blocks that a helper has begun: a helper that wakes up
//! late finds nothing left and goes away, so that a short launch never waits for a sleeping thread.

use super::fiber::{Launch, run_blocks};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Chunks of neighbouring blocks that each worker gets on average: several, so that they end together; neighbours, because they share data
/// in the cache.
const CHUNKS: usize = 8;
/// How often the launching thread looks whether the helpers are done before it lets other threads have its core.
const LOOKS: usize = 2000;

/// A launch that several threads work on.
struct Shared {
    /// Used only while `done < blocks`: its arguments live in the launching thread's frame.
    launch: Launch,
    blocks: usize,
    chunk: usize,
    /// The next block that nobody has begun.
    next: AtomicUsize,
    /// Blocks that have been run, or given up after an error.
    done: AtomicUsize,
    error: Mutex<Option<Error>>,
}

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
    let chunk = blocks.div_ceil(workers * CHUNKS);
    let shared = Arc::new(Shared {
        launch: *launch,
        blocks,
        chunk,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        error: Mutex::new(None),
    });
    for _ in 1..workers {
        let shared = shared.clone();
        rayon::spawn(move || shared.work());
    }
    shared.work();
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

impl Shared {
    /// Runs chunks of blocks until none is left.
    fn work(&self) {
        loop {
            let first = self.next.fetch_add(self.chunk, Ordering::Relaxed);
            if first >= self.blocks {
                return;
            }
            let end = (first + self.chunk).min(self.blocks);
            let mut ended = end - first;
            if let Err(error) = run_blocks(&self.launch, first..end) {
                // Nobody begins another chunk; those not begun count as done.
                ended += self.blocks - self.next.swap(self.blocks, Ordering::Relaxed).min(self.blocks);
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            self.done.fetch_add(ended, Ordering::Release);
        }
    }
}
