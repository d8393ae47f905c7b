//! The open ranges of a device, its listeners, and the launches whose times are not known yet.

use super::super::table::Traffic;
use super::super::{Arg, Grid, Kernel};
use super::listener::{Defaults, defaults, step_of};
use super::timeline::{Stamps, Timeline};
use super::work::{Parameters, Work};
use super::{Event, Frame, Launch, Listener, Path, SharedListener, Steps};
use crate::error::Result;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most events of a GPU whose times are not known: then the program waits for the older half, while the
/// GPU works on the other.
const MOST_WAITING: usize = 1 << 15;

/// Whether a profiler is attached that reads NVTX ranges: it names its library here.
const NVTX: &str = "NVTX_INJECTION64_PATH";

pub struct Tracer {
    on: AtomicBool,
    state: Mutex<State>,
}

struct State {
    listeners: Vec<SharedListener>,
    /// Whether a listener wants the launches of this step.
    wanted: bool,
    rehearsal: bool,
    nvtx: bool,
    profiled: Option<Steps>,
    open: Vec<Open>,
    /// The place that `open` is, once it is asked for.
    path: Option<Path>,
    /// The bytes that buffers asked for, by address.
    buffers: HashMap<u64, u64>,
    /// What tables point to, by their addresses.
    tables: HashMap<u64, Traffic>,
    signatures: HashMap<&'static str, Parameters>,
    timeline: Timeline,
    waiting: VecDeque<Waiting>,
}

/// Keeps launches.
#[derive(Default)]
struct Launches(Vec<Launch>);

impl Listener for Launches {
    fn hear(&mut self, event: Event) {
        if let Event::Launched(launch) = event {
            self.0.push(launch);
        }
    }
}

struct Open {
    frame: Frame,
    /// From its first launch to its last.
    stamps: Option<Stamps>,
}

/// What will be heard when its times are known.
struct Waiting {
    event: Event,
    stamps: Stamps,
}

