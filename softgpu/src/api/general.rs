//! Initialisation, version, errors, entry points.

use super::driver;
use crate::call::{Out, Text};
use crate::codes::Code;
use crate::device::DRIVER_VERSION;
use std::ffi::{c_char, c_int};
use std::sync::Once;
use std::sync::atomic::Ordering;

extern "C" fn at_exit() {
    crate::report::write_at_exit();
}

calls! {
    Nothing cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because("flags must be 0"));
        }
        // Programs that hide all GPUs hide this one too.
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "0".into());
        if visible.is_empty() || visible.starts_with('-') {
            return Err(Code::NO_DEVICE.into());
        }
        static AT_EXIT: Once = Once::new();
        // SAFETY: registers a function that lives as long as the process: libraries of drivers stay loaded.
        AT_EXIT.call_once(|| { unsafe { libc::atexit(at_exit) }; });
        driver()?.initialised.store(true, Ordering::Release);
        Ok(())
    }

    Nothing cuDriverGetVersion(version: Out<c_int>) {
        version.set(DRIVER_VERSION)
    }

    Nothing cuGetErrorName(error: u32, text: Out<*const c_char>) {
        let texts = Code(error).texts();
        text.set(texts.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        texts.map(|_| ()).ok_or(Code::INVALID_VALUE.into())
    }

    Nothing cuGetErrorString(error: u32, text: Out<*const c_char>) {
        let texts = Code(error).texts();
        text.set(texts.map_or(std::ptr::null(), |(_, string)| string.as_ptr()))?;
        texts.map(|_| ()).ok_or(Code::INVALID_VALUE.into())
    }

    /// Status: 0 for found, 1 for not found.
    Nothing cuGetProcAddress_v2(
        symbol: Text, function: Out<*const ()>, _version: c_int, _flags: u64, status: Out<u32>,
    ) {
        let address = super::address(symbol.get()?);
        function.set(address.unwrap_or(std::ptr::null()))?;
        status.set_if_wanted(if address.is_some() { 0 } else { 1 })?;
        address.map(|_| ()).ok_or(Code::NOT_FOUND.into())
    }

    Init cuProfilerStart() {
        Ok(())
    }

    Init cuProfilerStop() {
        Ok(())
    }
}
