//! The caching allocator: freed blocks are kept and given out again, so that a training step allocates
//! nothing after the first.
//!
//! A block has one of these owners:
//!
//! * a buffer;
//! * the cache (`State::free`): the next buffer that it fits gets it;
//! * graphs (`State::pinned`): a replay reads and writes every block that its launches use, so none of them
//!   goes back to the cache before the last of its graphs is dropped, and its buffer too.
//!
//! While a graph is captured, a block that its launches use is one of two kinds:
//!
//! * allocated in the capture (`Capture::allocated`). When its buffer is dropped, later buffers of the same
//!   capture may have it (`Capture::free`): a replay repeats the launches in the same order;
//! * older than the capture (`Capture::older`). Every replay starts from its content, so that no other buffer
//!   may have it, even when its own is dropped in the capture. Such is a block of constants, too,
//!   which is written when the capture ends.
//!
//! At the end of the capture both kinds become blocks of the graph.

use super::{Backend, host};
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ALIGN: usize = 256;

/// How blocks are allocated, and what becomes of those without an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Blocks are rounded up, kept and given out again.
    Cached,
    /// Each block has exactly its buffer's size and goes back to the system at once, so that
    /// compute-sanitizer sees every access past a buffer.
    Exact,
    /// The same, with a guard page after each block (host only).
    Guarded,
}

impl Policy {
    /// For buffers that nobody checks: `Cached`, or `Exact` with `SADDLE_POOL=off`.
    pub fn of_environment() -> Policy {
        if std::env::var_os("SADDLE_POOL").is_some_and(|value| value == "off") {
            Policy::Exact
        } else {
            Policy::Cached
        }
    }
}

/// The allocator of one device.
pub(super) struct Pool {
    state: Mutex<State>,
    capturing: AtomicBool,
    pub policy: Policy,
}

#[derive(Default)]
struct State {
    /// Free blocks by size.
    free: BTreeMap<usize, Vec<u64>>,
    /// Size of every live block, given out or free.
    sizes: HashMap<u64, usize>,
    in_use: usize,
    peak: usize,
    capture: Option<Capture>,
    /// Blocks of graphs.
    pinned: HashMap<u64, Pin>,
}

/// The owners of a block that graphs use.
#[derive(Default)]
struct Pin {
    graphs: usize,
    buffer_dropped: bool,
}

/// The blocks of a capture.
#[derive(Default)]
struct Capture {
    /// Blocks allocated in it.
    allocated: HashSet<u64>,
    /// Those of them whose buffer was dropped again, by size.
    free: BTreeMap<usize, Vec<u64>>,
    /// Older blocks that recorded launches use, and whether their buffer was dropped in the capture.
    older: HashMap<u64, bool>,
    /// What blocks that no launch writes are to hold.
    constants: Vec<(u64, Vec<u8>)>,
}

/// The blocks of a graph, and what some of them must hold before it is replayed.
pub(super) struct Captured {
    pub blocks: Vec<u64>,
    pub constants: Vec<(u64, Vec<u8>)>,
}

