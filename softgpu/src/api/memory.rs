//! Device memory, page-locked host memory, copies and fills.

use super::driver;
use crate::call::{Out, Outcome};
use crate::codes::Code;
use crate::driver::Driver;
use crate::handles::{Handle, lock};
use crate::work::Work;
use std::ffi::c_int;

/// Checks that device memory is live where work will read or write it.
fn range(address: u64, bytes: usize) -> Outcome {
    lock(&driver()?.blocks).find(address, bytes).map(|_| ())
}

fn host(address: u64) -> Outcome {
    if address == 0 { Err(Code::INVALID_VALUE.because("the host address is null")) } else { Ok(()) }
}

fn to_device(to: u64, from_host: u64, bytes: usize) -> Outcome<Option<Work>> {
    if bytes == 0 {
        return Ok(None);
    }
    range(to, bytes)?;
    host(from_host)?;
    Ok(Some(Work::ToDevice { to, from_host, bytes }))
}

fn to_host(to_host: u64, from: u64, bytes: usize) -> Outcome<Option<Work>> {
    if bytes == 0 {
        return Ok(None);
    }
    range(from, bytes)?;
    host(to_host)?;
    Ok(Some(Work::ToHost { to_host, from, bytes }))
}

fn on_device(to: u64, from: u64, bytes: usize) -> Outcome<Option<Work>> {
    if bytes == 0 {
        return Ok(None);
    }
    range(to, bytes)?;
    range(from, bytes)?;
    Ok(Some(Work::OnDevice { to, from, bytes }))
}

fn fill(to: u64, value: u32, width: usize, count: usize) -> Outcome<Option<Work>> {
    if count == 0 {
        return Ok(None);
    }
    if !to.is_multiple_of(width as u64) {
        return Err(Code::INVALID_VALUE.because(format!("{to:#x} is no multiple of {width}")));
    }
    let bytes = count.checked_mul(width).ok_or_else(|| Code::INVALID_VALUE.because("too many bytes"))?;
    range(to, bytes)?;
    Ok(Some(Work::Fill { to, value, width, count }))
}

fn submit(work: Outcome<Option<Work>>, stream: Handle) -> Outcome {
    let driver = driver()?;
    let stream = driver.stream(stream)?;
    match work? {
        Some(work) => driver.submit(&stream, work).map(|_| ()),
        None => Ok(()),
    }
}

/// Does the work in the legacy default stream, before the call returns.
fn now(work: Outcome<Option<Work>>) -> Outcome {
    let driver = driver()?;
    driver.refuse_unsafe()?;
    match work? {
        Some(work) => driver.run_now(&driver.current()?.legacy, work),
        None => Ok(()),
    }
}

/// Does the work in the legacy default stream, after the call.
fn soon(work: Outcome<Option<Work>>) -> Outcome {
    driver()?.refuse_unsafe()?;
    submit(work, 0)
}

/// Waits for all work, as NVIDIA's driver does before it frees.
fn wait_before_free(driver: &Driver) {
    if !driver.options.free_at_once {
        driver.wait_for_all(None);
    }
}

const DEFAULT_POOL: Handle = 0x5f_c0de_0000;

calls! {
    Context cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let driver = driver()?;
        driver.refuse_unsafe()?;
        address.present()?;
        address.set(driver.allocate(driver.current()?.handle, bytes)?)
    }

    Cleanup cuMemFree_v2(address: u64) {
        let driver = driver()?;
        driver.refuse_unsafe()?;
        if address == 0 {
            return Ok(());
        }
        driver.retire(address)?;
        wait_before_free(driver);
        driver.give_back(address);
        Ok(())
    }

    Context cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        let driver = driver()?;
        let stream = driver.stream(stream)?;
        if let Some(capture) = stream.capturing() {
            capture.invalidate("allocations in a capture are not modelled");
            return Err(Code::NOT_SUPPORTED.because("allocations in a capture are not modelled"));
        }
        address.present()?;
        address.set(driver.allocate(stream.context, bytes)?)
    }

    Context cuMemFreeAsync(address: u64, stream: Handle) {
        let driver = driver()?;
        let stream = driver.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        if let Some(capture) = stream.capturing() {
            capture.invalidate("frees in a capture are not modelled");
            return Err(Code::NOT_SUPPORTED.because("frees in a capture are not modelled"));
        }
        driver.retire(address)?;
        driver.submit(&stream, Work::Free(address)).map(|_| ())
    }

    Context cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let info = lock(&driver()?.blocks).info();
        free.set(info.0)?;
        total.set(info.1)
    }

    Context cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) {
        let found = lock(&driver()?.blocks).find(address, 1).map_err(|e| Code::NOT_FOUND.because(e.reason))?;
        base.set_if_wanted(found.0)?;
        size.set_if_wanted(found.1)
    }

    Context cuMemHostAlloc(address: Out<u64>, bytes: usize, flags: u32) {
        if flags > 7 {
            return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags of a host block")));
        }
        let driver = driver()?;
        driver.refuse_unsafe()?;
        address.present()?;
        address.set(driver.allocate_host(driver.current()?.handle, bytes)?)
    }

    Context cuMemAllocHost_v2(address: Out<u64>, bytes: usize) {
        let driver = driver()?;
        driver.refuse_unsafe()?;
        address.present()?;
        address.set(driver.allocate_host(driver.current()?.handle, bytes)?)
    }

    Cleanup cuMemFreeHost(address: u64) {
        let driver = driver()?;
        driver.refuse_unsafe()?;
        if !lock(&driver.blocks).is_page_locked(address) {
            return Err(Code::INVALID_VALUE.because(format!("{address:#x} is no page-locked block")));
        }
        driver.wait_for_all(None);
        driver.free_host(address)
    }

    Context cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        now(to_device(to, from, bytes))
    }

    Context cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        now(to_host(to, from, bytes))
    }

    /// Returns before the copy is done: between device addresses nothing on the host waits.
    Context cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        soon(on_device(to, from, bytes))
    }

    Context cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        submit(to_device(to, from, bytes), stream)
    }

    Context cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        submit(to_host(to, from, bytes), stream)
    }

    Context cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        submit(on_device(to, from, bytes), stream)
    }

    Context cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        soon(fill(to, value.into(), 1, count))
    }

    Context cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        soon(fill(to, value.into(), 2, count))
    }

    Context cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        soon(fill(to, value, 4, count))
    }

    Context cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        submit(fill(to, value.into(), 1, count), stream)
    }

    Context cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        submit(fill(to, value.into(), 2, count), stream)
    }

    Context cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        submit(fill(to, value, 4, count), stream)
    }

    Init cuDeviceGetDefaultMemPool(pool: Out<Handle>, _device: c_int) {
        pool.set(DEFAULT_POOL)
    }

    Init cuDeviceGetMemPool(pool: Out<Handle>, _device: c_int) {
        pool.set(DEFAULT_POOL)
    }

    /// Blocks go back to the system as soon as they are freed: there is nothing to trim.
    Init cuMemPoolTrimTo(pool: Handle, _bytes: usize) {
        if pool == DEFAULT_POOL { Ok(()) } else { Err(Code::INVALID_HANDLE.because("no memory pool")) }
    }
}
