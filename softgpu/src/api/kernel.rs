//! Modules, functions, launches.

use super::driver;
use crate::call::{Out, Outcome, Text};
use crate::codes::Code;
use crate::device::SHARED_DEFAULT;
use crate::handles::{self, Handle};
use crate::launch::{Arguments, Function, Launch, Module};
use crate::work::Work;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn load(result: Out<Handle>, text: &str) -> Outcome {
    result.present()?;
    let driver = driver()?;
    let module = Module::load(driver, driver.current()?.handle, text)?;
    let handle = module.handle;
    driver.modules.insert(handle, Arc::new(module));
    result.set(handle)
}

/// The text of an image: everything up to its 0. Nothing is read past the first byte that is no text.
fn text<'a>(image: *const u8) -> Outcome<&'a str> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE.because("the image is null"));
    }
    let is_text = |byte: u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
    // SAFETY: the caller promises an image, and a text ends with a 0.
    let length = (0..).take_while(|at| is_text(unsafe { *image.add(*at) })).count();
    // SAFETY: these bytes were just read.
    let (bytes, end) = unsafe { (std::slice::from_raw_parts(image, length), *image.add(length)) };
    // An ELF file, and the two forms of a fat binary.
    let magics = [b"\xb1CbF", b"\x50\xed\x55\xba"];
    if length == 0 && end == 0x7f || magics.iter().any(|magic| bytes.starts_with(*magic)) {
        let reason = "the image is a binary for a real GPU; compile to PTX (compute_NN) for this device";
        return Err(Code::NO_BINARY_FOR_GPU.because(reason));
    }
    if end != 0 {
        let reason = format!("byte {length} of the image is {end:#04x}: neither PTX nor a binary");
        return Err(Code::INVALID_IMAGE.because(reason));
    }
    std::str::from_utf8(bytes).map_err(|_| Code::INVALID_IMAGE.because("the image is not UTF-8"))
}

fn function(handle: Handle) -> Outcome<Arc<Function>> {
    let driver = driver()?;
    let function = driver.functions.find(handle, "function")?;
    if function.module.context != driver.current()?.handle {
        return Err(Code::INVALID_CONTEXT.because("the function's module belongs to another context"));
    }
    Ok(function)
}

fn bytes(value: c_int, least: c_int, most: usize) -> Outcome<usize> {
    if value < least || value > 0 && value as usize > most {
        return Err(Code::INVALID_VALUE.because(format!("{value} is not from {least} to {most}")));
    }
    Ok(value.max(0) as usize)
}