impl Pool {
    pub fn new(policy: Policy) -> Pool {
        Pool { state: Mutex::default(), capturing: AtomicBool::new(false), policy }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use now and at most.
    pub fn in_use(&self) -> (usize, usize) {
        let state = self.state();
        (state.in_use, state.peak)
    }

    /// The bytes of the block at this address, which may be more than its buffer has.
    pub fn size_of(&self, address: u64) -> Option<u64> {
        self.state().sizes.get(&address).map(|size| *size as u64)
    }

    /// Bytes of all blocks, given out or not.
    pub fn held(&self) -> usize {
        self.state().sizes.values().sum()
    }

    /// The address of a block of at least `bytes` bytes.
    pub fn allocate(&self, backend: &Backend, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let address = match self.policy {
            Policy::Cached => state.reuse_or_allocate(backend, bytes)?,
            Policy::Exact => state.track(raw_allocate(backend, bytes.max(1))?, bytes.max(1)),
            Policy::Guarded => state.track(host::allocate_guarded(bytes)?, bytes),
        };
        if let Some(capture) = &mut state.capture {
            capture.allocated.insert(address);
        }
        state.in_use += state.sizes.get(&address).copied().unwrap_or(bytes);
        state.peak = state.peak.max(state.in_use);
        Ok(address)
    }

    /// Takes a block back.
    pub fn release(&self, backend: &Backend, address: u64) {
        let mut state = self.state();
        let size = state.sizes.get(&address).copied().unwrap_or(0);
        state.in_use -= size;
        if let Some(capture) = &mut state.capture {
            if capture.allocated.contains(&address) {
                return capture.free.entry(size).or_default().push(address);
            }
            if let Some(buffer_dropped) = capture.older.get_mut(&address) {
                *buffer_dropped = true;
                return;
            }
        }
        match state.pinned.get_mut(&address) {
            Some(pin) => pin.buffer_dropped = true,
            None => state.recycle(backend, address, self.policy),
        }
    }

    pub fn begin_capture(&self) {
        self.state().capture = Some(Capture::default());
        self.capturing.store(true, Ordering::Relaxed);
    }

    /// Whether a graph is captured: then [`Pool::record_use`] must see the arguments of every launch.
    pub fn capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    /// Notes that recorded work uses these addresses. Those that are not blocks are ignored.
    pub fn record_use(&self, addresses: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        let State { sizes, capture: Some(capture), .. } = &mut *state else { return };
        for address in addresses {
            if sizes.contains_key(&address) && !capture.allocated.contains(&address) {
                capture.older.entry(address).or_insert(false);
            }
        }
    }

    /// Allocates as if nothing was captured: a block that no recorded launch has used.
    pub fn outside_capture<T>(&self, allocation: impl FnOnce() -> T) -> T {
        let capture = self.state().capture.take();
        let allocated = allocation();
        self.state().capture = capture;
        allocated
    }

    /// Notes what a block from outside of the capture is to hold in every replay.
    pub fn record_constant(&self, address: u64, bytes: &[u8]) {
        if let Some(capture) = &mut self.state().capture {
            capture.older.insert(address, false);
            capture.constants.push((address, bytes.to_vec()));
        }
    }

    /// Ends a capture; its blocks stay pinned until [`Pool::unpin`].
    pub fn end_capture(&self) -> Captured {
        self.capturing.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let capture = state.capture.take().unwrap_or_default();
        let allocated = capture.allocated.into_iter().map(|block| (block, false));
        let blocks: HashMap<u64, bool> = allocated.chain(capture.older).collect();
        for (block, buffer_dropped) in &blocks {
            let pin = state.pinned.entry(*block).or_default();
            pin.graphs += 1;
            pin.buffer_dropped |= buffer_dropped;
        }
        for block in capture.free.into_values().flatten() {
            state.pinned.entry(block).or_default().buffer_dropped = true;
        }
        Captured { blocks: blocks.into_keys().collect(), constants: capture.constants }
    }

    /// Drops a graph's share in its blocks.
    pub fn unpin(&self, backend: &Backend, blocks: &[u64]) {
        let mut state = self.state();
        for block in blocks {
            let Some(pin) = state.pinned.get_mut(block) else { continue };
            pin.graphs -= 1;
            let (unpinned, buffer_dropped) = (pin.graphs == 0, pin.buffer_dropped);
            if unpinned {
                state.pinned.remove(block);
            }
            if unpinned && buffer_dropped {
                state.recycle(backend, *block, self.policy);
            }
        }
    }

    /// Gives all cached memory back to the system; called when the device is dropped.
    pub fn flush(&self, backend: &Backend) {
        self.state().flush(backend);
    }
}

impl State {
    /// A block of at least `bytes` bytes, from the cache when it has one.
    fn reuse_or_allocate(&mut self, backend: &Backend, bytes: usize) -> Result<u64> {
        let size = bytes.max(1).checked_next_multiple_of(ALIGN).unwrap_or(bytes);
        let reused = self.capture.as_mut().and_then(|capture| best_fit(&mut capture.free, size));
        if let Some(address) = reused.or_else(|| best_fit(&mut self.free, size)) {
            return Ok(address);
        }
        let address = raw_allocate(backend, size).or_else(|_| {
            // The memory that is missing may be in the cache.
            self.flush(backend);
            raw_allocate(backend, size)
        })?;
        Ok(self.track(address, size))
    }

    fn track(&mut self, address: u64, size: usize) -> u64 {
        self.sizes.insert(address, size);
        address
    }

    /// Puts a block without owner into the cache, or gives it back to the system.
    fn recycle(&mut self, backend: &Backend, address: u64, policy: Policy) {
        if policy == Policy::Cached {
            let size = self.sizes.get(&address).copied().unwrap_or(0);
            return self.free.entry(size).or_default().push(address);
        }
        let Some(size) = self.sizes.remove(&address) else { return };
        match policy {
            Policy::Guarded => host::release_guarded(address),
            _ => raw_release(backend, address, size),
        }
    }

    fn flush(&mut self, backend: &Backend) {
        for (size, blocks) in std::mem::take(&mut self.free) {
            for block in blocks {
                self.sizes.remove(&block);
                raw_release(backend, block, size);
            }
        }
    }
}

/// The smallest free block of at least `size` bytes that wastes at most a quarter.
fn best_fit(free: &mut BTreeMap<usize, Vec<u64>>, size: usize) -> Option<u64> {
    let (&found, blocks) =
        free.range_mut(size..=size.saturating_add(size / 4)).find(|(_, blocks)| !blocks.is_empty())?;
    let block = blocks.pop();
    if blocks.is_empty() {
        free.remove(&found);
    }
    block
}

fn raw_allocate(backend: &Backend, size: usize) -> Result<u64> {
    match backend {
        Backend::Host(_) => host::allocate(size, ALIGN),
        Backend::Cuda(cuda) => cuda.allocate(size),
        Backend::Software(software) => software.allocate(size),
    }
}

fn raw_release(backend: &Backend, block: u64, size: usize) {
    match backend {
        Backend::Host(_) => host::release(block, size, ALIGN),
        Backend::Cuda(cuda) => cuda.release(block),
        Backend::Software(software) => software.release(block),
    }
}

impl Drop for super::Inner {
    fn drop(&mut self) {
        // A device that is lost has no times left to tell.
        let _ = self.tracer.settle();
        self.memory.flush(&self.backend);
    }
}
