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
/// Generations are numbered from 1 to this, and then the shadow is cleared: older marks are always less than
/// newer ones, and the difference of two marks has a sign.
pub const LAST_GENERATION: u64 = 511;

/// One access of a warp.
pub struct Visit<'a> {
    clocks: &'a Clocks,
    warp: usize,
    write: bool,
    /// The mark of lane 0.
    mark: u64,
    /// The least mark of this generation.
    oldest: u64,
    /// A mark without its lane that is known to come before this visit, whichever lane made it.
    ordered: u64,
}

impl<'a> Visit<'a> {
    pub fn new(
        clocks: &'a Clocks,
        (generation, block): (u64, u64),
        (warp, write, atomic): (usize, bool, bool),
    ) -> Visit<'a> {
        let (clock, oldest) = (clocks.now(warp) as u64 & CLOCKS, generation << GENERATION);
        let mark =
            oldest | (block & BLOCKS) << BLOCK | (warp as u64 * 32) << THREAD | clock << 1 | atomic as u64;
        Visit { clocks, warp, write, mark, oldest, ordered: 0 }
    }

    #[inline(always)]
    fn mark(&self, lane: usize) -> u64 {
        self.mark + ((lane as u64) << THREAD)
    }

    /// Whether all marks are of earlier generations: then they say nothing.
    #[inline(always)]
    fn are_old(&self, marks: &[AtomicU64]) -> bool {
        let signs = marks.iter().fold(u64::MAX, |signs, mark| signs & mark.load(Relaxed).wrapping_sub(self.oldest));
        (signs as i64) < 0
    }

    /// Whether what left a mark and what `lane` does now are unordered and not both atomic.
    #[inline(always)]
    fn conflicts(&mut self, mark: u64, lane: usize) -> bool {
        mark >= self.oldest
            && mark & !LANE != self.ordered
            && (mark ^ self.mark(lane)) >> THREAD != 0
            && self.conflicts_slowly(mark, lane)
    }

    fn conflicts_slowly(&mut self, mark: u64, lane: usize) -> bool {
        if mark & self.mark & 1 != 0 {
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

/// Neighbouring bytes that neighbouring lanes touch: those of `lane` from `at` on, then those of the next lane.
#[derive(Clone, Copy)]
pub struct Run {
    pub at: usize,
    pub lane: usize,
    pub lanes: usize,
}

/// What each lane touches: so many bytes, a power of two, in elements narrower than a word or not.
#[derive(Clone, Copy)]
pub struct Each {
    pub bytes: usize,
    pub narrow: bool,
}

/// The marks of places: the last write, the last reader, and the last reader that was another thread, whose
/// mark is of this generation only where that of the last reader is too.
struct Cells([Buffer; 3]);

/// The cells of a run, and how many cells belong to each lane, as a power of two.
struct CellRun<'a> {
    marks: [&'a [AtomicU64]; 3],
    lane: usize,
    shift: u32,
}

impl Cells {
    fn new(cells: usize) -> Option<Cells> {
        let buffer = || Buffer::new(cells * 8);
        Some(Cells([buffer()?, buffer()?, buffer()?]))
    }
    /// The cells of `unit` bytes that a run touches.
    #[inline(always)]
    fn run(&self, run: Run, each: Each, unit: usize) -> CellRun<'_> {
        let (first, end) = (run.at / unit, (run.at + run.lanes * each.bytes).div_ceil(unit));
        let marks = [0, 1, 2].map(|kind| &self.0[kind].words()[first..end]);
        CellRun { marks, lane: run.lane, shift: (each.bytes / unit).max(1).trailing_zeros() }
    }
}

impl CellRun<'_> {
    #[inline(always)]
    fn check(&self, visit: &mut Visit) -> Option<(usize, Conflict)> {
        let [writes, first, second] = self.marks;
        if visit.are_old(writes) && (!visit.write || visit.are_old(first)) {
            return None;
        }
        for (at, last) in writes.iter().enumerate() {
            let (lane, last) = (self.lane + (at >> self.shift), last.load(Relaxed));
            if visit.conflicts(last, lane) {
                return Some((lane, visit.conflict(last, true)));
            }
            if visit.write {
                for reader in [&first[at], &second[at]] {
                    let reader = reader.load(Relaxed);
                    if visit.conflicts(reader, lane) {
                        return Some((lane, visit.conflict(reader, false)));
                    }
                }
            }
        }
        None
    }

    #[inline(always)]
    fn record(&self, visit: &Visit) {
        let [writes, first, second] = self.marks;
        if visit.write || visit.are_old(first) {
            let marks = if visit.write { writes } else { first };
            for (at, cell) in marks.iter().enumerate() {
                cell.store(visit.mark(self.lane + (at >> self.shift)), Relaxed);
            }
            return;
        }
        for at in 0..first.len() {
            let mark = visit.mark(self.lane + (at >> self.shift));
            let (one, other) = (first[at].load(Relaxed), second[at].load(Relaxed));
            // Two lanes of this warp at this clock say as much as all: a writer is at most one of them.
            if (one ^ mark) & !LANE == 0 && ((other ^ mark) & !LANE == 0 || one == mark) {
                continue;
            }
            if (one ^ mark) >> THREAD != 0 {
                // Keeps a reader of another block rather than one more of this block.
                let foreign = (other ^ mark) >> BLOCK != 0 && other >= visit.oldest;
                if !(foreign && (one ^ mark) >> BLOCK == 0) {
                    second[at].store(one, Relaxed);
                }
            }
            first[at].store(mark, Relaxed);
        }
    }
}

/// The shadow of a range of bytes: cells for words, and, once a narrower access has come, for bytes.
#[derive(Default)]
pub struct Shadow {
    words: OnceLock<Option<Cells>>,
    bytes: OnceLock<Option<Cells>>,
}

impl Shadow {
    /// Compares an access with all earlier ones. `size` is that of the whole memory.
    #[inline(always)]
    pub fn check(&self, size: usize, run: Run, each: Each, visit: &mut Visit) -> Option<(usize, Conflict)> {
        let words = self.words.get_or_init(|| Cells::new(size.div_ceil(4))).as_ref()?;
        let found = words.run(run, each, 4).check(visit);
        match self.bytes.get() {
            Some(Some(bytes)) => found.or_else(|| bytes.run(run, each, 1).check(visit)),
            _ => found,
        }
    }

    /// Notes an access that `check` has compared.
    #[inline(always)]
    pub fn record(&self, size: usize, run: Run, each: Each, visit: &Visit) {
        let (cells, unit, count) = match each.narrow {
            false => (&self.words, 4, size.div_ceil(4)),
            true => (&self.bytes, 1, size),
        };
        if let Some(cells) = cells.get_or_init(|| Cells::new(count)) {
            cells.run(run, each, unit).record(visit);
        }
    }
}
