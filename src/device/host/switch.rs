//! Switching between stacks: a fiber is a stack and the place on it where it stopped.
//!
//! Fibers switch to each other directly, and leave `saddle_wait` with a jump, not a return: the processor
//! predicts a return from the last call, which another fiber made from another barrier, and each wrong guess
//! would cost as much as the whole switch.

use super::checked::Mapping;
use crate::error::Result;
use std::ptr::null_mut;

const STACK: usize = 256 * 1024;
/// Stacks start at different distances from the end of a page, a cache line each: at equal ones, the fibers
/// of a block would compete for the same few lines of the cache.
const STAGGER: usize = 64;

/// A stack, and where it was left.
#[repr(C)]
pub(super) struct Fiber {
    sp: *mut usize,
    top: *mut usize,
    /// The next idle fiber, when this one is idle.
    pub next: *mut Fiber,
    _stack: Option<Mapping>,
}

impl Fiber {
    /// The stack that the OS thread came with, to return to.
    pub const fn home() -> Fiber {
        Fiber { sp: null_mut(), top: null_mut(), next: null_mut(), _stack: None }
    }

    /// A fiber that starts with `entry`, which never returns. `number` tells the fibers of an OS thread
    /// apart.
    pub fn new(number: usize, entry: extern "C" fn() -> !) -> Result<Box<Fiber>> {
        let stack = Mapping::new(STACK)?;
        let top = (stack.end() - number * STAGGER % 4096) as *mut usize;
        let mut fiber = Box::new(Fiber { sp: null_mut(), top, next: null_mut(), _stack: Some(stack) });
        fiber.restart(entry);
        Ok(fiber)
    }

    /// Forgets what the fiber was doing. It must not run now, and nothing on its stack may be waiting to be
    /// dropped.
    pub fn restart(&mut self, entry: extern "C" fn() -> !) {
        // SAFETY: the frame that `saddle_switch` takes down, inside the stack: zeros for the registers,
        // `entry` as the return address.
        unsafe {
            self.sp = self.top.sub(FRAME);
            self.sp.write_bytes(0, FRAME);
            self.sp.add(RETURN).write(entry as usize);
        }
    }
}

/// Leaves the running fiber `from`, to be continued here later, and continues `to`.
///
/// # Safety
/// `from` is the running fiber of this OS thread; `to` is another, new or left before.
#[inline(always)]
pub(super) unsafe fn switch(from: *mut Fiber, to: *const Fiber) {
    // SAFETY: the caller's promise.
    unsafe { saddle_switch(&raw mut (*from).sp, (*to).sp) }
}

unsafe extern "C" {
    /// Saves the registers that a function must keep, stores the stack pointer, takes the other one and
    /// restores.
    fn saddle_switch(from: *mut *mut usize, to: *mut usize);
}

/// The result of `saddle_park` (see [`fiber`](super::fiber)): where `saddle_wait` stores this stack pointer,
/// and the one to take.
#[repr(C)]
pub(super) struct Switch {
    from: *mut *mut usize,
    to: *mut usize,
}

impl Switch {
    /// # Safety
    /// As for [`switch`].
    pub unsafe fn new(from: *mut Fiber, to: *const Fiber) -> Switch {
        // SAFETY: the caller's promise.
        unsafe { Switch { from: &raw mut (*from).sp, to: (*to).sp } }
    }
}

/// Words of a saved frame, and the one of the return address in it. A new stack must look as if `entry` had
/// been called.
#[cfg(target_arch = "x86_64")]
const FRAME: usize = 8;
#[cfg(target_arch = "x86_64")]
const RETURN: usize = 6;
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".macro saddle_save",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    ".endm",
    ".macro saddle_go_on",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "pop rcx",
    "jmp rcx",
    ".endm",
    ".globl saddle_switch",
    ".hidden saddle_switch",
    ".type saddle_switch, @function",
    "saddle_switch:",
    "saddle_save",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "saddle_go_on",
    ".size saddle_switch, . - saddle_switch",
    ".globl saddle_wait",
    ".hidden saddle_wait",
    ".type saddle_wait, @function",
    "saddle_wait:",
    "saddle_save",
    "sub rsp, 8",
    "call {park}",
    "add rsp, 8",
    "mov [rax], rsp",
    "mov rsp, rdx",
    "saddle_go_on",
    ".size saddle_wait, . - saddle_wait",
    park = sym super::fiber::saddle_park,
);

#[cfg(target_arch = "aarch64")]
const FRAME: usize = 20;
#[cfg(target_arch = "aarch64")]
const RETURN: usize = 11;
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".macro saddle_save",
    "sub sp, sp, #160",
    "stp x19, x20, [sp]",
    "stp x21, x22, [sp, #16]",
    "stp x23, x24, [sp, #32]",
    "stp x25, x26, [sp, #48]",
    "stp x27, x28, [sp, #64]",
    "stp x29, x30, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    ".endm",
    ".macro saddle_go_on",
    "ldp x19, x20, [sp]",
    "ldp x21, x22, [sp, #16]",
    "ldp x23, x24, [sp, #32]",
    "ldp x25, x26, [sp, #48]",
    "ldp x27, x28, [sp, #64]",
    "ldp x29, x30, [sp, #80]",
    "ldp d8, d9, [sp, #96]",
    "ldp d10, d11, [sp, #112]",
    "ldp d12, d13, [sp, #128]",
    "ldp d14, d15, [sp, #144]",
    "add sp, sp, #160",
    "br x30",
    ".endm",
    ".globl saddle_switch",
    ".hidden saddle_switch",
    ".type saddle_switch, %function",
    "saddle_switch:",
    "saddle_save",
    "mov x9, sp",
    "str x9, [x0]",
    "mov sp, x1",
    "saddle_go_on",
    ".size saddle_switch, . - saddle_switch",
    ".globl saddle_wait",
    ".hidden saddle_wait",
    ".type saddle_wait, %function",
    "saddle_wait:",
    "saddle_save",
    "bl {park}",
    "mov x9, sp",
    "str x9, [x0]",
    "mov sp, x1",
    "saddle_go_on",
    ".size saddle_wait, . - saddle_wait",
    park = sym super::fiber::saddle_park,
);
