//! What a device is asked to do, for whoever listens: every launch with its place in the program.
//!
//! The program opens named ranges ([`Device::scope`]) and layers ([`Device::layer`]). A range has no time of
//! its own: it begins with its first launch and ends with its last, on the clock that launches are measured
//! with, so that ranges nest and hold their launches by construction, and a range without launches is not
//! heard of. Without a listener and without a profiler each of these costs the load of one flag.

mod listener;
mod timeline;
mod tracer;
mod work;

pub use listener::{Event, Launch, Listener, SharedListener, Span, Steps, listen_to_all, profile_steps};
pub use work::Work;

pub(super) use timeline::{Timeline, now};
pub(super) use tracer::Tracer;

use super::Device;
use crate::error::Result;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// A part of a program's work. Numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// Making or loading a network.
    Network,
    /// Moving a data set to the device, or making a batch of it.
    Data,
    Epoch(usize),
    /// A training step, counted over the run.
    Step(usize),
    /// Making adversarial images.
    Attack,
    AttackStep(usize),
    /// Logits, and the loss of them, that are differentiated.
    Forward,
    Backward,
    /// Logits without a gradient.
    Evaluation,
    /// The optimiser.
    Update,
    /// The average of the weights.
    Average,
    /// The gradient of a parameter: says what its memory is for.
    Gradient,
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Range::Epoch(n) => write!(f, "epoch {n}"),
            Range::Step(n) => write!(f, "step {n}"),
            Range::AttackStep(n) => write!(f, "attack step {n}"),
            other => f.write_str(&format!("{other:?}").to_lowercase()),
        }
    }
}

/// A range, or a layer of a network by its name in PyTorch: `layer1.0.conv1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    Range(Range),
    Layer(Arc<str>),
}

impl Display for Frame {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Frame::Range(range) => range.fmt(f),
            Frame::Layer(name) => f.write_str(name),
        }
    }
}

/// A place in the program: the open ranges and layers, from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(pub Arc<[Frame]>);

impl Path {
    /// The innermost layer.
    pub fn layer(&self) -> Option<&Arc<str>> {
        self.0.iter().rev().find_map(|frame| match frame {
            Frame::Layer(name) => Some(name),
            Frame::Range(_) => None,
        })
    }

    /// The open ranges, from outside.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.0.iter().filter_map(|frame| match frame {
            Frame::Range(range) => Some(*range),
            Frame::Layer(_) => None,
        })
    }

    /// The training step.
    pub fn step(&self) -> Option<usize> {
        self.ranges().find_map(|range| if let Range::Step(step) = range { Some(step) } else { None })
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(
            |(place, frame)| {
                if place > 0 { write!(f, "/{frame}") } else { frame.fmt(f) }
            },
        )
    }
}

/// An open range; it closes when this is dropped.
#[must_use = "the range closes at once"]
pub struct Scope(Option<Device>);

impl Drop for Scope {
    fn drop(&mut self) {
        if let Some(device) = &self.0 {
            device.0.tracer.close();
        }
    }
}

impl Device {
    /// Opens a range for as long as the result lives.
    pub fn scope(&self, range: Range) -> Scope {
        self.enter(|| Some(Frame::Range(range)))
    }

    /// Opens a layer for as long as the result lives.
    pub fn layer(&self, name: &str) -> Scope {
        self.enter(|| Some(Frame::Layer(name.into())))
    }

    /// [`Device::layer`] for a layer that [`Device::open_layer`] gave.
    pub fn reopen(&self, layer: Option<&Arc<str>>) -> Scope {
        self.enter(|| layer.cloned().map(Frame::Layer))
    }

    fn enter(&self, frame: impl FnOnce() -> Option<Frame>) -> Scope {
        let frame = if self.0.tracer.is_on() { frame() } else { None };
        Scope(frame.map(|frame| {
            self.0.tracer.open(frame);
            self.clone()
        }))
    }

    /// The innermost layer that is open, while somebody listens.
    pub fn open_layer(&self) -> Option<Arc<str>> {
        if self.0.tracer.is_on() { self.0.tracer.path().layer().cloned() } else { None }
    }

    /// Tells `listener` of everything from now on.
    pub fn listen(&self, listener: SharedListener) {
        self.0.tracer.listen(listener);
    }

    /// From now on launches are told to listeners, and not run: memory keeps what it holds.
    pub fn rehearse(&self) {
        self.0.tracer.rehearse();
    }

    /// The launches of `work`, which are not run: memory keeps what it holds. Nobody else hears of them.
    pub fn rehearsed(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>> {
        self.0.tracer.rehearsed(work)
    }

    /// Whether each launch is to be seen: then work should be launched as it is and not as a graph, whose
    /// launches a GPU does not show.
    pub fn is_traced(&self) -> bool {
        self.0.tracer.is_on() && self.0.tracer.has_listeners()
    }

    /// Waits for the device, and tells listeners everything so far.
    pub fn settle(&self) -> Result<()> {
        self.synchronize()?;
        self.0.tracer.settle()
    }
}

#[cfg(test)]
mod tests;
