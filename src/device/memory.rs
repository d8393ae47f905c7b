//! The caching allocator: freed blocks are kept and given out again, so that a training step allocates
//! nothing after the first.
//!
//! A graph keeps every block that its launches use, whether allocated inside the capture or before: the block
//! is not given to anybody else before the graph is dropped, because a replay reads and writes it again.

use super::{Backend, host};
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ALIGN: usize = 256;

/// The allocator of one device.
pub(super) struct Pool {
    state: Mutex<State>,
    capturing: AtomicBool,
    /// Whether blocks end at guard pages and are never reused (host only).
    pub checked: bool,
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
    /// Blocks that graphs keep.
    pins: HashMap<u64, Pin>,
}

/// How many graphs keep a block, and whether its buffer has been dropped.
#[derive(Default)]
struct Pin {
    graphs: usize,
    dropped: bool,
}

/// What a capture has met so far.
#[derive(Default)]
struct Capture {
    /// Blocks given out in this capture.
    own: HashSet<u64>,
    /// Those of them whose buffer was dropped again: later allocations of the same capture may have them.
    free: BTreeMap<usize, Vec<u64>>,
    /// Older blocks that recorded launches use, and whether their buffer was dropped in the capture. Every
    /// replay needs their content, so they are not given out again.
    foreign: HashMap<u64, bool>,
}

impl Pool {
    pub fn new(checked: bool) -> Pool {
        Pool { state: Mutex::default(), capturing: AtomicBool::new(false), checked }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use now and at most.
    pub fn in_use(&self) -> (usize, usize) {
        let state = self.state();
        (state.in_use, state.peak)
    }

    /// The address of a block of at least `bytes` bytes.
    pub fn allocate(&self, backend: &Backend, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let address = match self.checked {
            true => {
                let address = host::allocate_guarded(bytes)?;
                state.sizes.insert(address, bytes);
                address
            }
            false => state.find(backend, bytes)?,
        };
        if let Some(capture) = &mut state.capture {
            capture.own.insert(address);
        }
        state.in_use += state.sizes.get(&address).copied().unwrap_or(bytes);
        state.peak = state.peak.max(state.in_use);
        Ok(address)
    }

    /// Takes a block back.
    pub fn release(&self, address: u64) {
        let mut state = self.state();
        let size = state.sizes.get(&address).copied().unwrap_or(0);
        state.in_use -= size;
        if let Some(capture) = &mut state.capture {
            if capture.own.contains(&address) {
                return capture.free.entry(size).or_default().push(address);
            }
            if let Some(dropped) = capture.foreign.get_mut(&address) {
                *dropped = true;
                return;
            }
        }
        match state.pins.get_mut(&address) {
            Some(pin) => pin.dropped = true,
            None => state.put(address, self.checked),
        }
    }

    pub fn begin_capture(&self) {
        self.state().capture = Some(Capture::default());
        self.capturing.store(true, Ordering::Relaxed);
    }

    /// Whether a graph is captured, so that [`Pool::keep`] must be told what launches use.
    pub fn capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    /// The work that is recorded uses these addresses; what is no block is ignored.
    pub fn keep(&self, addresses: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        let State { sizes, capture: Some(capture), .. } = &mut *state else { return };
        for address in addresses {
            if sizes.contains_key(&address) && !capture.own.contains(&address) {
                capture.foreign.entry(address).or_insert(false);
            }
        }
    }

    /// Ends a capture; the returned blocks stay reserved until [`Pool::unpin`].
    pub fn end_capture(&self) -> Vec<u64> {
        self.capturing.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let capture = state.capture.take().unwrap_or_default();
        let own = capture.own.into_iter().map(|block| (block, false));
        let blocks: HashMap<u64, bool> = own.chain(capture.foreign).collect();
        for (block, dropped) in &blocks {
            let pin = state.pins.entry(*block).or_default();
            pin.graphs += 1;
            pin.dropped |= dropped;
        }
        for block in capture.free.into_values().flatten() {
            state.pins.entry(block).or_default().dropped = true;
        }
        blocks.into_keys().collect()
    }

    pub fn unpin(&self, blocks: &[u64]) {
        let mut state = self.state();
        for block in blocks {
            let Some(pin) = state.pins.get_mut(block) else { continue };
            pin.graphs -= 1;
            let (unused, dropped) = (pin.graphs == 0, pin.dropped);
            if unused {
                state.pins.remove(block);
            }
            if unused && dropped {
                state.put(*block, self.checked);
            }
        }
    }

    /// Gives all cached memory back; called when the device goes.
    pub fn flush(&self, backend: &Backend) {
        self.state().flush(backend);
    }
}

impl State {
    /// A block of at least `bytes` bytes, from the cache when it has one.
    fn find(&mut self, backend: &Backend, bytes: usize) -> Result<u64> {
        let size = bytes.max(1).checked_next_multiple_of(ALIGN).unwrap_or(bytes);
        let reused = self.capture.as_mut().and_then(|capture| take(&mut capture.free, size));
        if let Some(address) = reused.or_else(|| take(&mut self.free, size)) {
            return Ok(address);
        }
        let address = raw_allocate(backend, size).or_else(|_| {
            // What the cache holds may be all that is missing.
            self.flush(backend);
            raw_allocate(backend, size)
        })?;
        self.sizes.insert(address, size);
        Ok(address)
    }

    /// Puts a block that nobody uses into the cache; a guarded one is given back.
    fn put(&mut self, address: u64, checked: bool) {
        if checked {
            self.sizes.remove(&address);
            return host::release_guarded(address);
        }
        let size = self.sizes.get(&address).copied().unwrap_or(0);
        self.free.entry(size).or_default().push(address);
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
fn take(free: &mut BTreeMap<usize, Vec<u64>>, size: usize) -> Option<u64> {
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
    }
}

fn raw_release(backend: &Backend, block: u64, size: usize) {
    match backend {
        Backend::Host(_) => host::release(block, size, ALIGN),
        Backend::Cuda(cuda) => cuda.release(block),
    }
}

impl Drop for super::Inner {
    fn drop(&mut self) {
        self.memory.flush(&self.backend);
    }
}
