//! Who touched memory last: the shadow in which races show.
//!
//! Each warp has a clock that its barriers advance, and knows how far it has seen the clocks of the
//! others (a vector clock). An access is ordered before another when the later warp knows the earlier
//! one's clock. A cell keeps the last write and the last two readers; that finds every race between two
//! accesses that no third access hides.

use crate::block::split;
use crate::fault::Party;
use crate::memory::Buffer;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

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
        let mut signs = -1;
        for mark in marks {
            signs &= mark.load(Relaxed).wrapping_sub(self.oldest) as i64;
        }
        signs < 0
    }

    /// Whether what left a mark comes before what any lane does now, or may come at the same time.
    #[inline(always)]
    fn follows(&mut self, mark: u64) -> bool {
        mark < self.oldest || mark & !LANE == self.ordered || self.follows_slowly(mark)
    }

    fn follows_slowly(&mut self, mark: u64) -> bool {
        if mark & self.mark & 1 != 0 {
            // Both are atomic.
            return true;
        }
        if (mark ^ self.mark) >> BLOCK != 0 {
            return false;
        }
        let (thread, clock) = ((mark >> THREAD & THREADS) as usize, (mark >> 1 & CLOCKS) as u32);
        let ordered = match thread / 32 == self.warp {
            true => clock < self.clocks.synchronised[self.warp],
            false => self.clocks.known[self.warp][thread / 32] >= clock,
        };
        if ordered {
            self.ordered = mark & !LANE;
        }
        ordered
    }

    /// Whether what left a mark and what `lane` does now are unordered.
    #[inline(always)]
    fn conflicts(&mut self, mark: u64, lane: usize) -> bool {
        let own = (mark ^ self.mark(lane)) >> THREAD == 0;
        !own && !self.follows(mark) && self.is_unordered(mark, lane)
    }

    fn is_unordered(&self, mark: u64, lane: usize) -> bool {
        let (thread, clock) = ((mark >> THREAD & THREADS) as usize, (mark >> 1 & CLOCKS) as u32);
        let same_block = (mark ^ self.mark) >> BLOCK == 0;
        !(same_block && self.clocks.ordered(thread, clock, self.warp * 32 + lane))
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

/// Neighbouring bytes that neighbouring lanes touch: those of `lane` from `at` on, then those of the next
/// lane.
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
struct Cells {
    marks: [Buffer; 3],
    /// The last generations that read and wrote: most memory is only read or only written, and then half of
    /// the marks need no look.
    used: [AtomicU64; 2],
}

/// The cells of a run, and how many cells belong to each lane, as a power of two.
struct CellRun<'a> {
    cells: &'a Cells,
    first: usize,
    end: usize,
    lane: usize,
    shift: u32,
}

impl Cells {
    fn new(cells: usize) -> Option<Cells> {
        let buffer = || Buffer::new(cells * 8);
        Some(Cells { marks: [buffer()?, buffer()?, buffer()?], used: Default::default() })
    }
    /// Notes that a visit comes, and returns whether marks of writes, and of reads, may be of its generation.
    fn begin(&self, visit: &Visit) -> [bool; 2] {
        let [reads, writes] = &self.used;
        let own = if visit.write { writes } else { reads };
        if own.load(Relaxed) != visit.oldest {
            // Before the look at the other: of two threads that come at once, one sees the other.
            own.store(visit.oldest, SeqCst);
        }
        [writes, reads].map(|used| used.load(SeqCst) == visit.oldest)
    }
    /// The cells of `unit` bytes that a run touches.
    #[inline(always)]
    fn run(&self, run: Run, each: Each, unit: usize) -> CellRun<'_> {
        let (first, end) = (run.at / unit, (run.at + run.lanes * each.bytes).div_ceil(unit));
        let shift = (each.bytes / unit).max(1).trailing_zeros();
        CellRun { cells: self, first, end, lane: run.lane, shift }
    }
}

