//! Who touched memory last: the shadow in which races show.
//!
//! Each warp has a clock that its barriers advance, and knows how far it has seen the clocks of the others (a
//! vector clock). An access is ordered before another when the later warp knows the earlier one's clock. A
//! cell keeps the last write and the last two readers; that finds every race between two accesses that no third
//! access hides.

use crate::block::split;
use crate::fault::Party;
use crate::memory::Buffer;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the warps of a block know of each other.
pub struct Clocks {
    known: Vec<[u32; 32]>,
    /// The clock since which all lanes of a warp are in step.
    synchronised: [u32; 32],
    /// The last `bar.warp.sync` of a lane, when it was not of the whole warp: its clock and its mask.
    partial: Vec<(u32, u32)>,
}

impl Clocks {
    pub fn new(warps: usize) -> Clocks {
        let mut clocks = Clocks { known: Vec::new(), synchronised: [0; 32], partial: Vec::new() };
        clocks.reset(warps);
        clocks
    }
    pub fn reset(&mut self, warps: usize) {
        self.known.clear();
        self.known.resize(warps, [0; 32]);
        for (warp, known) in self.known.iter_mut().enumerate() {
            known[warp] = 1;
        }
        self.synchronised = [0; 32];
        self.partial.clear();
        self.partial.resize(warps * 32, (0, 0));
    }
    #[inline(always)]
    pub fn now(&self, warp: usize) -> u32 {
        self.known[warp][warp]
    }
    /// Adds what a warp knows to what a barrier has gathered.
    pub fn arrive(&mut self, warp: usize, gathered: &mut [u32; 32]) {
        for (all, known) in gathered.iter_mut().zip(&self.known[warp]) {
            *all = (*all).max(*known);
        }
    }
    /// A warp leaves a barrier that gathered this; its own lanes are in step.
    pub fn leave(&mut self, warp: usize, gathered: &[u32; 32]) {
        for (known, all) in self.known[warp].iter_mut().zip(gathered) {
            *known = (*known).max(*all);
        }
        self.advance(warp);
        self.synchronised[warp] = self.now(warp);
    }
    pub fn advance(&mut self, warp: usize) {
        self.known[warp][warp] += 1;
    }
    pub fn warp_barrier(&mut self, warp: usize, mask: u32, all: bool) {
        self.advance(warp);
        let now = self.now(warp);
        if all {
            self.synchronised[warp] = now;
        } else {
            for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
                self.partial[warp * 32 + lane] = (now, mask);
            }
        }
    }
    /// Whether an access of thread `earlier` at its clock `clock` comes before what `later` does now.
    #[inline(always)]
    fn ordered(&self, earlier: usize, clock: u32, later: usize) -> bool {
        if earlier == later {
            return true;
        }
        let (from, to) = (earlier / 32, later / 32);
        if from != to {
            return self.known[to][from] >= clock;
        }
        let (when, mask) = self.partial[later];
        clock < self.synchronised[to] || (clock < when && mask >> (earlier % 32) & 1 != 0)
    }
}

// A mark of 64 bits: generation 10, block 22, thread 10, clock 21, atomic 1. Larger blocks and clocks wrap:
// a race may then hide, but none is invented within a launch of 4 million blocks.
const GENERATION: u32 = 54;
const BLOCK: u32 = 32;
const THREAD: u32 = 22;
const BLOCKS: u64 = (1 << 22) - 1;
const THREADS: u64 = (1 << 10) - 1;
const CLOCKS: u64 = (1 << 21) - 1;
/// The bits of a mark that tell the lanes of a warp apart.
const LANE: u64 = 31 << THREAD;

/// One access of a warp.
pub struct Visit<'a> {
    clocks: &'a Clocks,
    warp: usize,
    /// The mark of lane 0.
    mark: u64,
    /// A mark without its lane that is known to come before this visit, whichever lane made it.
    ordered: u64,
}

