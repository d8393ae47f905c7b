//! The block that a worker runs, shared with `kernels/host/shim.h`.

use std::ffi::c_char;

/// The same struct as `SaddleBlock` in the shim.
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
}

/// Shared arrays that one source file may declare.
pub(super) const SLOTS: usize = 32;

unsafe extern "C" {
    /// Makes `block` the block that kernels on this OS thread see.
    pub(super) fn saddle_set_block(block: *mut Block);
    pub(super) fn saddle_get_block() -> *mut Block;
}
