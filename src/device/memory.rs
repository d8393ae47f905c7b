//! The caching allocator: freed blocks are kept and given out again, so that a training step allocates nothing after the first.
//!
//! While a graph is captured, everything allocated belongs to the graph: its blocks are not given to anybody else before the graph is
//! dropped, because a replay writes to them again.

use super::{Backend, host};
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ALIGN: usize = 256;

/// The allocator of one device.
pub(super) struct Pool {
    state: Mutex<State>,
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
    /// Blocks that belong to graphs; `true` once their buffer was dropped.
    pinned: HashMap<u64, bool>,
}

#[derive(Default)]
struct Capture {
    blocks: HashSet<u64>,
    free: BTreeMap<usize, Vec<u64>>,
    /// Blocks from before the capture whose buffer was dropped in it: recorded launches may use them, so the graph keeps them.
    foreign: HashSet<u64>,
}

impl Pool {
    pub fn new(checked: bool) -> Pool {
        Pool { state: Mutex::default(), checked }
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
        if self.checked {
            return host::allocate_guarded(bytes);
        }
        let size = bytes.max(1).next_multiple_of(ALIGN);
        let mut state = self.state();
        let reused = match &mut state.capture {
            Some(capture) => take(&mut capture.free, size).or_else(|| take(&mut state.free, size)),
            None => take(&mut state.free, size),
        };
        let address = match reused {
            Some(address) => address,
            None => {
                let address = match raw_allocate(backend, size) {
                    Ok(address) => address,
                    Err(_) => {
                        // What the cache holds may be all that is missing.
                        state.flush(backend);
                        raw_allocate(backend, size)?
                    }
                };
                state.sizes.insert(address, size);
                address
            }
        };
        if let Some(capture) = &mut state.capture {
            capture.blocks.insert(address);
        }
        let size = state.sizes.get(&address).copied().unwrap_or(size);
        state.in_use += size;
        state.peak = state.peak.max(state.in_use);
        Ok(address)
    }

    /// Takes a block back.
    pub fn release(&self, address: u64) {
        if self.checked {
            return host::release_guarded(address);
        }
        let mut state = self.state();
        let size = state.sizes.get(&address).copied().unwrap_or(0);
        state.in_use -= size;
        if let Some(gone) = state.pinned.get_mut(&address) {
            *gone = true;
            return;
        }
        match &mut state.capture {
            Some(capture) if capture.blocks.contains(&address) => capture.free.entry(size).or_default().push(address),
            Some(capture) => {
                capture.foreign.insert(address);
            }
            None => state.free.entry(size).or_default().push(address),
        }
    }

    pub fn begin_capture(&self) {
        self.state().capture = Some(Capture::default());
    }

    /// Ends a capture; the returned blocks stay reserved until [`Pool::unpin`].
    pub fn end_capture(&self) -> Vec<u64> {
        let mut state = self.state();
        let capture = state.capture.take().unwrap_or_default();
        let mut blocks: Vec<u64> = capture.blocks.into_iter().collect();
        state.pinned.extend(blocks.iter().map(|block| (*block, false)));
        let gone = capture.free.into_values().flatten().chain(capture.foreign.iter().copied());
        state.pinned.extend(gone.map(|block| (block, true)));
        blocks.extend(capture.foreign);
        blocks
    }

    pub fn unpin(&self, blocks: &[u64]) {
        let mut state = self.state();
        for block in blocks {
            if state.pinned.remove(block) == Some(true) {
                let size = state.sizes.get(block).copied().unwrap_or(0);
                state.free.entry(size).or_default().push(*block);
            }
        }
    }

    /// Gives all cached memory back; called when the device goes.
    pub fn flush(&self, backend: &Backend) {
        self.state().flush(backend);
    }
}

impl State {
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
    let (&found, blocks) = free.range_mut(size..=size + size / 4).find(|(_, blocks)| !blocks.is_empty())?;
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
