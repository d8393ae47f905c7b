//! The host device: CUDA kernels on the CPU.
//!
//! Blocks are scheduled on the cores (see `schedule`); the threads of a block run as plain calls on one fiber
//! until one of them has to wait (see `fiber`). Every kernel exists in machine code for several instruction
//! sets; the best one that the CPU has is used.

mod block;
mod checked;
mod fiber;
mod peaks;
mod rendezvous;
mod schedule;
mod switch;
mod threads;

pub(super) use checked::{allocate_guarded, install_fault_handler, release_guarded};
pub(super) use peaks::peaks;

use super::kernels::INSTRUCTION_SETS;
use super::recording::{Recorded, Recorder};
use super::{Arg, Grid, Kernel, Shapes};
use crate::error::{Error, Result};
use std::alloc::Layout;
use std::ffi::c_void;

/// The order in which the threads of a block start, in checked mode. A kernel whose result depends on it
/// lacks a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reverse,
    /// A random order from this seed, different for each block.
    Shuffled(u64),
}

/// The CPU as a device.
pub(super) struct Host {
    /// The index of the instruction set in [`INSTRUCTION_SETS`], or the one past the last for CUDA's launch
    /// shapes.
    isa: usize,
    pub shapes: Shapes,
    /// Checked mode and its order.
    checked: Option<Order>,
    pub recorder: Recorder,
}

impl Host {
    pub fn new(checked: Option<Order>, shapes: Shapes) -> Result<Host> {
        threads::start();
        let isa = match std::env::var("SADDLE_HOST_ISA") {
            _ if shapes == Shapes::Cuda => INSTRUCTION_SETS.len(),
            Ok(name) => {
                let known = INSTRUCTION_SETS.iter().position(|n| *n == name);
                let isa = known.ok_or_else(|| {
                    Error::unknown("instruction set (SADDLE_HOST_ISA)", &name, INSTRUCTION_SETS)
                })?;
                if isa > best_instruction_set() {
                    return Err(Error::Device {
                        device: "host".into(),
                        reason: format!("this CPU has no {name} instructions (SADDLE_HOST_ISA)"),
                    });
                }
                isa
            }
            Err(_) => best_instruction_set(),
        };
        Ok(Host { isa, shapes, checked, recorder: Recorder::default() })
    }

    pub fn describe(&self) -> String {
        let checked = if self.checked.is_some() { ", checked" } else { "" };
        let threads = rayon::current_num_threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!(
            "host ({threads} thread{plural}, {}{checked})",
            INSTRUCTION_SETS.get(self.isa).unwrap_or(&"launch shapes of CUDA")
        )
    }

    pub fn launch(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        if self.recorder.capturing() {
            self.recorder.push(Recorded::Launch { kernel, grid, args: args.to_vec() });
            return Ok(());
        }
        schedule::run(&fiber::Launch {
            kernel,
            enter: kernel.host[self.isa],
            args,
            grid,
            threads: kernel.threads.in_shapes(self.shapes),
            dynamic: kernel.dynamic.in_shapes(self.shapes),
            checked: self.checked,
        })
    }

    pub fn zero(&self, address: u64, bytes: usize) {
        self.do_or_record(Recorded::Zero { address, bytes });
    }

    pub fn copy(&self, from: u64, to: u64, bytes: usize) {
        self.do_or_record(Recorded::Copy { from, to, bytes });
    }

    fn do_or_record(&self, item: Recorded) {
        if self.recorder.capturing() {
            self.recorder.push(item);
        } else {
            // Zero and Copy cannot fail.
            let _ = self.run(&item);
        }
    }

    /// Runs one piece of recorded work.
    pub fn run(&self, item: &Recorded) -> Result<()> {
        match item {
            Recorded::Launch { kernel, grid, args } => self.launch(kernel, *grid, args)?,
            // SAFETY: addresses and sizes come from live buffers, or from blocks that the graph keeps.
            Recorded::Zero { address, bytes } => unsafe {
                std::ptr::write_bytes(*address as *mut u8, 0, *bytes)
            },
            // SAFETY: as above; source and target are different buffers.
            Recorded::Copy { from, to, bytes } => unsafe {
                std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes)
            },
        }
        Ok(())
    }
}

/// The best instruction set of this CPU, as an index into [`INSTRUCTION_SETS`].
fn best_instruction_set() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if v4 {
            2
        } else if v3 {
            1
        } else {
            0
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Allocates host memory; large blocks start at a huge-page boundary, so that the system may back them with
/// huge pages.
pub(super) fn allocate(bytes: usize, align: usize) -> Result<u64> {
    let (free, total) = if bytes >= HUGE { checked::system_memory() } else { (0, 0) };
    let out_of_memory = || Error::OutOfMemory { device: "host".into(), asked: bytes, free, total };
    // Many systems promise memory that they do not have, and end the process that uses it.
    if total > 0 && bytes > free {
        return Err(out_of_memory());
    }
    let layout = layout(bytes, align).ok_or_else(out_of_memory)?;
    // SAFETY: the size is at least one alignment unit, never zero.
    let address = unsafe { std::alloc::alloc(layout) } as u64;
    if address == 0 {
        return Err(out_of_memory());
    }
    if layout.align() > align {
        // SAFETY: advice about a range that was just allocated; a refusal changes nothing.
        unsafe { libc::madvise(address as *mut c_void, bytes, libc::MADV_HUGEPAGE) };
    }
    Ok(address)
}

/// Frees a block from [`allocate`].
pub(super) fn release(address: u64, bytes: usize, align: usize) {
    if let Some(layout) = layout(bytes, align) {
        // SAFETY: allocated by `allocate` with the same size and alignment.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) }
    }
}

/// The size of a huge page, and the least size of a block that starts at one.
const HUGE_PAGE: usize = 2 << 20;
const HUGE: usize = 4 * HUGE_PAGE;

fn layout(bytes: usize, align: usize) -> Option<Layout> {
    let align = if bytes >= HUGE { HUGE_PAGE } else { align };
    Layout::from_size_align(bytes, align).ok()
}
