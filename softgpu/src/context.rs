//! Contexts, and which of them are current in a thread.

use crate::call::Outcome;
use crate::codes::Code;
use crate::driver::Driver;
use crate::handles::{self, Handle, lock};
use crate::stream::{Kind, Stream};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU32};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

pub struct Context {
    pub handle: Handle,
    pub primary: bool,
    pub flags: AtomicU32,
    pub cache_config: AtomicI32,
    /// Limits that the program has set.
    pub limits: Mutex<HashMap<u32, usize>>,
    /// The legacy default stream: it waits for the blocking streams, and they for it.
    pub legacy: Arc<Stream>,
    per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
}

/// The primary context: its handle stays the same from one life to the next.
#[derive(Default)]
pub struct Primary {
    pub handle: Option<Handle>,
    pub retained: usize,
    pub flags: u32,
}

thread_local! {
    /// The stack of current contexts of a thread. 0 is none.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

impl Context {
    fn new(handle: Handle, primary: bool, flags: u32) -> Arc<Context> {
        Arc::new(Context {
            handle,
            primary,
            flags: AtomicU32::new(flags),
            cache_config: AtomicI32::new(0),
            limits: Mutex::default(),
            legacy: Stream::new(handle, Kind::Legacy, 0, 0),
            per_thread: Mutex::default(),
        })
    }

    /// The calling thread's default stream.
    pub fn of_thread(&self) -> Arc<Stream> {
        let new = || Stream::new(self.handle, Kind::Blocking, 0, 0);
        lock(&self.per_thread).entry(std::thread::current().id()).or_insert_with(new).clone()
    }
}

pub fn top() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

pub fn push(handle: Handle) {
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
}

pub fn pop() -> Option<Handle> {
    CURRENT.with_borrow_mut(Vec::pop)
}

/// Replaces the top of the stack; 0 takes it off.
pub fn set(handle: Handle) {
    pop();
    if handle != 0 {
        push(handle);
    }
}

impl Driver {
    /// The context that is current in the calling thread.
    pub fn current(&self) -> Outcome<Arc<Context>> {
        match top() {
            0 => Err(Code::INVALID_CONTEXT.because("no context is current in this thread")),
            handle => self.context(handle),
        }
    }

    pub fn context(&self, handle: Handle) -> Outcome<Arc<Context>> {
        self.contexts.get(handle).ok_or_else(|| {
            if lock(&self.dead_contexts).contains(&handle) {
                Code::CONTEXT_IS_DESTROYED
                    .because("the context is destroyed, or its last retain was released")
            } else {
                Code::INVALID_CONTEXT.because(format!("{handle:#x} is no context"))
            }
        })
    }

    pub fn create_context(&self, flags: u32) -> Arc<Context> {
        let context = Context::new(handles::fresh(), false, flags);
        self.contexts.insert(context.handle, context.clone());
        context
    }

    pub fn retain_primary(&self) -> Handle {
        let mut primary = lock(&self.primary);
        let handle = *primary.handle.get_or_insert_with(handles::fresh);
        if primary.retained == 0 {
            lock(&self.dead_contexts).remove(&handle);
            self.contexts.insert(handle, Context::new(handle, true, primary.flags));
        }
        primary.retained += 1;
        handle
    }

    /// Gives one retain back, or all of them.
    pub fn release_primary(&self, all: bool) -> Outcome {
        let mut primary = lock(&self.primary);
        if primary.retained == 0 {
            if all {
                return Ok(());
            }
            return Err(Code::INVALID_CONTEXT.because("the primary context is not retained"));
        }
        primary.retained = if all { 0 } else { primary.retained - 1 };
        match primary.handle {
            Some(handle) if primary.retained == 0 => self.destroy_context(handle),
            _ => Ok(()),
        }
    }

    /// Destroys a context with all that belongs to it. What its streams have not begun is dropped.
    pub fn destroy_context(&self, handle: Handle) -> Outcome {
        self.context(handle)?;
        lock(&self.dead_contexts).insert(handle);
        let context = self.contexts.remove(handle, "context")?;
        for stream in self.all_streams().iter().filter(|stream| stream.context == handle) {
            stream.abandon();
        }
        self.streams.retain(|stream| stream.context != handle);
        self.events.retain(|event| event.context != handle);
        self.modules.retain(|module| module.context != handle);
        self.functions.retain(|function| function.module.context != handle);
        self.free_all(context.handle);
        Ok(())
    }
}
