//! What streams and graphs hold, and how it runs.

use crate::call::say;
use crate::codes::Code;
use crate::driver::Driver;
use crate::handles::{Handle, lock};
use crate::launch::{Launch, code_of};
use crate::stream::Stream;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// Addresses are the device's, or the host's where the name says so.
#[derive(Clone)]
pub enum Work {
    Launch(Arc<Launch>),
    ToDevice {
        to: u64,
        from_host: u64,
        bytes: usize,
    },
    ToHost {
        to_host: u64,
        from: u64,
        bytes: usize,
    },
    OnDevice {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// `count` values of `width` bytes.
    Fill {
        to: u64,
        value: u32,
        width: usize,
        count: usize,
    },
    /// The end of a block that `cuMemFreeAsync` has retired.
    Free(u64),
    /// Notes the time for an event.
    Record(Arc<OnceLock<Instant>>),
    /// Waits for work of another stream.
    Wait(Arc<Stream>, u64),
    Callback(HostFn, u64),
    Graph(Arc<[Work]>),
}

pub type HostFn = extern "C" fn(*mut c_void);

/// Work that was captured, in an order in which it may run.
pub struct Graph {
    pub context: Handle,
    pub nodes: Arc<[Work]>,
}

/// A graph that can be launched.
pub struct Executable {
    pub context: Handle,
    pub nodes: Arc<[Work]>,
    /// Its last launch: two launches of one executable do not run at the same time.
    pub last: Mutex<Option<(Arc<Stream>, u64)>>,
}

thread_local! {
    /// Whether the thread runs a callback, which must not call the driver.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

impl Work {
    /// Runs the work. After a fault nothing but the ends of blocks and the waits is done.
    pub fn run(&self, driver: &Driver) {
        if driver.fault().is_some() && !matches!(self, Work::Wait(..) | Work::Record(_) | Work::Free(_)) {
            return;
        }
        let outcome = match self {
            Work::Launch(launch) => return launch.run(driver),
            Work::Graph(nodes) => return nodes.iter().for_each(|node| node.run(driver)),
            Work::Wait(stream, ticket) => return stream.wait(*ticket),
            Work::Free(base) => return driver.give_back(*base),
            Work::Record(time) => {
                let _ = time.set(Instant::now());
                return;
            }
            Work::Callback(function, data) => {
                IN_CALLBACK.set(true);
                function(*data as *mut c_void);
                IN_CALLBACK.set(false);
                return;
            }
            Work::ToDevice { to, from_host, bytes } => {
                // SAFETY: the program promises `bytes` bytes until it has waited for the copy.
                let source = unsafe { std::slice::from_raw_parts(*from_host as *const u8, *bytes) };
                lock(&driver.memory).write(*to, source)
            }
            Work::ToHost { to_host, from, bytes } => {
                // SAFETY: as above.
                let target = unsafe { std::slice::from_raw_parts_mut(*to_host as *mut u8, *bytes) };
                lock(&driver.memory).read(*from, target)
            }
            Work::OnDevice { to, from, bytes } => {
                let mut content = vec![0; *bytes];
                let mut memory = lock(&driver.memory);
                match memory.read(*from, &mut content) {
                    Ok(()) => memory.write(*to, &content),
                    fault => fault,
                }
            }
            Work::Fill { to, value, width: 1, count } => lock(&driver.memory).fill(*to, *value as u8, *count),
            Work::Fill { to, value, width, count } => {
                let pattern = value.to_le_bytes()[..*width].repeat(*count);
                lock(&driver.memory).write(*to, &pattern)
            }
        };
        if let Err(fault) = outcome {
            // The addresses were right when the work was submitted: the block was freed since.
            driver.set_fault(
                code_of(&fault),
                &format!("{} of memory that was freed since: {fault}", self.name()),
            );
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Work::Fill { .. } => "a fill",
            _ => "a copy",
        }
    }

    /// The module that must still be loaded when the work runs.
    pub fn unloaded(&self) -> Option<&str> {
        match self {
            Work::Launch(launch) if launch.function.module.is_unloaded() => Some(&launch.function.name),
            Work::Graph(nodes) => nodes.iter().find_map(Work::unloaded),
            _ => None,
        }
    }
}

/// A fault that `SOFTGPU_FAIL` asks for.
pub fn injected_fault(driver: &Driver, kernel: &str) -> Option<Code> {
    let refusal = driver.injected(kernel).err()?;
    say(&format!("{kernel}: {}", refusal.reason));
    Some(refusal.code)
}
