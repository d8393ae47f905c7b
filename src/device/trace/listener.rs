//! Who listens to a device, and what is heard.

use super::{Frame, Path, Range, Work};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// A launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: usize,
    pub path: Path,
    pub work: Work,
    /// `None` where nothing was run.
    pub span: Option<Span>,
}

/// Seconds since the program began to listen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub begin: f64,
    pub end: f64,
}

impl Span {
    pub fn seconds(self) -> f64 {
        self.end - self.begin
    }
}

/// What is heard. Launches come in their order, and a range after everything in it.
#[derive(Clone, Debug)]
pub enum Event {
    Launched(Launch),
    /// A range, or a layer, in which something ran; `path` ends with it.
    Closed {
        frame: Frame,
        path: Path,
        span: Span,
    },
    Allocated {
        address: u64,
        bytes: u64,
        path: Path,
    },
    Freed {
        address: u64,
    },
}

/// Whoever listens. It is called while the program launches work, and should be quick.
pub trait Listener: Send {
    fn hear(&mut self, event: Event);

    /// Whether the launches of this training step (`None`: outside of all) are to be measured.
    fn wants(&self, _step: Option<usize>) -> bool {
        true
    }
}

impl<L: Listener> Listener for Option<L> {
    fn hear(&mut self, event: Event) {
        if let Some(listener) = self {
            listener.hear(event);
        }
    }

    fn wants(&self, step: Option<usize>) -> bool {
        self.as_ref().is_some_and(|listener| listener.wants(step))
    }
}

/// A listener that the program shares with devices.
pub type SharedListener = Arc<Mutex<dyn Listener>>;

/// Consecutive training steps, the first and the last, counted over a run from 1: `11..20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    pub first: usize,
    pub last: usize,
}

impl Steps {
    pub fn contains(self, step: usize) -> bool {
        (self.first..=self.last).contains(&step)
    }
}

impl FromStr for Steps {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Steps, &'static str> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Steps { first, last }),
            _ => Err("expected FIRST..LAST, two steps counted from 1, such as 11..20, or one step"),
        }
    }
}

impl Display for Steps {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

/// What every device gets that is made from now on.
#[derive(Clone, Default)]
pub(super) struct Defaults {
    pub listener: Option<SharedListener>,
    pub profiled: Option<Steps>,
}

static DEFAULTS: Mutex<Defaults> = Mutex::new(Defaults { listener: None, profiled: None });

/// Lets `listener` hear of everything on every device that is made from now on; `None`: of none.
pub fn listen_to_all(listener: Option<SharedListener>) {
    DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner).listener = listener;
}

/// Brackets these training steps with the calls that start and stop a profiler of CUDA, on every device that
/// is made from now on.
pub fn profile_steps(steps: Option<Steps>) {
    DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner).profiled = steps;
}

pub(super) fn defaults() -> Defaults {
    DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether this is the range of a training step, and of which.
pub(super) fn step_of(frame: &Frame) -> Option<usize> {
    if let Frame::Range(Range::Step(step)) = frame { Some(*step) } else { None }
}
