//! Who touched memory last: the shadow in which races show.
//!
//! Each warp has a clock that its barriers advance, and knows how far it has seen the clocks of the others (a
//! vector clock). An access is ordered before another when the later warp knows the earlier one's clock. A cell
//! keeps the last write and the last two readers; that finds every race between two accesses that no third
//! access hides.

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

/// The thread that accesses, and its block.
#[derive(Clone, Copy)]
pub struct Actor<'a> {
    pub clocks: &'a Clocks,
    pub block: u64,
    pub generation: u64,
    pub thread: usize,
    pub atomic: bool,
}

// A mark of 64 bits: generation 10, block 22, thread 10, clock 21, atomic 1. Larger blocks and clocks wrap:
// a race may then hide, but none is invented within a launch of 4 million blocks.
const GENERATIONS: u64 = 1 << 10;

impl Actor<'_> {
    #[inline(always)]
    fn mark(&self) -> u64 {
        let clock = self.clocks.now(self.thread / 32) as u64 & 0x1f_ffff;
        (self.generation % GENERATIONS) << 54
            | (self.block & 0x3f_ffff) << 32
            | (self.thread as u64) << 22
            | clock << 1
            | self.atomic as u64
    }
    #[inline(always)]
    fn conflicts(&self, mark: u64) -> bool {
        if mark == 0 || mark >> 54 != self.generation % GENERATIONS || (self.atomic && mark & 1 != 0) {
            return false;
        }
        if mark >> 32 & 0x3f_ffff != self.block & 0x3f_ffff {
            return true;
        }
        let thread = (mark >> 22 & 0x3ff) as usize;
        !self.clocks.ordered(thread, (mark >> 1 & 0x1f_ffff) as u32, self.thread)
    }
    fn party(&self, mark: u64, wrote: bool) -> Conflict {
        let block = mark >> 32 & 0x3f_ffff;
        Conflict {
            wrote,
            block,
            thread: (mark >> 22 & 0x3ff) as usize,
            same_block: block == self.block & 0x3f_ffff,
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
        let split = |n: u64, size: [u32; 3]| {
            let (x, y) = (size[0] as u64, size[1] as u64);
            [(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32]
        };
        Party {
            wrote: self.wrote,
            block: split(self.block, grid),
            thread: split(self.thread as u64, block),
            same_block: self.same_block,
        }
    }
}

/// The marks of one place: the last write, the last reader, and the last reader that was another thread.
pub struct Cells(Buffer);

impl Cells {
    pub fn new(cells: usize) -> Option<Cells> {
        Buffer::new(cells * 24).map(Cells)
    }
    #[inline(always)]
    fn cell(&self, at: usize) -> &[AtomicU64] {
        &self.0.words()[3 * at..3 * at + 3]
    }
    #[inline(always)]
    fn check(&self, at: usize, actor: &Actor, write: bool) -> Option<Conflict> {
        let cell = self.cell(at);
        let last = cell[0].load(Relaxed);
        if actor.conflicts(last) {
            return Some(actor.party(last, true));
        }
        if write {
            for reader in &cell[1..] {
                let reader = reader.load(Relaxed);
                if actor.conflicts(reader) {
                    return Some(actor.party(reader, false));
                }
            }
        }
        None
    }
    #[inline(always)]
    fn record(&self, at: usize, actor: &Actor, write: bool) {
        const THREAD: u64 = !0x3f_ffff;
        const BLOCK: u64 = !0xffff_ffff;
        let cell = self.cell(at);
        let mark = actor.mark();
        if write {
            cell[0].store(mark, Relaxed);
            return;
        }
        let first = cell[1].load(Relaxed);
        if first == mark {
            return;
        }
        if (first ^ mark) & THREAD != 0 {
            // Keeps a reader of another block rather than one more of this block.
            let second = cell[2].load(Relaxed);
            let foreign = (second ^ mark) & BLOCK != 0 && second >> 54 == mark >> 54;
            if !(foreign && (first ^ mark) & BLOCK == 0) {
                cell[2].store(first, Relaxed);
            }
        }
        cell[1].store(mark, Relaxed);
    }
}

/// The shadow of a range of bytes: cells for words, and, once a narrower access has come, for bytes.
#[derive(Default)]
pub struct GlobalShadow {
    words: OnceLock<Option<Cells>>,
    bytes: OnceLock<Option<Cells>>,
}

impl GlobalShadow {
    /// Checks an access against all earlier ones and records it.
    #[inline(always)]
    pub fn touch(&self, size: usize, at: usize, bytes: usize, actor: &Actor, write: bool) -> Option<Conflict> {
        let words = self.words.get_or_init(|| Cells::new(size.div_ceil(4))).as_ref()?;
        let mut found = None;
        for word in at / 4..(at + bytes).div_ceil(4) {
            found = found.or(words.check(word, actor, write));
            if bytes >= 4 {
                words.record(word, actor, write);
            }
        }
        if bytes < 4 || self.bytes.get().is_some() {
            let cells = self.bytes.get_or_init(|| Cells::new(size)).as_ref()?;
            for byte in at..at + bytes {
                found = found.or(cells.check(byte, actor, write));
                if bytes < 4 {
                    cells.record(byte, actor, write);
                }
            }
        }
        found
    }
}