impl<'a> Visit<'a> {
    pub fn new(clocks: &'a Clocks, (generation, block): (u64, u64), warp: usize, atomic: bool) -> Visit<'a> {
        let clock = clocks.now(warp) as u64 & CLOCKS;
        let mark = (generation % 1024) << GENERATION
            | (block & BLOCKS) << BLOCK
            | (warp as u64 * 32) << THREAD
            | clock << 1
            | atomic as u64;
        Visit { clocks, warp, mark, ordered: 0 }
    }

    /// Whether what left a mark and what `lane` does now are unordered and not both atomic.
    #[inline(always)]
    fn conflicts(&mut self, mark: u64, lane: usize) -> bool {
        mark != 0 && mark & !LANE != self.ordered && self.conflicts_slowly(mark, lane)
    }

    fn conflicts_slowly(&mut self, mark: u64, lane: usize) -> bool {
        let same_launch = (mark ^ self.mark) >> GENERATION == 0;
        if !same_launch || mark & self.mark & 1 != 0 {
            return false;
        }
        if (mark ^ self.mark) >> BLOCK != 0 {
            return true;
        }
        let (thread, clock) = ((mark >> THREAD & THREADS) as usize, (mark >> 1 & CLOCKS) as u32);
        let whole_warp = match thread / 32 == self.warp {
            true => clock < self.clocks.synchronised[self.warp],
            false => self.clocks.known[self.warp][thread / 32] >= clock,
        };
        if whole_warp {
            self.ordered = mark & !LANE;
            return false;
        }
        !self.clocks.ordered(thread, clock, self.warp * 32 + lane)
    }

    fn conflict(&self, mark: u64, wrote: bool) -> Conflict {
        Conflict {
            wrote,
            block: mark >> BLOCK & BLOCKS,
            thread: (mark >> THREAD & THREADS) as usize,
            same_block: (mark ^ self.mark) >> BLOCK == 0,
        }
    }

    /// Checks a cell against an access of `lane`.
    #[inline(always)]
    fn check(&mut self, cell: &[AtomicU64], lane: usize, write: bool) -> Option<Conflict> {
        let last = cell[0].load(Relaxed);
        if self.conflicts(last, lane) {
            return Some(self.conflict(last, true));
        }
        if write {
            for reader in &cell[1..] {
                let reader = reader.load(Relaxed);
                if self.conflicts(reader, lane) {
                    return Some(self.conflict(reader, false));
                }
            }
        }
        None
    }

    #[inline(always)]
    fn record(&self, cell: &[AtomicU64], lane: usize, write: bool) {
        let mark = self.mark + ((lane as u64) << THREAD);
        if write {
            cell[0].store(mark, Relaxed);
            return;
        }
        let (first, second) = (cell[1].load(Relaxed), cell[2].load(Relaxed));
        // Two lanes of this warp at this clock say as much as all: a writer is at most one of them.
        if (first ^ mark) & !LANE == 0 && ((second ^ mark) & !LANE == 0 || first == mark) {
            return;
        }
        if (first ^ mark) >> THREAD != 0 {
            // Keeps a reader of another block rather than one more of this block.
            let foreign = (second ^ mark) >> BLOCK != 0 && (second ^ mark) >> GENERATION == 0;
            if !(foreign && (first ^ mark) >> BLOCK == 0) {
                cell[2].store(first, Relaxed);
            }
        }
        cell[1].store(mark, Relaxed);
    }
}

/// The other party of a race, by number.
#[derive(Clone, Copy)]
pub struct Conflict {
    pub wrote: bool,
    pub block: u64,
    pub thread: usize,
    pub same_block: bool,
}

impl Conflict {
    pub fn party(&self, grid: [u32; 3], block: [u32; 3]) -> Party {
        Party {
            wrote: self.wrote,
            block: split(self.block, grid),
            thread: split(self.thread as u64, block),
            same_block: self.same_block,
        }
    }
}

/// The marks of places, three each: the last write, the last reader, and the last reader that was another
/// thread.
struct Cells(Buffer);

impl Cells {
    fn new(cells: usize) -> Option<Cells> {
        Buffer::new(cells * 24).map(Cells)
    }
    #[inline(always)]
    fn range(&self, at: usize, count: usize) -> std::slice::ChunksExact<'_, AtomicU64> {
        self.0.words()[3 * at..3 * (at + count)].chunks_exact(3)
    }
}

/// The shadow of a range of bytes: cells for words, and, once a narrower access has come, for bytes.
#[derive(Default)]
pub struct Shadow {
    words: OnceLock<Option<Cells>>,
    bytes: OnceLock<Option<Cells>>,
}

impl Shadow {
    /// Checks an access of a lane against all earlier ones, records it, or both. `size` is that of the whole
    /// memory.
    #[inline(always)]
    pub fn touch(
        &self,
        size: usize,
        (at, bytes): (usize, usize),
        visit: &mut Visit,
        (lane, write): (usize, bool),
        (check, record): (bool, bool),
    ) -> Option<Conflict> {
        let words = self.words.get_or_init(|| Cells::new(size.div_ceil(4))).as_ref()?;
        let narrow = bytes < 4;
        let mut found = None;
        for cell in words.range(at / 4, bytes.div_ceil(4)) {
            if check {
                found = found.or(visit.check(cell, lane, write));
            }
            if record && !narrow {
                visit.record(cell, lane, write);
            }
        }
        if narrow || self.bytes.get().is_some() {
            let cells = self.bytes.get_or_init(|| Cells::new(size)).as_ref()?;
            for cell in cells.range(at, bytes) {
                if check {
                    found = found.or(visit.check(cell, lane, write));
                }
                if record && narrow {
                    visit.record(cell, lane, write);
                }
            }
        }
        found
    }
}
