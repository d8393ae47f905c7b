//! A stream: a queue, run by whoever waits for it, or else by a thread of its own.
//!
//! Work starts late: not when it comes, but when somebody waits for it or when it is overdue
//! (`SOFTGPU_DELAY`). A program that forgets to wait then sees old data, every time.

use crate::call::Outcome;
use crate::capture::Capture;
use crate::codes::Code;
use crate::driver::{self, Driver};
use crate::handles::{self, Handle, lock};
use crate::work::Work;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a stream stands to the legacy default stream of its context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Legacy,
    /// Waits for the legacy stream, and the legacy stream for it.
    Blocking,
    NonBlocking,
}

pub struct Stream {
    pub id: Handle,
    pub context: Handle,
    pub kind: Kind,
    pub flags: u32,
    pub priority: i32,
    /// The capture that records what is submitted.
    pub capture: Mutex<Option<Arc<Capture>>>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Work is numbered from 1 on; a number is a ticket, with which one waits.
#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    submitted: u64,
    done: u64,
    /// Somebody waits for all work up to this ticket.
    wanted: u64,
    busy: bool,
    /// Threads that go on when the state changes.
    sleepers: usize,
    has_thread: bool,
    closed: bool,
}

struct Item {
    ticket: u64,
    /// When it starts even if nobody waits; `None` for never.
    due: Option<Instant>,
    work: Work,
}

/// A driver's queue has an end; who submits more waits.
const QUEUE: u64 = 1024;

impl Stream {
    pub fn new(context: Handle, kind: Kind, flags: u32, priority: i32) -> Arc<Stream> {
        Arc::new(Stream {
            id: handles::fresh(),
            context,
            kind,
            flags,
            priority,
            capture: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sleepers += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        state
    }

    /// The ticket of the last work.
    pub fn submitted(&self) -> u64 {
        lock(&self.state).submitted
    }

    pub fn is_done(&self, ticket: u64) -> bool {
        lock(&self.state).done >= ticket
    }

    /// Puts work into the queue, and returns its ticket.
    pub fn submit(self: &Arc<Self>, driver: &'static Driver, work: Work) -> Outcome<u64> {
        let mut state = lock(&self.state);
        if !state.has_thread {
            let stream = self.clone();
            let thread = std::thread::Builder::new().name("softgpu".into());
            thread.spawn(move || stream.work_off(driver.options.delay)).map_err(|_| Code::OUT_OF_MEMORY)?;
            state.has_thread = true;
            lock(&driver.running).push(Arc::downgrade(self));
        }
        state.submitted += 1;
        let ticket = state.submitted;
        let due = driver.options.delay.map(|delay| Instant::now() + delay);
        state.queue.push_back(Item { ticket, due, work });
        // A thread that waits until earlier work is due will see this in time.
        if due.is_some() && state.sleepers > 0 {
            self.changed.notify_all();
        }
        drop(state);
        if ticket > QUEUE {
            self.wait(ticket - QUEUE);
        }
        Ok(ticket)
    }

    /// Waits for the work with this ticket and all before it, and does what nobody has begun: to hand a small
    /// kernel to another thread takes longer than to run it.
    pub fn wait(&self, ticket: u64) {
        let mut state = lock(&self.state);
        while state.done < ticket {
            state = match state.take(|first| first.ticket <= ticket) {
                Some(item) => {
                    drop(state);
                    self.run(item)
                }
                None => self.sleep(state),
            };
        }
    }

    /// Whether the work with this ticket is done. Asking makes it start.
    pub fn ask(&self, ticket: u64) -> bool {
        self.hurry(ticket).done >= ticket
    }

    fn hurry(&self, ticket: u64) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.wanted = state.wanted.max(ticket);
        self.changed.notify_all();
        state
    }

    /// Ends the stream when its work is done.
    pub fn close(&self) {
        let ticket = self.submitted();
        self.hurry(ticket).closed = true;
    }

    /// Ends the stream with the work that runs now; drops the rest.
    pub fn abandon(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.queue.clear();
        self.changed.notify_all();
        while state.busy {
            state = self.sleep(state);
        }
        state.done = state.submitted;
        self.changed.notify_all();
    }

    /// Runs work that was taken from the queue.
    fn run(&self, item: Item) -> MutexGuard<'_, State> {
        if let Some(driver) = driver::get() {
            // A panic must not leave those waiting who wait for this work.
            if catch_unwind(AssertUnwindSafe(|| item.work.run(driver))).is_err() {
                driver.set_fault(Code::LAUNCH_FAILED, "the PTX machine panicked");
            }
        }
        let mut state = lock(&self.state);
        state.done = item.ticket;
        state.busy = false;
        if state.sleepers > 0 {
            self.changed.notify_all();
        }
        state
    }

