//! Stream capture: work is recorded instead of run. And events, through which a capture spreads.
//!
//! A capture keeps its work in the order of the calls, which every dependency agrees with. It notes how much
//! of each stream's work each stream depends on, to know at the end whether all of it was joined.

use crate::call::{Outcome, Refusal};
use crate::codes::Code;
use crate::driver::Driver;
use crate::handles::{Handle, lock};
use crate::stream::{Kind, Stream};
use crate::work::{Graph, Work};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::ThreadId;
use std::time::Instant;

/// Which calls a capture forbids, and in which threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    Global = 0,
    ThreadLocal = 1,
    Relaxed = 2,
}

impl Mode {
    pub fn parse(number: u32) -> Outcome<Mode> {
        let modes = [Mode::Global, Mode::ThreadLocal, Mode::Relaxed];
        let mode = modes.get(number as usize).copied();
        mode.ok_or_else(|| Code::INVALID_VALUE.because(format!("{number} is no capture mode")))
    }
}

/// How many nodes of each stream something comes after.
type Clock = HashMap<Handle, usize>;

pub struct Capture {
    context: Handle,
    origin: Handle,
    mode: Mode,
    thread: ThreadId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Work>,
    streams: Vec<Arc<Stream>>,
    clocks: HashMap<Handle, Clock>,
    /// Why the capture cannot be used any more.
    invalid: Option<String>,
}

impl Capture {
    /// Adds work of a stream.
    pub fn add(&self, stream: &Stream, work: Work) -> Outcome {
        let mut state = lock(&self.state);
        state.valid()?;
        let state = &mut *state;
        state.nodes.push(work);
        *state.clocks.entry(stream.id).or_default().entry(stream.id).or_default() += 1;
        Ok(())
    }

    /// Makes the capture worthless, as a forbidden call does.
    pub fn invalidate(&self, reason: &str) {
        lock(&self.state).invalid.get_or_insert_with(|| reason.into());
    }

    pub fn is_valid(&self) -> bool {
        lock(&self.state).invalid.is_none()
    }

    fn clock(&self, stream: &Stream) -> Clock {
        lock(&self.state).clocks.get(&stream.id).cloned().unwrap_or_default()
    }

    /// Makes a stream come after what `clock` stands for, and a part of the capture.
    fn join(self: &Arc<Self>, stream: &Arc<Stream>, clock: &Clock) {
        let mut state = lock(&self.state);
        if state.streams.iter().all(|other| other.id != stream.id) {
            state.streams.push(stream.clone());
            *lock(&stream.capture) = Some(self.clone());
        }
        let own = state.clocks.entry(stream.id).or_default();
        for (&other, &count) in clock {
            let known = own.entry(other).or_default();
            *known = count.max(*known);
        }
    }
}

impl State {
    fn valid(&self) -> Outcome {
        match &self.invalid {
            Some(reason) => Err(Code::STREAM_CAPTURE_INVALIDATED.because(reason.clone())),
            None => Ok(()),
        }
    }

    /// Whether the origin comes after all work.
    fn joined(&self, origin: Handle) -> bool {
        let seen =
            |stream: &Handle| self.clocks.get(&origin).and_then(|clock| clock.get(stream)).unwrap_or(&0);
        self.clocks.iter().all(|(stream, clock)| clock.get(stream).unwrap_or(&0) <= seen(stream))
    }
}