calls! {
    Context cuModuleLoadData(result: Out<Handle>, image: *const u8) {
        load(result, text(image)?)
    }

    /// Options for the compiler change nothing here.
    Context cuModuleLoadDataEx(
        result: Out<Handle>, image: *const u8,
        _count: u32, _options: *const c_int, _values: *const *const c_void,
    ) {
        load(result, text(image)?)
    }

    Context cuModuleLoad(result: Out<Handle>, file: Text) {
        let path = file.get()?;
        let missing = |error| Code::FILE_NOT_FOUND.because(format!("{path}: {error}"));
        load(result, &std::fs::read_to_string(path).map_err(missing)?)
    }

    Cleanup cuModuleUnload(handle: Handle) {
        let driver = driver()?;
        driver.refuse_unsafe()?;
        let module = driver.modules.remove(handle, "module")?;
        driver.wait_for_all(Some(module.context));
        module.unload();
        driver.functions.retain(|function| function.module.handle != handle);
        Ok(())
    }

    Context cuModuleGetFunction(result: Out<Handle>, module: Handle, name: Text) {
        let driver = driver()?;
        let function = Function::new(driver.modules.find(module, "module")?, name.get()?)?;
        let handle = handles::fresh();
        driver.functions.insert(handle, Arc::new(function));
        result.set(handle)
    }

    Context cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        count.set(driver()?.modules.find(module, "module")?.ptx.kernels().count() as u32)
    }

    Context cuFuncGetModule(module: Out<Handle>, handle: Handle) {
        module.set(function(handle)?.module.handle)
    }

    Context cuFuncGetAttribute(result: Out<c_int>, attribute: c_int, handle: Handle) {
        let function = function(handle)?;
        let arch = driver()?.options.arch;
        result.set(match attribute {
            0 => function.max_threads()? as c_int,
            1 => function.kernel()?.static_shared as c_int,
            // Constant and local memory and registers are the assembler's choice; there is none here.
            2 | 3 | 7 => 0,
            4 => 32,
            5 => arch.number as c_int,
            6 => arch.number as c_int + 1,
            8 => function.max_dynamic_shared.load(Ordering::Acquire) as c_int,
            9 => function.carveout.load(Ordering::Acquire),
            10..16 => 0,
            _ => return Err(Code::INVALID_VALUE.because(format!("there is no attribute {attribute}"))),
        })
    }

    Context cuFuncSetAttribute(handle: Handle, attribute: c_int, value: c_int) {
        let function = function(handle)?;
        match attribute {
            8 => {
                let (most, own) = (driver()?.options.arch.shared_opt_in(), function.kernel()?.static_shared);
                let Ok(value) = bytes(value, 0, most.saturating_sub(own)) else {
                    let name = &function.name;
                    let reason = format!("{name}: {value} dynamic and {own} static bytes of at most {most}");
                    return Err(Code::INVALID_VALUE.because(reason));
                };
                function.max_dynamic_shared.store(value, Ordering::Release);
            }
            9 => {
                bytes(value, -1, 100)?;
                function.carveout.store(value, Ordering::Release);
            }
            _ => return Err(Code::INVALID_VALUE.because(format!("attribute {attribute} cannot be set"))),
        }
        Ok(())
    }

    Context cuFuncSetCacheConfig(handle: Handle, config: c_int) {
        function(handle)?;
        bytes(config, 0, 3).map(|_| ())
    }

    Context cuLaunchKernel(
        handle: Handle,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: Handle,
        params: *const *const c_void, extra: *const *const c_void,
    ) {
        let driver = driver()?;
        let function = function(handle)?;
        let stream = driver.stream(stream)?;
        let (grid, block, dynamic_shared) = (
            [grid_x, grid_y, grid_z],
            [block_x, block_y, block_z],
            dynamic_shared as usize,
        );
        function.check(grid, block, dynamic_shared)?;
        let params = function.arguments(Arguments { each: params, extra })?;
        let launch = Launch { function, grid, block, dynamic_shared, params };
        driver.submit(&stream, Work::Launch(Arc::new(launch))).map(|_| ())
    }

    Context cuOccupancyMaxActiveBlocksPerMultiprocessor(
        result: Out<c_int>, handle: Handle, block: c_int, dynamic_shared: usize,
    ) {
        result.set(resident_blocks(handle, block, dynamic_shared)?)
    }

    Context cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        result: Out<c_int>, handle: Handle, block: c_int, dynamic_shared: usize, _flags: u32,
    ) {
        result.set(resident_blocks(handle, block, dynamic_shared)?)
    }
}

/// Blocks that a multiprocessor holds at once, by threads and shared memory; registers are not modelled.
fn resident_blocks(handle: Handle, block: c_int, dynamic_shared: usize) -> Outcome<c_int> {
    let function = function(handle)?;
    let most = function.max_threads()? as usize;
    let threads = bytes(block, 1, most)?;
    let arch = driver()?.options.arch;
    let shared = function.kernel()?.static_shared + dynamic_shared;
    if shared > arch.shared_opt_in().max(SHARED_DEFAULT) {
        return Ok(0);
    }
    let by_threads = arch.threads_per_multiprocessor as usize / threads.next_multiple_of(32);
    let by_shared = arch.shared_opt_in().checked_div(shared).unwrap_or(usize::MAX);
    Ok(by_threads.min(by_shared).min(arch.blocks_per_multiprocessor as usize) as c_int)
}
