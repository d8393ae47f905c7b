//! The block that an OS thread runs, shared with `kernels/host/shim.h`.

use super::rendezvous::Wait;
use super::switch::Fiber;
use crate::device::Arg;
use std::ffi::c_char;

/// The first part, up to `result`, is the same struct as `SaddleBlock` in the shim; kernels do not see the
/// rest.
#[repr(C)]
pub(super) struct Block {
    pub block_idx: [u32; 3],
    pub grid_dim: [u32; 3],
    pub threads: u32,
    pub thread: u32,
    pub started: u32,
    pub shared_size: u32,
    pub shared_used: u32,
    pub dynamic_size: u32,
    pub order: *const u32,
    pub shared: *mut u8,
    pub slots: [u32; SLOTS],
    pub slot_ends: [u32; SLOTS],
    pub kernel: *const c_char,
    pub result: u64,
    /// The rendezvous that each thread waits for, by thread.
    pub waits: *mut Wait,
    /// The next position in the thread order whose thread may go on in the current round.
    pub position: u32,
    /// Bytes of a shared array that did not fit; 0 as long as all did.
    pub overflow: u32,
    /// The kernel's trampoline, which a fresh fiber enters.
    pub enter: Enter,
    pub args: *const Arg,
    /// The fiber that runs now, where the OS thread came from, and the first of the fibers without a thread.
    pub running: *mut Fiber,
    pub home: *mut Fiber,
    pub idle: *mut Fiber,
}

/// A kernel's trampoline: runs the threads of the current block that have not started yet, one after the
/// other.
pub(super) type Enter = unsafe extern "C" fn(*const Arg);

/// Shared arrays that one source file may declare.
pub(super) const SLOTS: usize = 32;

// C only passes the pointer on, and reads the first part.
#[allow(improper_ctypes)]
unsafe extern "C" {
    /// Makes `block` the block that kernels on this OS thread see.
    pub(super) fn saddle_set_block(block: *mut Block);
    pub(super) fn saddle_get_block() -> *mut Block;
}
