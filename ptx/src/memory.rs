//! Global memory: a registry of allocations whose device addresses are host addresses.
//!
//! Blocks that run at once touch the same bytes, so all access is by relaxed atomic operations; the only
//! unsafe step is from an address, checked to lie inside an allocation, to a reference.

use crate::fault::{Fault, FaultKind, Space, Touch};
use crate::shadow::Shadow;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Generic addresses of shared and local memory carry a number above this bit; host addresses do not.
pub const WINDOW_SHIFT: u32 = 56;
pub const SHARED_WINDOW: u64 = 1;
pub const LOCAL_WINDOW: u64 = 2;
/// `cudaMalloc` aligns to this.
const ALIGNMENT: usize = 256;

/// Zeroed bytes at a fixed address.
pub struct Buffer {
    pointer: *mut u8,
    layout: Layout,
}

// SAFETY: the bytes are only touched by atomic operations, and live as long as the buffer.
unsafe impl Send for Buffer {}
unsafe impl Sync for Buffer {}

impl Buffer {
    pub fn new(bytes: usize) -> Option<Buffer> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout is not of size zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        (!pointer.is_null()).then_some(Buffer { pointer, layout })
    }
    #[inline(always)]
    pub fn base(&self) -> *mut u8 {
        self.pointer
    }
    /// The buffer as words that threads share.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: zeroed, aligned to 256 bytes, and of this length.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.layout.size() / 8) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.pointer, self.layout) }
    }
}

macro_rules! element {
    ($load:ident, $store:ident, $type:ty, $atomic:ty) => {
        /// # Safety
        /// The address is aligned and lies inside a live buffer.
        #[inline(always)]
        pub unsafe fn $load(at: *mut u8) -> $type {
            unsafe { <$atomic>::from_ptr(at.cast()).load(Relaxed) }
        }
        /// # Safety
        /// The address is aligned and lies inside a live buffer.
        #[inline(always)]
        pub unsafe fn $store(at: *mut u8, value: $type) {
            unsafe { <$atomic>::from_ptr(at.cast()).store(value, Relaxed) }
        }
    };
}
element!(load8, store8, u8, AtomicU8);
element!(load16, store16, u16, AtomicU16);
element!(load32, store32, u32, AtomicU32);
element!(load64, store64, u64, AtomicU64);

pub struct Allocation {
    pub buffer: Buffer,
    pub size: usize,
    /// One bit for each byte that has been written; for checked memory.
    pub written: Option<Buffer>,
    pub shadow: Shadow,
}

impl Allocation {
    pub fn base(&self) -> u64 {
        self.buffer.base() as u64
    }

    /// Whether all these bytes have been written.
    #[inline(always)]
    pub fn is_written(&self, offset: usize, bytes: usize) -> bool {
        let Some(written) = &self.written else { return true };
        for_words(offset, bytes, |word, bits| written.words()[word].load(Relaxed) & bits == bits)
    }

    /// Marks `bytes` bytes from each offset as written.
    #[inline(always)]
    pub fn set_written(&self, offsets: impl Iterator<Item = usize>, bytes: usize) {
        let Some(written) = &self.written else { return };
        // The bits of one word are gathered: setting them is slow.
        let (mut last, mut gathered) = (0, 0);
        let set = |word: usize, bits: u64| {
            let cell = &written.words()[word];
            if bits == u64::MAX {
                cell.store(bits, Relaxed);
            } else if cell.load(Relaxed) & bits != bits {
                cell.fetch_or(bits, Relaxed);
            }
        };
        for offset in offsets {
            for_words(offset, bytes, |word, bits| {
                if word != last {
                    set(last, gathered);
                    (last, gathered) = (word, 0);
                }
                gathered |= bits;
                true
            });
        }
        set(last, gathered);
    }
}

/// Calls `f` with each word of a bitmap that holds bits of the range, until it answers false.
#[inline(always)]
fn for_words(offset: usize, bytes: usize, mut f: impl FnMut(usize, u64) -> bool) -> bool {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let (word, bit) = (at / 64, at % 64);
        let count = (64 - bit).min(end - at);
        let bits = if count == 64 { u64::MAX } else { ((1 << count) - 1) << bit };
        if !f(word, bits) {
            return false;
        }
        at += count;
    }
    true
}

