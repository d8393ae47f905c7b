//! The clock of launches: the program's own on a device that runs its work at once, events of the stream on
//! a GPU.

use super::super::cuda;
use super::Span;
use crate::error::Result;
use std::sync::LazyLock;
use std::time::Instant;

/// The zero of all times.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since the first call.
pub fn now() -> f64 {
    ORIGIN.elapsed().as_secs_f64()
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stamp {
    At(f64),
    /// The time of the event of this number.
    Event(u64),
}

/// Where moments come from.
pub enum Timeline {
    Clock,
    Events(cuda::Events),
}

impl Timeline {
    /// The moment at which the device has done what was launched until now.
    pub(super) fn stamp(&mut self) -> Result<Stamp> {
        match self {
            Timeline::Clock => Ok(Stamp::At(now())),
            Timeline::Events(events) => events.record().map(Stamp::Event),
        }
    }

    /// Tells a profiler of CUDA whether what follows is of interest.
    pub(super) fn profile(&self, wanted: bool) {
        match self {
            Timeline::Events(_) if wanted => cuda::start_profiler(),
            Timeline::Events(_) => cuda::stop_profiler(),
            Timeline::Clock if wanted => {
                eprintln!("note: --profile-steps is for profilers of CUDA; the host has none to start");
            }
            Timeline::Clock => {}
        }
    }
}

/// A beginning and an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    pub begin: Stamp,
    pub end: Stamp,
}

impl Stamps {
    /// The span, as soon as both times are known; `time` gives that of an event.
    pub fn span(self, time: impl Fn(u64) -> Option<f64>) -> Option<Span> {
        let known = |stamp| match stamp {
            Stamp::At(time) => Some(time),
            Stamp::Event(number) => time(number),
        };
        Some(Span { begin: known(self.begin)?, end: known(self.end)? })
    }

    /// The same with a beginning at a time that is known by now.
    pub fn begun(self, time: impl Fn(u64) -> Option<f64>) -> Stamps {
        match self.begin {
            Stamp::Event(number) => Stamps { begin: time(number).map_or(self.begin, Stamp::At), ..self },
            Stamp::At(_) => self,
        }
    }
}
