//! Checked mode: guard pages after buffers, red zones after shared arrays, NaN in both; and the arena of
//! shared memory.

use super::block::{Block, SLOTS, saddle_get_block};
use crate::device::Arg;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The bytes of unused shared memory: a NaN as float, a large number as integer.
const POISON: u8 = 0xff;
const RED_ZONE: usize = 64;
/// The most shared memory that a Hopper block can have.
const ARENA: usize = 227 * 1024 / 64 * 64;

/// The shared memory of the blocks that one OS thread runs.
pub(super) struct Arena(Mapping);

impl Arena {
    pub fn new() -> Result<Arena> {
        Mapping::new(ARENA).map(Arena)
    }

    pub fn start(&self) -> *mut u8 {
        self.0.start as *mut u8
    }

    pub fn size(&self) -> usize {
        ARENA
    }

    /// Fills the arena with NaN.
    pub fn poison(&mut self) {
        // SAFETY: the mapping is ARENA bytes long and no kernel runs.
        unsafe { std::ptr::write_bytes(self.start(), POISON, ARENA) };
    }

    /// An explanation when a kernel wrote past the end of one of its shared arrays.
    pub fn check_red_zones(&self, block: &Block) -> Result<(), String> {
        for slot in (0..SLOTS).filter(|s| block.slots[*s] != 0) {
            let end = block.slot_ends[slot] as usize;
            // SAFETY: the shim keeps RED_ZONE bytes after every array inside the arena.
            let zone = unsafe { std::slice::from_raw_parts(self.start().add(end), RED_ZONE) };
            if let Some(at) = zone.iter().position(|byte| *byte != POISON) {
                let size = end - (block.slots[slot] as usize - 1);
                return Err(format!(
                    "out-of-bounds write: {at} bytes past the end of a shared array of {size} bytes"
                ));
            }
        }
        Ok(())
    }
}

/// Pages of memory with an inaccessible page on both sides.
pub(super) struct Mapping {
    start: usize,
    whole: usize,
    bytes: usize,
}

impl Mapping {
    /// At least `bytes` bytes, up to the guard page after them.
    pub(super) fn new(bytes: usize) -> Result<Mapping> {
        let page = page_size();
        let out_of_memory = || {
            let (free, total) = system_memory();
            Error::OutOfMemory { device: "host".into(), asked: bytes, free, total }
        };
        let inside = bytes.max(1).checked_next_multiple_of(page).ok_or_else(out_of_memory)?;
        let whole = inside.checked_add(2 * page).ok_or_else(out_of_memory)?;
        // SAFETY: an anonymous private mapping at an address of the system's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                whole,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(out_of_memory());
        }
        let mapping = Mapping { start: at as usize + page, whole: at as usize, bytes: whole };
        // SAFETY: a range inside the mapping made above.
        if unsafe { libc::mprotect(mapping.start as *mut c_void, inside, libc::PROT_READ | libc::PROT_WRITE) }
            != 0
        {
            return Err(out_of_memory());
        }
        Ok(mapping)
    }

    /// Where the guard page after the memory begins.
    pub(super) fn end(&self) -> usize {
        self.whole + self.bytes - page_size()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this object owns the mapping.
        unsafe { libc::munmap(self.whole as *mut c_void, self.bytes) };
    }
}

/// The buffers of checked devices by address.
fn guarded() -> &'static Mutex<HashMap<u64, (Mapping, usize)>> {
    static GUARDED: OnceLock<Mutex<HashMap<u64, (Mapping, usize)>>> = OnceLock::new();
    GUARDED.get_or_init(Mutex::default)
}

/// The guard pages, readable from a signal handler: the end of the buffer (0: no entry) and its size.
static GUARDS: [[AtomicUsize; 2]; 4096] = [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; 4096];