/// The registry of allocations.
pub struct Memory {
    checked: bool,
    allocations: BTreeMap<u64, Allocation>,
    /// The number of launches so far: marks of older launches in the race shadow mean nothing.
    pub(crate) generation: u64,
    /// Where each module's variables lie.
    pub(crate) variables: HashMap<u64, u64>,
}

impl Memory {
    /// `checked`: remembers which bytes have been written.
    pub fn new(checked: bool) -> Memory {
        Memory { checked, allocations: BTreeMap::new(), generation: 0, variables: HashMap::new() }
    }

    /// The address of new memory, or none when the host has no more.
    pub fn allocate(&mut self, bytes: usize) -> Option<u64> {
        let buffer = Buffer::new(bytes)?;
        let written = if self.checked { Some(Buffer::new(bytes.div_ceil(64) * 8)?) } else { None };
        let base = buffer.base() as u64;
        self.allocations
            .insert(base, Allocation { buffer, size: bytes, written, shadow: Default::default() });
        Some(base)
    }

    /// False where no allocation starts at `base`.
    pub fn free(&mut self, base: u64) -> bool {
        self.allocations.remove(&base).is_some()
    }

    /// The allocation that an address lies in.
    pub fn find(&self, at: u64) -> Option<&Allocation> {
        let (_, allocation) = self.allocations.range(..=at).next_back()?;
        (at - allocation.base() < allocation.size as u64).then_some(allocation)
    }

    /// What to say of an address outside all allocations.
    pub(crate) fn describe(&self, at: u64, bytes: usize) -> String {
        if at == 0 {
            return "a null pointer".into();
        }
        let below = self.allocations.range(..=at).next_back().map(|(_, allocation)| allocation);
        let above = self.allocations.range(at..).next().map(|(_, allocation)| allocation);
        let size = |n: usize| format!("the allocation of {n} bytes");
        match (below, above) {
            (Some(a), _) if at - a.base() < (a.size + (1 << 20)) as u64 => {
                let past = (at + bytes as u64) - (a.base() + a.size as u64);
                format!("{past} bytes past the end of {} at {:#x}", size(a.size), a.base())
            }
            (_, Some(a)) if a.base() - at <= 1 << 20 => {
                format!("{} bytes before {} at {:#x}", a.base() - at, size(a.size), a.base())
            }
            _ => "outside every allocation".into(),
        }
    }

    pub(crate) fn allocations_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.allocations.values_mut()
    }

    /// Start, end and allocation, in the order of addresses.
    pub(crate) fn spans(&self) -> Vec<(u64, u64, &Allocation)> {
        self.allocations.values().map(|a| (a.base(), a.base() + a.size as u64, a)).collect()
    }

    /// Where a module's variables lie; with their initial values at the first use.
    pub(crate) fn variables_of(&mut self, module: u64, initial: &[u8]) -> Option<u64> {
        if initial.is_empty() {
            return Some(0);
        }
        if let Some(&base) = self.variables.get(&module) {
            return Some(base);
        }
        let base = self.allocate(initial.len())?;
        self.write(base, initial).ok()?;
        self.variables.insert(module, base);
        Some(base)
    }

    fn range(&self, at: u64, bytes: usize, write: bool) -> Result<(&Allocation, usize), Fault> {
        let allocation = self.find(at);
        match allocation {
            Some(a) if bytes <= a.size - (at - a.base()) as usize => Ok((a, (at - a.base()) as usize)),
            _ => {
                let touch = Touch { space: Space::Global, address: at, bytes, write };
                let what = FaultKind::OutOfBounds(touch, self.describe(at, bytes));
                Err(Fault::outside("", what))
            }
        }
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(at, bytes.len(), true)?;
        // SAFETY: in range, and `&mut self` excludes every other access.
        unsafe {
            let to = allocation.buffer.base().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        allocation.set_written([offset].into_iter(), bytes.len());
        Ok(())
    }

    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        if into.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(at, into.len(), false)?;
        // SAFETY: in range, and writes need `&mut self`.
        unsafe {
            let from = allocation.buffer.base().add(offset);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
        Ok(())
    }

    pub fn fill(&mut self, at: u64, byte: u8, n: usize) -> Result<(), Fault> {
        if n == 0 {
            return Ok(());
        }
        let (allocation, offset) = self.range(at, n, true)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(allocation.buffer.base().add(offset), byte, n) };
        allocation.set_written([offset].into_iter(), n);
        Ok(())
    }
}
