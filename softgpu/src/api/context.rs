//! Contexts.

use super::device::check_flags;
use super::driver;
use crate::call::{Out, Outcome};
use crate::codes::Code;
use crate::context;
use crate::handles::{Handle, lock};
use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

/// Limits by number, with the values before any is set: stack, printf buffer, heap, launches inside kernels.
const LIMITS: [(u32, usize); 5] = [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048)];

fn default_limit(limit: u32) -> Outcome<usize> {
    let found = LIMITS.iter().find(|(number, _)| *number == limit).map(|(_, value)| *value);
    found.ok_or_else(|| Code::UNSUPPORTED_LIMIT.because(format!("there is no limit {limit}")))
}

fn create(result: Out<Handle>, flags: u32, device: c_int) -> Outcome {
    result.present()?;
    check_flags(flags)?;
    if device != 0 {
        return Err(Code::INVALID_DEVICE.into());
    }
    let context = driver()?.create_context(flags);
    context::push(context.handle);
    result.set(context.handle)
}

calls! {
    Init cuCtxCreate_v2(result: Out<Handle>, flags: u32, device: c_int) {
        create(result, flags, device)
    }

    Init cuCtxCreate_v4(result: Out<Handle>, _params: *const c_void, flags: u32, device: c_int) {
        create(result, flags, device)
    }

    Init cuCtxDestroy_v2(context: Handle) {
        if driver()?.context(context)?.primary {
            return Err(Code::INVALID_CONTEXT.because("the primary context is released, not destroyed"));
        }
        if context::top() == context {
            context::pop();
        }
        driver()?.destroy_context(context)
    }

    Init cuCtxPushCurrent_v2(context: Handle) {
        driver()?.context(context)?;
        context::push(context);
        Ok(())
    }

    Init cuCtxPopCurrent_v2(context: Out<Handle>) {
        let popped = context::pop().ok_or_else(|| Code::INVALID_CONTEXT.because("no context is current"))?;
        context.set_if_wanted(popped)
    }

    Init cuCtxSetCurrent(context: Handle) {
        if context != 0 {
            driver()?.context(context)?;
        }
        context::set(context);
        Ok(())
    }

    Init cuCtxGetCurrent(context: Out<Handle>) {
        context.set(context::top())
    }

    Init cuCtxGetDevice(device: Out<c_int>) {
        driver()?.current()?;
        device.set(0)
    }

    Context cuCtxSynchronize() {
        let driver = driver()?;
        let context = driver.current()?.handle;
        driver.refuse_context_wait(context)?;
        driver.wait_for_all(Some(context));
        driver.fault().map_or(Ok(()), |code| Err(code.into()))
    }

    Context cuCtxGetFlags(flags: Out<u32>) {
        flags.set(driver()?.current()?.flags.load(Ordering::Relaxed))
    }

    Context cuCtxSetFlags(flags: u32) {
        check_flags(flags)?;
        driver()?.current()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    Context cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let default = default_limit(limit)?;
        let context = driver()?.current()?;
        value.set(lock(&context.limits).get(&limit).copied().unwrap_or(default))
    }

    Context cuCtxSetLimit(limit: u32, value: usize) {
        default_limit(limit)?;
        lock(&driver()?.current()?.limits).insert(limit, value);
        Ok(())
    }

    Context cuCtxGetCacheConfig(config: Out<c_int>) {
        config.set(driver()?.current()?.cache_config.load(Ordering::Relaxed))
    }

    Context cuCtxSetCacheConfig(config: c_int) {
        if !(0..4).contains(&config) {
            return Err(Code::INVALID_VALUE.because(format!("{config} is no preference")));
        }
        driver()?.current()?.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    Context cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        least.set_if_wanted(super::stream::LEAST_PRIORITY)?;
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY)
    }

    Init cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        if context != 0 {
            driver()?.context(context)?;
        }
        version.set(crate::device::DRIVER_VERSION as u32)
    }
}