thread_local! {
    /// `cuThreadExchangeStreamCaptureMode`.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

pub fn exchange_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

impl Stream {
    pub fn capturing(&self) -> Option<Arc<Capture>> {
        lock(&self.capture).clone()
    }
}

/// A refusal that also ends the use of the captures concerned.
fn forbid(code: Code, captures: &[Arc<Capture>], reason: &str) -> Outcome {
    captures.iter().for_each(|capture| capture.invalidate(reason));
    if captures.is_empty() { Ok(()) } else { Err(code.because(reason)) }
}

impl Driver {
    fn ongoing(&self) -> Vec<Arc<Capture>> {
        let mut captures = lock(&self.captures);
        captures.retain(|capture| capture.strong_count() > 0);
        captures.iter().filter_map(Weak::upgrade).collect()
    }

    /// Refuses a call that waits for, or asks about, a stream that captures.
    pub fn refuse_wait(&self, stream: &Stream) -> Outcome {
        let reason = "the stream captures: what it has recorded does not run";
        forbid(Code::STREAM_CAPTURE_UNSUPPORTED, stream.capturing().as_slice(), reason)
    }

    /// Refuses to wait for a context in which a stream captures.
    pub fn refuse_context_wait(&self, context: Handle) -> Outcome {
        let mut captures = self.ongoing();
        captures.retain(|capture| capture.context == context);
        forbid(Code::STREAM_CAPTURE_UNSUPPORTED, &captures, "a stream of the context captures")
    }

    /// Refuses the use of the legacy stream while a blocking stream captures.
    pub fn refuse_implicit_dependency(&self, context: Handle) -> Outcome {
        let mut captures = self.ongoing();
        let blocking = |capture: &Capture| {
            lock(&capture.state).streams.iter().any(|stream| stream.kind == Kind::Blocking)
        };
        captures.retain(|capture| capture.context == context && blocking(capture));
        forbid(
            Code::STREAM_CAPTURE_IMPLICIT,
            &captures,
            "the legacy stream would wait for a stream that captures",
        )
    }

    /// Refuses a call that NVIDIA calls potentially unsafe, such as an allocation, where a capture forbids
    /// it.
    pub fn refuse_unsafe(&self) -> Outcome {
        let (mode, thread) = (THREAD_MODE.get(), std::thread::current().id());
        let mut captures = self.ongoing();
        captures.retain(|capture| match mode {
            Mode::Relaxed => false,
            _ if capture.thread == thread => capture.mode != Mode::Relaxed,
            Mode::ThreadLocal => false,
            Mode::Global => capture.mode == Mode::Global,
        });
        forbid(
            Code::STREAM_CAPTURE_UNSUPPORTED,
            &captures,
            "a capture whose mode is not relaxed forbids this call",
        )
    }

    pub fn begin_capture(&self, stream: &Arc<Stream>, mode: Mode) -> Outcome {
        if stream.kind == Kind::Legacy {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the legacy default stream cannot capture"));
        }
        if stream.capturing().is_some() {
            return Err(Code::ILLEGAL_STATE.because("the stream captures already"));
        }
        let capture = Arc::new(Capture {
            context: stream.context,
            origin: stream.id,
            mode,
            thread: std::thread::current().id(),
            state: Mutex::default(),
        });
        lock(&self.captures).push(Arc::downgrade(&capture));
        capture.join(stream, &Clock::new());
        Ok(())
    }

    pub fn end_capture(&self, stream: &Stream) -> Outcome<Graph> {
        let refuse = |code: Code, reason: &str| -> Outcome<Graph> { Err(code.because(reason)) };
        let Some(capture) = stream.capturing() else {
            return refuse(Code::ILLEGAL_STATE, "the stream does not capture");
        };
        if capture.origin != stream.id {
            return refuse(Code::STREAM_CAPTURE_UNMATCHED, "the capture began in another stream");
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return refuse(Code::STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread");
        }
        let state = std::mem::take(&mut *lock(&capture.state));
        for stream in &state.streams {
            *lock(&stream.capture) = None;
        }
        // Events may keep it alive.
        capture.invalidate("the capture has ended");
        lock(&self.captures).retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&capture)));
        state.valid()?;
        if !state.joined(capture.origin) {
            let reason = "work of another stream was not joined by an event";
            return refuse(Code::STREAM_CAPTURE_UNJOINED, reason);
        }
        Ok(Graph { context: capture.context, nodes: state.nodes.into() })
    }
}

