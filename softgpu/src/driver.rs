//! All state of the process.

use crate::call::{Outcome, say};
use crate::capture::{Capture, Event};
use crate::codes::Code;
use crate::context::{Context, Primary};
use crate::handles::{Handle, Table, lock};
use crate::launch::{Function, Module};
use crate::memory::Blocks;
use crate::options::Options;
use crate::report::Report;
use crate::stream::Stream;
use crate::work::{Executable, Graph};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, Weak};

pub struct Driver {
    pub options: Options,
    pub initialised: AtomicBool,
    /// The PTX machine's memory: one kernel or copy at a time.
    pub memory: Mutex<ptx::Memory>,
    pub blocks: Mutex<Blocks>,
    pub contexts: Table<Context>,
    pub dead_contexts: Mutex<HashSet<Handle>>,
    pub primary: Mutex<Primary>,
    pub streams: Table<Stream>,
    /// Every stream with a thread, also those that are destroyed and still have work.
    pub running: Mutex<Vec<Weak<Stream>>>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    pub executables: Table<Executable>,
    /// The captures that go on.
    pub captures: Mutex<Vec<Weak<Capture>>>,
    pub report: Report,
    /// The code of the first fault, which every later call returns; 0 for none.
    fault: AtomicU32,
    /// How often each function was called and each kernel was run that may fail.
    counts: Mutex<HashMap<String, u64>>,
}

/// The driver; `None` when an option is wrong, which the first call says.
pub fn get() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    let new = || match Options::of_environment() {
        Ok(options) => Some(Driver::new(options)),
        Err(reason) => {
            say(&reason);
            None
        }
    };
    DRIVER.get_or_init(new).as_ref()
}

impl Driver {
    fn new(options: Options) -> Driver {
        Driver {
            memory: Mutex::new(ptx::Memory::new(options.checks)),
            blocks: Mutex::new(Blocks::new(options.memory)),
            options,
            initialised: AtomicBool::new(false),
            contexts: Table::default(),
            dead_contexts: Mutex::default(),
            primary: Mutex::default(),
            streams: Table::default(),
            running: Mutex::default(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            graphs: Table::default(),
            executables: Table::default(),
            captures: Mutex::default(),
            report: Report::default(),
            fault: AtomicU32::new(0),
            counts: Mutex::default(),
        }
    }

    /// The fault of an earlier kernel or copy. It stays for the life of the process, as on a GPU.
    pub fn fault(&self) -> Option<Code> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            code => Some(Code(code)),
        }
    }

    /// Takes note of a fault; the first one counts.
    pub fn set_fault(&self, code: Code, line: &str) {
        say(&format!("fault: {code}: {line}"));
        let _ = self.fault.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Counts a call of a function, or a run of a kernel, and fails it where `SOFTGPU_FAIL` says so.
    pub fn injected(&self, name: &str) -> Outcome {
        if self.options.injected.iter().all(|injected| injected.name != name) {
            return Ok(());
        }
        let mut counts = lock(&self.counts);
        let nth = counts.entry(name.into()).or_default();
        *nth += 1;
        match self.options.injected.iter().find(|injected| injected.hits(name, *nth)) {
            Some(injected) => Err(injected.code.because(format!("injected into call {nth}"))),
            None => Ok(()),
        }
    }

    /// Every stream that may have work.
    pub fn all_streams(&self) -> Vec<std::sync::Arc<Stream>> {
        let mut running = lock(&self.running);
        running.retain(|stream| stream.strong_count() > 0);
        running.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits for all work that was submitted, in one context or in all.
    pub fn wait_for_all(&self, context: Option<Handle>) {
        for stream in self.all_streams() {
            if context.is_none_or(|handle| stream.context == handle) {
                stream.wait(stream.submitted());
            }
        }
    }
}