    /// What the stream's thread does, until the stream ends. It looks again after `delay` while work
    /// comes, and needs no call for each: a waiting thread usually gets there first.
    fn work_off(&self, delay: Option<Duration>) {
        let mut seen = 0;
        let mut state = lock(&self.state);
        loop {
            let (now, wanted) = (Instant::now(), state.wanted);
            let is_due = |item: &Item| item.due.is_some_and(|due| due <= now);
            if let Some(item) = state.take(|first| first.ticket <= wanted || is_due(first)) {
                drop(state);
                state = self.run(item);
                continue;
            }
            if state.queue.is_empty() && state.closed {
                return;
            }
            let due = state.queue.front().and_then(|first| first.due);
            let later = delay.filter(|_| state.submitted != seen).map(|delay| now + delay);
            seen = state.submitted;
            state = match due.or(later) {
                Some(due) if !state.busy => {
                    self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                _ => self.sleep(state),
            };
        }
    }
}

impl State {
    /// The next work, when none runs and it may start.
    fn take(&mut self, may_start: impl Fn(&Item) -> bool) -> Option<Item> {
        if self.busy || !self.queue.front().is_some_and(may_start) {
            return None;
        }
        self.busy = true;
        self.queue.pop_front()
    }
}

impl Driver {
    /// The stream of a handle: 0 and 1 are the legacy default stream, 2 is the thread's own.
    pub fn stream(&self, handle: Handle) -> Outcome<Arc<Stream>> {
        let context = self.current()?;
        match handle {
            0 | 1 => Ok(context.legacy.clone()),
            2 => Ok(context.of_thread()),
            _ => {
                let stream = self.streams.find(handle, "stream")?;
                if stream.context != context.handle {
                    return Err(Code::INVALID_HANDLE.because("the stream belongs to another context"));
                }
                Ok(stream)
            }
        }
    }

    /// Submits work to a stream, after the work that it must wait for, or adds it to the stream's capture.
    /// Returns what to wait for; `None` in a capture.
    pub fn submit(&'static self, stream: &Arc<Stream>, work: Work) -> Outcome<Option<u64>> {
        let capture = lock(&stream.capture).clone();
        if let Some(capture) = capture {
            capture.add(stream, work)?;
            return Ok(None);
        }
        let before: Vec<Arc<Stream>> = match stream.kind {
            Kind::NonBlocking => Vec::new(),
            Kind::Blocking => vec![self.context(stream.context)?.legacy.clone()],
            Kind::Legacy => {
                self.refuse_implicit_dependency(stream.context)?;
                let mut all = self.all_streams();
                all.retain(|other| other.context == stream.context && other.kind == Kind::Blocking);
                all
            }
        };
        for other in before {
            let ticket = other.submitted();
            if !other.is_done(ticket) {
                stream.submit(self, Work::Wait(other, ticket))?;
            }
        }
        stream.submit(self, work).map(Some)
    }

    /// Submits work and waits for it.
    pub fn run_now(&'static self, stream: &Arc<Stream>, work: Work) -> Outcome {
        if let Some(ticket) = self.submit(stream, work)? {
            stream.wait(ticket);
        }
        self.fault().map_or(Ok(()), |code| Err(code.into()))
    }
}
