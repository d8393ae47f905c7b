//! A tool that hears NVTX ranges: with `NVTX_INJECTION64_PATH` at this library and `SOFTGPU_TRACE=on`, each
//! range of a program is a line among the calls of the driver.

use crate::call::say;
use crate::driver;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// NVTX's table of functions: where a tool leaves its own.
type Table = *mut *mut *const ();

/// `NvtxExportTableCallbacks`.
#[repr(C)]
pub(crate) struct Callbacks {
    size: usize,
    table: extern "C" fn(module: c_uint, table: *mut Table, size: *mut c_uint) -> c_int,
}

/// `NVTX_ETID_CALLBACKS`, `NVTX_CB_MODULE_CORE`, `NVTX_CBID_CORE_RangePushA` and `..RangePop`.
const CALLBACKS: u32 = 1;
const CORE: c_uint = 1;
const PUSH: usize = 9;
const POP: usize = 11;

fn note(line: &str) {
    if driver::get().is_some_and(|driver| driver.options.trace) {
        say(line);
    }
}

extern "C" fn push(message: *const c_char) -> c_int {
    // SAFETY: NVTX hands over the program's text, which a 0 ends.
    let text = unsafe { CStr::from_ptr(message) };
    note(&format!("NVTX push: {}", text.to_string_lossy()));
    0
}

extern "C" fn pop() -> c_int {
    note("NVTX pop");
    0
}

/// Called by NVTX at the first range of a program; 1 says that the tool listens.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
// SAFETY: the name is the one that NVTX looks for in a tool.
pub extern "C" fn InitializeInjectionNvtx2(exported: extern "C" fn(u32) -> *const Callbacks) -> c_int {
    let callbacks = exported(CALLBACKS);
    if callbacks.is_null() {
        return 0;
    }
    let (mut table, mut size): (Table, c_uint) = (std::ptr::null_mut(), 0);
    // SAFETY: not null, and NVTX's tables live as long as the program. The table has `size` places for
    // functions of the types that its manual gives.
    unsafe {
        let got = ((*callbacks).table)(CORE, &mut table, &mut size);
        if got == 0 || table.is_null() || size as usize <= POP {
            return 0;
        }
        **table.add(PUSH) = push as *const ();
        **table.add(POP) = pop as *const ();
    }
    1
}
