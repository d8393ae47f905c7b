//! Which blocks of device and page-locked memory are live, whose they are, and how much is left.

use crate::call::Outcome;
use crate::codes::Code;
use crate::driver::Driver;
use crate::handles::{Handle, lock};
use std::alloc::Layout;
use std::collections::BTreeMap;

/// `cuMemAlloc` aligns for every type; NVIDIA's blocks begin at multiples of 256 bytes.
const ALIGN: u64 = 256;
const PAGE: usize = 4096;

struct Block {
    bytes: usize,
    context: Handle,
}

pub struct Blocks {
    device: BTreeMap<u64, Block>,
    /// Page-locked host memory.
    host: BTreeMap<u64, Block>,
    total: usize,
    used: usize,
    pub peak: usize,
}

impl Blocks {
    pub fn new(total: usize) -> Blocks {
        Blocks { device: BTreeMap::new(), host: BTreeMap::new(), total, used: 0, peak: 0 }
    }

    /// Free bytes and all bytes of the device.
    pub fn info(&self) -> (usize, usize) {
        (self.total - self.used, self.total)
    }

    /// Live blocks of the device, and their bytes.
    pub fn live(&self) -> (usize, usize) {
        (self.device.len(), self.used)
    }

    /// The block that holds `bytes` bytes from `address` on: its base and size.
    pub fn find(&self, address: u64, bytes: usize) -> Outcome<(u64, usize)> {
        let refuse = |reason| Err(Code::INVALID_VALUE.because(reason));
        let Some((base, block)) = self.device.range(..=address).next_back() else {
            return refuse(format!("{address:#x} is no address of a live block"));
        };
        let offset = (address - base) as usize;
        if offset >= block.bytes {
            return refuse(format!("{address:#x} is no address of a live block"));
        }
        if bytes > block.bytes - offset {
            let past = bytes - (block.bytes - offset);
            return refuse(format!("{past} bytes past the end of a block of {} bytes", block.bytes));
        }
        Ok((*base, block.bytes))
    }

    /// Whether an address lies in page-locked memory.
    pub fn is_page_locked(&self, address: u64) -> bool {
        let block = self.host.range(..=address).next_back();
        block.is_some_and(|(base, block)| address - base < block.bytes as u64)
    }
}

impl Driver {
    pub fn allocate(&self, context: Handle, bytes: usize) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("a block of 0 bytes"));
        }
        let mut blocks = lock(&self.blocks);
        if bytes > blocks.total - blocks.used {
            return Err(Code::OUT_OF_MEMORY.into());
        }
        let Some(base) = lock(&self.memory).allocate(bytes) else { return Err(Code::OUT_OF_MEMORY.into()) };
        debug_assert_eq!(base % ALIGN, 0);
        blocks.used += bytes;
        blocks.peak = blocks.peak.max(blocks.used);
        blocks.device.insert(base, Block { bytes, context });
        Ok(base)
    }

    /// Takes a block off the list: from now on no call accepts its addresses.
    pub fn retire(&self, base: u64) -> Outcome {
        let mut blocks = lock(&self.blocks);
        let Some(block) = blocks.device.remove(&base) else {
            return Err(Code::INVALID_VALUE.because(match blocks.find(base, 1) {
                Ok((other, _)) => format!("{base:#x} lies inside the block at {other:#x}, not at its start"),
                Err(_) => format!("{base:#x} is no live block: freed before, or never allocated"),
            }));
        };
        blocks.used -= block.bytes;
        Ok(())
    }

    /// Gives a retired block back to the system.
    pub fn give_back(&self, base: u64) {
        lock(&self.memory).free(base);
    }

    /// Frees what a context has left.
    pub fn free_all(&self, context: Handle) {
        let of_context = |list: &BTreeMap<u64, Block>| -> Vec<u64> {
            list.iter().filter(|(_, block)| block.context == context).map(|(base, _)| *base).collect()
        };
        let (device, host) = {
            let blocks = lock(&self.blocks);
            (of_context(&blocks.device), of_context(&blocks.host))
        };
        for base in device {
            if self.retire(base).is_ok() {
                self.give_back(base);
            }
        }
        for base in host {
            let _ = self.free_host(base);
        }
    }

    pub fn allocate_host(&self, context: Handle, bytes: usize) -> Outcome<u64> {
        let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|layout| layout.size() > 0);
        let layout = layout.ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the size is not 0.
        let base = unsafe { std::alloc::alloc_zeroed(layout) } as u64;
        if base == 0 {
            return Err(Code::OUT_OF_MEMORY.into());
        }
        lock(&self.blocks).host.insert(base, Block { bytes, context });
        Ok(base)
    }

    pub fn free_host(&self, base: u64) -> Outcome {
        let Some(block) = lock(&self.blocks).host.remove(&base) else {
            return Err(Code::INVALID_VALUE.because(format!("{base:#x} is no page-locked block")));
        };
        let layout = Layout::from_size_align(block.bytes, PAGE).map_err(|_| Code::INVALID_VALUE)?;
        // SAFETY: `allocate_host` made it with this layout, and the list gave it out once.
        unsafe { std::alloc::dealloc(base as *mut u8, layout) };
        Ok(())
    }
}