/// A block of `bytes` bytes that ends (up to 16-byte alignment) where an inaccessible page begins.
pub(in crate::device) fn allocate_guarded(bytes: usize) -> Result<u64> {
    let mapping = Mapping::new(bytes)?;
    let end = mapping.end();
    let address = (end - bytes.max(1).next_multiple_of(16)) as u64;
    // SAFETY: the bytes between the buffer and its guard page, inside the mapping.
    unsafe {
        std::ptr::write_bytes((address as usize + bytes) as *mut u8, POISON, end - address as usize - bytes)
    };
    let entry =
        GUARDS.iter().find(|e| e[0].compare_exchange(0, end, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if let Some(entry) = entry {
        entry[1].store(bytes, Ordering::Release);
    }
    guarded().lock().unwrap_or_else(PoisonError::into_inner).insert(address, (mapping, bytes));
    Ok(address)
}

/// Frees a block from [`allocate_guarded`].
pub(in crate::device) fn release_guarded(address: u64) {
    let removed = guarded().lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    if let Some((mapping, _)) = removed {
        let end = mapping.end();
        if let Some(entry) = GUARDS.iter().find(|e| e[0].load(Ordering::Acquire) == end) {
            entry[0].store(0, Ordering::Release);
        }
    }
}

/// An explanation when a kernel wrote between the end of a buffer among its arguments and the guard page: up
/// to 15 bytes, because buffers start at multiples of 16.
pub(super) fn check_buffer_ends(args: &[Arg]) -> Result<(), String> {
    let guarded = guarded().lock().unwrap_or_else(PoisonError::into_inner);
    for (address, (mapping, bytes)) in
        args.iter().filter_map(|arg| guarded.get(&arg.0).map(|found| (arg.0 as usize, found)))
    {
        let end = address + bytes;
        // SAFETY: inside the mapping, which lives as long as its entry.
        let padding = unsafe { std::slice::from_raw_parts(end as *const u8, mapping.end() - end) };
        if let Some(at) = padding.iter().position(|byte| *byte != POISON) {
            return Err(format!("out-of-bounds write: {at} bytes past the end of a buffer of {bytes} bytes"));
        }
    }
    Ok(())
}

/// Reports an access to a guard page (kernel, block, thread, buffer) and ends the process with exit code 86.
pub(in crate::device) fn install_fault_handler() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: installs a handler that only calls async-signal-safe functions.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the system passes a valid siginfo; everything below reads plain memory and calls write and
    // _exit.
    unsafe {
        let address = (*info).si_addr() as usize;
        let block = saddle_get_block();
        let page = page_size();
        let hit = GUARDS.iter().map(|e| (e[0].load(Ordering::Acquire), e[1].load(Ordering::Acquire))).find(
            |(end, size)| {
                *end != 0
                    && ((*end..*end + page).contains(&address)
                        || (end - size.max(&1).next_multiple_of(page)).wrapping_sub(address) <= page)
            },
        );
        let mut line = Line { text: [0; 512], len: 0 };
        line.str(b"error: ");
        if !block.is_null() {
            let block = &*block;
            line.str(b"kernel ")
                .str(CStr::from_ptr(block.kernel).to_bytes())
                .str(b", block [")
                .number(block.block_idx[0] as usize);
            line.str(b", ")
                .number(block.block_idx[1] as usize)
                .str(b", ")
                .number(block.block_idx[2] as usize);
            line.str(b"], thread ").number(block.thread as usize).str(b": ");
        }
        match hit {
            Some((end, size)) if address >= end => {
                line.str(b"out-of-bounds access ").number(address - (end - size.next_multiple_of(16)) - size);
                line.str(b" bytes past the end of a buffer of ").number(size).str(b" bytes");
            }
            Some((_, size)) => {
                line.str(b"out-of-bounds access before the start of a buffer of ")
                    .number(size)
                    .str(b" bytes");
            }
            None => {
                line.str(b"invalid memory access (signal ").number(signal as usize).str(b")");
            }
        }
        line.str(b"\n");
        libc::write(2, line.text.as_ptr().cast(), line.len);
        libc::_exit(86);
    }
}

/// A line of text built without allocation.
struct Line {
    text: [u8; 512],
    len: usize,
}

impl Line {
    fn str(&mut self, text: &[u8]) -> &mut Line {
        for byte in text {
            if self.len < self.text.len() {
                self.text[self.len] = *byte;
                self.len += 1;
            }
        }
        self
    }

    fn number(&mut self, number: usize) -> &mut Line {
        let mut digits = [0u8; 20];
        let (mut rest, mut at) = (number, digits.len());
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.str(&digits[at..])
    }
}

fn page_size() -> usize {
    // SAFETY: a query without arguments that matter.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Free and total memory of the machine in bytes.
pub(super) fn system_memory() -> (usize, usize) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
    };
    (field("MemAvailable:").unwrap_or(0), field("MemTotal:").unwrap_or(0))
}