/// An event: a place in the work of a stream.
pub struct Event {
    pub context: Handle,
    pub timing: bool,
    place: Mutex<Place>,
}

#[derive(Clone)]
enum Place {
    /// Never recorded: nothing to wait for.
    None,
    Work {
        stream: Arc<Stream>,
        ticket: u64,
        time: Arc<OnceLock<Instant>>,
    },
    Captured(Arc<Capture>, Clock),
}

impl Event {
    pub fn new(context: Handle, timing: bool) -> Event {
        Event { context, timing, place: Mutex::new(Place::None) }
    }

    fn place(&self) -> Place {
        lock(&self.place).clone()
    }

    pub fn record(&self, driver: &'static Driver, stream: &Arc<Stream>) -> Outcome {
        let place = match stream.capturing() {
            Some(capture) => {
                lock(&capture.state).valid()?;
                let clock = capture.clock(stream);
                Place::Captured(capture, clock)
            }
            None => {
                let time = Arc::new(OnceLock::new());
                let ticket = driver.submit(stream, Work::Record(time.clone()))?.unwrap_or(0);
                Place::Work { stream: stream.clone(), ticket, time }
            }
        };
        *lock(&self.place) = place;
        Ok(())
    }

    /// Makes a stream wait for the event.
    pub fn hold_up(&self, driver: &'static Driver, stream: &Arc<Stream>) -> Outcome {
        match (self.place(), stream.capturing()) {
            (Place::None, _) => Ok(()),
            (Place::Work { stream: other, ticket, .. }, None) => {
                driver.submit(stream, Work::Wait(other, ticket)).map(|_| ())
            }
            (Place::Work { .. }, Some(capture)) => {
                let reason = "the event was recorded outside the capture";
                forbid(Code::STREAM_CAPTURE_ISOLATION, &[capture], reason)
            }
            (Place::Captured(capture, clock), own) => {
                if let Some(own) = own.filter(|own| !Arc::ptr_eq(own, &capture)) {
                    let reason = "the event belongs to another capture";
                    return forbid(Code::STREAM_CAPTURE_MERGE, &[own, capture], reason);
                }
                lock(&capture.state).valid()?;
                if stream.kind == Kind::Legacy {
                    return forbid(
                        Code::STREAM_CAPTURE_IMPLICIT,
                        &[capture],
                        "the legacy stream cannot capture",
                    );
                }
                capture.join(stream, &clock);
                Ok(())
            }
        }
    }

    /// Whether the recorded work is done. Asking makes it start.
    pub fn is_done(&self) -> Outcome<bool> {
        match self.place() {
            Place::None => Ok(true),
            Place::Work { stream, ticket, .. } => Ok(stream.ask(ticket)),
            Place::Captured(capture, _) => Err(captured(&capture)),
        }
    }

    pub fn wait(&self) -> Outcome {
        match self.place() {
            Place::None => {}
            Place::Work { stream, ticket, .. } => stream.wait(ticket),
            Place::Captured(capture, _) => return Err(captured(&capture)),
        }
        Ok(())
    }

    /// When the recorded work was done; not yet is [`Code::NOT_READY`].
    pub fn time(&self) -> Outcome<Instant> {
        if !self.timing {
            return Err(Code::INVALID_HANDLE.because("the event was created with CU_EVENT_DISABLE_TIMING"));
        }
        match self.place() {
            Place::None => Err(Code::INVALID_HANDLE.because("the event was not recorded")),
            Place::Work { time, .. } => time.get().copied().ok_or(Code::NOT_READY.into()),
            Place::Captured(capture, _) => Err(captured(&capture)),
        }
    }
}

fn captured(capture: &Capture) -> Refusal {
    let reason = "the event was last recorded in a capture";
    capture.invalidate(reason);
    Code::CAPTURED_EVENT.because(reason)
}
