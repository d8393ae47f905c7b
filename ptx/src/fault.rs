//! What a program did wrong, and where.

use std::fmt;

/// A parse error: the line of the PTX text and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub line: u32,
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the PTX: {}", self.line, self.reason)
    }
}
impl std::error::Error for ParseError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Generic => "generic",
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Param => "parameter",
            Space::Const => "constant",
        })
    }
}

/// An access that a fault is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    pub space: Space,
    pub address: u64,
    pub bytes: usize,
    pub write: bool,
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.write { "writes" } else { "reads" };
        let plural = if self.bytes == 1 { "" } else { "s" };
        write!(f, "{verb} {} byte{plural} of {} memory at {:#x}", self.bytes, self.space, self.address)
    }
}

impl FaultKind {
    /// A block whose warps have run this many instructions.
    pub(crate) fn endless(instructions: u64) -> FaultKind {
        FaultKind::Deadlock(format!(
            "no end after {instructions} instructions of the block's warps: a loop that waits for another \
             lane of its warp, or for another block, never ends here"
        ))
    }
}

/// The other party of a race.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    pub wrote: bool,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub same_block: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The text says where the memory ends.
    OutOfBounds(Touch, String),
    Misaligned(Touch),
    Race(Touch, Party),
    /// Lanes of one instruction write different values to one place.
    Collision(Touch),
    Uninitialised(Touch),
    /// A register that a path through the kernel leaves unwritten.
    UnwrittenRegister,
    /// `cp.async` has not been waited for.
    InFlight(Touch),
    Barrier(String),
    Mask(String),
    Deadlock(String),
    Trap,
    /// The launch itself cannot be.
    Launch(String),
    /// What the machine does not model.
    Unsupported(String),
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::OutOfBounds(touch, detail) => write!(f, "{touch}, {detail}"),
            FaultKind::Misaligned(touch) => write!(f, "{touch}, which is no multiple of {}", touch.bytes),
            FaultKind::Race(touch, party) => {
                let verb = if party.wrote { "wrote" } else { "read" };
                if party.same_block {
                    write!(f, "{touch}, which thread {} {verb} with no barrier between", Triple(party.thread))
                } else {
                    write!(
                        f,
                        "{touch}, which thread {} of block {} {verb} in the same launch",
                        Triple(party.thread),
                        Triple(party.block)
                    )
                }
            }
            FaultKind::Collision(touch) => {
                write!(f, "{touch}, where another lane writes another value in the same instruction")
            }
            FaultKind::Uninitialised(touch) => write!(f, "{touch}, which nothing has written"),
            FaultKind::UnwrittenRegister => f.write_str("reads a register that may not have been written"),
            FaultKind::InFlight(touch) => {
                write!(f, "{touch}, which a cp.async is still filling: a wait for it is missing")
            }
            FaultKind::Trap => f.write_str("trap"),
            FaultKind::Barrier(text)
            | FaultKind::Mask(text)
            | FaultKind::Deadlock(text)
            | FaultKind::Launch(text)
            | FaultKind::Unsupported(text) => f.write_str(text),
        }
    }
}

/// A fault of a kernel, with the thread and the source line that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub kernel: String,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// File and line from `.loc`.
    pub source: Option<(String, u32)>,
    /// The line of the PTX text; 0 where no instruction is at fault.
    pub line: u32,
    pub what: FaultKind,
}

impl Fault {
    /// A fault of no kernel: a host access, or a launch that cannot be.
    pub(crate) fn outside(kernel: &str, what: FaultKind) -> Fault {
        Fault { kernel: kernel.into(), block: [0; 3], thread: [0; 3], source: None, line: 0, what }
    }
}

struct Triple([u32; 3]);
impl fmt::Display for Triple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.0;
        write!(f, "({x}, {y}, {z})")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kernel.is_empty() {
            return write!(f, "{}", self.what);
        }
        write!(f, "{}", self.kernel)?;
        match &self.source {
            Some((file, line)) => write!(f, " at {file}:{line}")?,
            None if self.line > 0 => write!(f, " at line {} of the PTX", self.line)?,
            None => return write!(f, ": {}", self.what),
        }
        write!(f, ", block {}, thread {}: {}", Triple(self.block), Triple(self.thread), self.what)
    }
}
impl std::error::Error for Fault {}