impl<'a> CellRun<'a> {
    #[inline(always)]
    fn writes(&self) -> &'a [AtomicU64] {
        &self.cells.marks[0].words()[self.first..self.end]
    }
    #[inline(always)]
    fn readers(&self) -> &'a [AtomicU64] {
        &self.cells.marks[1].words()[self.first..self.end]
    }
    #[inline(always)]
    fn other_readers(&self) -> &'a [AtomicU64] {
        &self.cells.marks[2].words()[self.first..self.end]
    }

    #[inline(always)]
    fn is_old(&self, visit: &Visit, [written, read]: [bool; 2]) -> bool {
        (!written || visit.are_old(self.writes())) && (!read || !visit.write || visit.are_old(self.readers()))
    }

    /// Whether the whole warp comes after all that left marks here: most accesses need no more.
    fn is_settled(&self, visit: &mut Visit) -> bool {
        let kinds = if visit.write { 3 } else { 1 };
        let all = [self.writes(), self.readers(), self.other_readers()];
        all[..kinds].iter().all(|marks| marks.iter().all(|mark| visit.follows(mark.load(Relaxed))))
    }

    fn compare(&self, visit: &mut Visit) -> Option<(usize, Conflict)> {
        let (writes, readers, others) = (self.writes(), self.readers(), self.other_readers());
        for at in 0..writes.len() {
            let (lane, last) = (self.lane + (at >> self.shift), writes[at].load(Relaxed));
            if visit.conflicts(last, lane) {
                return Some((lane, visit.conflict(last, true)));
            }
            if visit.write {
                for reader in [&readers[at], &others[at]] {
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
        if !visit.write && !visit.are_old(self.readers()) {
            return self.add_readers(visit);
        }
        let marks = if visit.write { self.writes() } else { self.readers() };
        for (at, cell) in marks.iter().enumerate() {
            cell.store(visit.mark(self.lane + (at >> self.shift)), Relaxed);
        }
    }

    fn add_readers(&self, visit: &Visit) {
        let (readers, others) = (self.readers(), self.other_readers());
        for at in 0..readers.len() {
            let mark = visit.mark(self.lane + (at >> self.shift));
            let (one, other) = (readers[at].load(Relaxed), others[at].load(Relaxed));
            // Two lanes of this warp at this clock say as much as all: a writer is at most one of them.
            if (one ^ mark) & !LANE == 0 && ((other ^ mark) & !LANE == 0 || one == mark) {
                continue;
            }
            if (one ^ mark) >> THREAD != 0 {
                // Keeps a reader of another block rather than one more of this block.
                let foreign = (other ^ mark) >> BLOCK != 0 && other >= visit.oldest;
                if !(foreign && (one ^ mark) >> BLOCK == 0) {
                    others[at].store(one, Relaxed);
                }
            }
            readers[at].store(mark, Relaxed);
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
    /// Compares an access with all earlier ones: first that of `whole`, which covers all of its runs,
    /// where that is less work. `size` is that of the whole memory.
    #[inline(always)]
    pub fn check(
        &self,
        size: usize,
        (whole, runs): (Option<Run>, impl Iterator<Item = Run> + Clone),
        each: Each,
        visit: &mut Visit,
    ) -> Option<(usize, Conflict)> {
        let words = self.words.get_or_init(|| Cells::new(size.div_ceil(4))).as_ref()?;
        if each.narrow {
            self.bytes.get_or_init(|| Cells::new(size));
        }
        for (cells, unit) in [(Some(words), 4), (self.bytes.get().and_then(Option::as_ref), 1)] {
            let Some(cells) = cells else { continue };
            let used = cells.begin(visit);
            let unused = !(used[0] || visit.write && used[1]);
            let settled = |run: CellRun, visit: &mut Visit| run.is_old(visit, used) || run.is_settled(visit);
            if unused || whole.is_some_and(|run| settled(cells.run(run, each, unit), visit)) {
                continue;
            }
            for run in runs.clone() {
                let run = cells.run(run, each, unit);
                if !run.is_old(visit, used)
                    && let Some(found) = run.compare(visit)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Notes an access that `check` has compared.
    #[inline(always)]
    pub fn record(&self, runs: impl Iterator<Item = Run>, each: Each, visit: &Visit) {
        let (cells, unit) = if each.narrow { (&self.bytes, 1) } else { (&self.words, 4) };
        if let Some(Some(cells)) = cells.get() {
            for run in runs {
                cells.run(run, each, unit).record(visit);
            }
        }
    }
}
