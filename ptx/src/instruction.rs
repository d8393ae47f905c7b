//! The decoded form: one instruction is a function or a small description, and the rows of its registers.

use crate::access::Access;
use crate::lanes::{Constants, Execute};
use crate::matrix::Mma;

/// What a register holds in each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Class {
    /// 16 or 32 bits, one row of 32 words.
    Word,
    /// 64 bits, one row of 32 double words.
    Double,
    /// A predicate: a mask of 32 lanes.
    Predicate,
}

/// The row of a register, or of a constant that all warps share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot(u16);

impl Slot {
    const CONSTANT: u16 = 1 << 15;
    pub const LIMIT: usize = Slot::CONSTANT as usize;

    pub fn register(index: usize) -> Slot {
        Slot(index as u16)
    }
    pub fn constant(index: usize) -> Slot {
        Slot(index as u16 | Slot::CONSTANT)
    }
    #[inline(always)]
    pub fn is_constant(self) -> bool {
        self.0 & Slot::CONSTANT != 0
    }
    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 & !Slot::CONSTANT) as usize
    }
}

/// How an instruction uses an operand, for the live ranges of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Read,
    Write,
}

/// The number of operands that an instruction holds in itself; more lie in `Run::Mma`.
pub const OPERANDS: usize = 6;

#[derive(Clone, Copy, Debug, Default)]
pub struct Operands {
    /// In the order of the PTX text: destinations first.
    pub slots: [Slot; OPERANDS],
    /// Modifiers (see `arith::Modifiers`) or a small immediate.
    pub arg: u32,
}

/// A position in the program's source, from `.loc`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize)]
pub struct Source {
    /// The number of the file in `Module::files`; 0 where there is no position.
    pub file: u32,
    pub line: u32,
    /// The file and line of the call that was inlined here, or zeros.
    pub inlined_at: (u32, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    pub predicate: Slot,
    pub negated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarrierKind {
    /// Waits for the others.
    Sync,
    /// Counts as arrived and goes on.
    Arrive,
    /// Waits, and combines a predicate of all threads.
    Popc,
    And,
    Or,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
    /// `activemask`: no mask, no check.
    Active,
    MatchAny,
    MatchAll,
    Elect,
    /// `redux.sync`.
    Reduce(Reduction),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduction {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Run {
    /// Each lane by itself: the table of `arith`.
    Lanes(Execute),
    /// Predicates as masks of 32 lanes.
    Masks(fn(u32, u32, u32) -> u32),
    /// Two results from one comparison: `setp` with `p|q` or a third predicate.
    Compare(Box<Comparison>),
    Jump(u32),
    Branch {
        target: u32,
        reconverge: u32,
    },
    Exit,
    Trap,
    Nothing,
    Memory(Box<Access>),
    AsyncCommit,
    /// Waits until at most this many groups are in flight; all copies, grouped or not, for `None`.
    AsyncWait(Option<u32>),
    /// `bar` and `barrier`; operands: the result of a reduction, the barrier, the number of threads (0: all),
    /// a predicate.
    Barrier(BarrierKind),
    WarpBarrier,
    /// Operands: d, p, a, b, c, mask.
    Shuffle(Shuffle),
    /// Operands: d, p, a, mask. `arg` 1: the predicate is negated; 2: 64-bit `a`.
    Vote(Vote),
    Mma(Box<Mma>),
}

#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub execute: Execute,
    /// Combines the comparison with a third predicate, which `negated` inverts.
    pub combine: fn(u32, u32) -> u32,
    pub negated: bool,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub run: Run,
    pub operands: Operands,
    pub guard: Option<Guard>,
}

/// The kinds of instruction that the counts tell apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    Float,
    Fma,
    Special,
    Half,
    Tensor,
    Integer,
    Convert,
    Move,
    Predicate,
    Branch,
    Load,
    Store,
    Atomic,
    Async,
    Barrier,
    Shuffle,
    Other,
}

/// What the counts and messages say about an instruction.
#[derive(Clone, Debug)]
pub struct Description {
    pub opcode: String,
    /// The line of the PTX text.
    pub line: u32,
    pub source: Source,
    pub category: Category,
    /// Floating-point operations of one active lane.
    pub flops: u32,
    /// Whether the load/store units get it.
    pub reaches_memory: bool,
}

/// The code of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Code {
    pub instructions: Vec<Instruction>,
    pub descriptions: Vec<Description>,
    pub constants: Constants,
    /// Rows of words, double words and predicates that a warp needs.
    pub rows: [usize; 3],
    /// Registers that hold a special value from the start.
    pub specials: Vec<(Special, Class, Slot)>,
    pub local_size: usize,
    /// The first instruction that reads a register which some path leaves unwritten.
    pub unwritten: Option<usize>,
}

/// Values that a warp or a launch sets before the first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    DynamicShared,
    TotalShared,
    /// A variable of the module in global memory: its offset from the first one; 64 bits.
    Global(usize),
}