impl Tracer {
    pub fn new(timeline: Timeline) -> Tracer {
        let Defaults { listener, profiled } = defaults();
        let nvtx = std::env::var_os(NVTX).is_some();
        let on = listener.is_some() || profiled.is_some() || nvtx;
        let state = State {
            wanted: listener.as_ref().is_some_and(|listener| wants(listener, None)),
            listeners: listener.into_iter().collect(),
            rehearsal: false,
            nvtx,
            profiled,
            open: Vec::new(),
            path: None,
            buffers: HashMap::new(),
            tables: HashMap::new(),
            signatures: HashMap::new(),
            timeline,
            waiting: VecDeque::new(),
        };
        Tracer { on: AtomicBool::new(on), state: Mutex::new(state) }
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_listeners(&self) -> bool {
        !self.state().listeners.is_empty()
    }

    pub fn listen(&self, listener: SharedListener) {
        let mut state = self.state();
        state.listeners.push(listener);
        state.choose();
        self.on.store(true, Ordering::Relaxed);
    }

    pub fn rehearse(&self) {
        self.state().rehearsal = true;
    }

    /// The launches of `work`, which are not run and of which nobody else hears.
    pub fn rehearsed(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>> {
        let heard = Arc::new(Mutex::new(Launches::default()));
        let (mut listeners, mut rehearsal): (Vec<SharedListener>, _) = (vec![heard.clone()], true);
        let mut exchange = || {
            let mut state = self.state();
            std::mem::swap(&mut state.listeners, &mut listeners);
            std::mem::swap(&mut state.rehearsal, &mut rehearsal);
            state.choose();
        };
        exchange();
        let was_on = self.on.swap(true, Ordering::Relaxed);
        let outcome = work();
        self.on.store(was_on, Ordering::Relaxed);
        exchange();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.map(|()| std::mem::take(&mut heard.0))
    }

    pub fn path(&self) -> Path {
        self.state().path()
    }

    pub fn open(&self, frame: Frame) {
        let mut state = self.state();
        if state.nvtx {
            nvtx::range_push!("{frame}");
        }
        let step = step_of(&frame);
        if step.is_some_and(|step| state.profiled.is_some_and(|steps| steps.first == step)) {
            state.timeline.profile(true);
        }
        state.open.push(Open { frame, stamps: None });
        state.path = None;
        if step.is_some() {
            state.choose();
        }
    }

    pub fn close(&self) {
        let mut state = self.state();
        let path = state.path();
        let Some(Open { frame, stamps }) = state.open.pop() else { return };
        state.path = None;
        if state.nvtx {
            nvtx::range_pop!();
        }
        if let Some(inner) = stamps {
            if let Some(outer) = state.open.last_mut() {
                outer.extend(inner);
            }
            let event =
                Event::Closed { frame: frame.clone(), path, span: super::Span { begin: 0.0, end: 0.0 } };
            state.waiting.push_back(Waiting { event, stamps: inner });
            state.tell();
        }
        if let Some(step) = step_of(&frame) {
            if state.profiled.is_some_and(|steps| steps.last == step) {
                state.timeline.profile(false);
            }
            state.choose();
        }
    }

    /// A buffer of `bytes` bytes was made.
    pub fn allocated(&self, address: u64, bytes: u64) {
        let mut state = self.state();
        state.buffers.insert(address, bytes);
        if state.wanted {
            let path = state.path();
            state.hear(Event::Allocated { address, bytes, path });
        }
    }

    pub fn freed(&self, address: u64) {
        let mut state = self.state();
        state.buffers.remove(&address);
        state.tables.remove(&address);
        if state.wanted {
            state.hear(Event::Freed { address });
        }
    }

    /// The buffer at this address is a table, which points to buffers of so many bytes.
    pub fn pointed_to(&self, address: u64, traffic: Traffic) {
        self.state().tables.insert(address, traffic);
    }

    /// Runs a launch with `run` and tells of it. `size` gives the bytes of a block that is older than the
    /// listeners.
    pub fn launch(
        &self,
        (kernel, grid, args): (&'static Kernel, Grid, &[Arg]),
        threads: usize,
        size: impl Fn(u64) -> Option<u64>,
        run: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state();
        if !state.wanted {
            drop(state);
            return run();
        }
        let State { signatures, buffers, tables, .. } = &mut *state;
        let parameters = signatures.entry(kernel.name).or_insert_with(|| Parameters::of(kernel.signature));
        let bytes = |address| buffers.get(&address).copied().or_else(|| size(address)).unwrap_or(0);
        let table = |address| tables.get(&address).copied().unwrap_or_default();
        let work = Work::of(kernel.name, parameters, args, bytes, table);
        let path = state.path();
        let launch = Launch { kernel: kernel.name, grid: grid.0, threads, path, work, span: None };
        if state.rehearsal {
            state.hear(Event::Launched(launch));
            return Ok(());
        }
        let begin = state.timeline.stamp()?;
        drop(state);
        run()?;
        let mut state = self.state();
        let stamps = Stamps { begin, end: state.timeline.stamp()? };
        if let Some(inner) = state.open.last_mut() {
            inner.extend(stamps);
        }
        state.waiting.push_back(Waiting { event: Event::Launched(launch), stamps });
        state.tell();
        state.resolve(MOST_WAITING)
    }

    /// Waits for all times that are not known yet, and tells what waited for them.
    pub fn settle(&self) -> Result<()> {
        if self.is_on() { self.state().resolve(0) } else { Ok(()) }
    }
}

impl Open {
    fn extend(&mut self, inner: Stamps) {
        self.stamps = Some(Stamps { begin: self.stamps.map_or(inner.begin, |own| own.begin), ..inner });
    }
}

fn wants(listener: &SharedListener, step: Option<usize>) -> bool {
    listener.lock().unwrap_or_else(PoisonError::into_inner).wants(step)
}

impl State {
    fn path(&mut self) -> Path {
        let open = &self.open;
        self.path.get_or_insert_with(|| Path(open.iter().map(|open| open.frame.clone()).collect())).clone()
    }

    /// Asks the listeners anew whether they want what comes.
    fn choose(&mut self) {
        let step = self.open.iter().find_map(|open| step_of(&open.frame));
        self.wanted = self.listeners.iter().any(|listener| wants(listener, step));
    }

    fn hear(&self, event: Event) {
        for listener in &self.listeners {
            listener.lock().unwrap_or_else(PoisonError::into_inner).hear(event.clone());
        }
    }

    /// Tells what waits, as far as its times are known without the GPU.
    fn tell(&mut self) {
        if matches!(self.timeline, Timeline::Clock) {
            self.tell_with(|_| None);
        }
    }

    fn tell_with(&mut self, time: impl Fn(u64) -> Option<f64>) {
        while let Some(span) = self.waiting.front().and_then(|first| first.stamps.span(&time)) {
            let Some(Waiting { mut event, .. }) = self.waiting.pop_front() else { return };
            match &mut event {
                Event::Launched(launch) => launch.span = Some(span),
                Event::Closed { span: known, .. } => *known = span,
                Event::Allocated { .. } | Event::Freed { .. } => {}
            }
            self.hear(event);
        }
    }

    /// Tells what waits for events of a GPU, if these are more than `most`.
    fn resolve(&mut self, most: usize) -> Result<()> {
        let Timeline::Events(events) = &mut self.timeline else { return Ok(()) };
        if events.unread() <= most {
            return Ok(());
        }
        let (first, times) = events.resolve(events.unread() - most / 2)?;
        let time = |number: u64| times.get(number.checked_sub(first)? as usize).copied();
        for stamps in self.open.iter_mut().filter_map(|open| open.stamps.as_mut()) {
            *stamps = stamps.begun(time);
        }
        for waiting in &mut self.waiting {
            waiting.stamps = waiting.stamps.begun(time);
        }
        self.tell_with(time);
        Ok(())
    }
}
