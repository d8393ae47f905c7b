//! Modules, their kernels, and launches.

use crate::call::Outcome;
use crate::codes::Code;
use crate::device::{MAX_BLOCK, MAX_GRID, MAX_THREADS, SHARED_DEFAULT};
use crate::driver::Driver;
use crate::handles::{Handle, lock};
use crate::options::Mutant;
use crate::work::injected_fault;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

pub struct Module {
    pub context: Handle,
    pub handle: Handle,
    pub ptx: ptx::Module,
    unloaded: AtomicBool,
}

pub struct Function {
    pub name: String,
    pub module: Arc<Module>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub max_dynamic_shared: AtomicUsize,
    /// `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`, in percent; -1 for the driver's choice.
    pub carveout: AtomicI32,
}

/// A kernel with its arguments as they were at the launch.
pub struct Launch {
    pub function: Arc<Function>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    pub params: Vec<u8>,
}

/// The pointers of a launch: either one to each argument, or a list that names one buffer of all.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub each: *const *const c_void,
    pub extra: *const *const c_void,
}

impl Module {
    pub fn load(driver: &Driver, context: Handle, text: &str) -> Outcome<Module> {
        let mut ptx =
            ptx::Module::parse(text).map_err(|error| Code::INVALID_PTX.because(error.to_string()))?;
        if let Some(Mutant { kernel, nth }) = &driver.options.mutant
            && ptx.kernel(kernel).is_some()
        {
            let wrong = |reason| Code::INVALID_VALUE.because(format!("SOFTGPU_MUTANT: {reason}"));
            ptx = ptx.without_wait(kernel, *nth).map_err(wrong)?;
        }
        if !driver.options.arch.runs(ptx.target()) {
            let reason = format!("PTX for {} does not run on {}", ptx.target(), driver.options.arch.name());
            return Err(Code::NO_BINARY_FOR_GPU.because(reason));
        }
        Ok(Module { context, handle: crate::handles::fresh(), ptx, unloaded: AtomicBool::new(false) })
    }

    pub fn unload(&self) {
        self.unloaded.store(true, Ordering::Release);
    }

    pub fn is_unloaded(&self) -> bool {
        self.unloaded.load(Ordering::Acquire)
    }
}

impl Function {
    pub fn new(module: Arc<Module>, name: &str) -> Outcome<Function> {
        let Some(kernel) = module.ptx.kernel(name) else {
            let known: Vec<&str> = module.ptx.kernels().map(|kernel| kernel.name.as_str()).collect();
            return Err(
                Code::NOT_FOUND.because(format!("no kernel {name}; the module has {}", known.join(", ")))
            );
        };
        let room = SHARED_DEFAULT.saturating_sub(kernel.static_shared);
        Ok(Function {
            name: name.into(),
            module: module.clone(),
            max_dynamic_shared: AtomicUsize::new(room),
            carveout: AtomicI32::new(-1),
        })
    }

    pub fn kernel(&self) -> Outcome<&ptx::Kernel> {
        self.module.ptx.kernel(&self.name).ok_or(Code::INVALID_HANDLE.into())
    }

    pub fn max_threads(&self) -> Outcome<u32> {
        Ok(self.kernel()?.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS))
    }

    /// Checks a launch against the limits of the device and the kernel.
    pub fn check(&self, grid: [u32; 3], block: [u32; 3], dynamic_shared: usize) -> Outcome {
        let name = &self.name;
        let refuse = |reason: String| Err(Code::INVALID_VALUE.because(format!("{name}: {reason}")));
        for axis in 0..3 {
            if !(1..=MAX_GRID[axis]).contains(&grid[axis]) {
                return refuse(format!("a grid of {grid:?} blocks, the limit is {MAX_GRID:?}"));
            }
            if !(1..=MAX_BLOCK[axis]).contains(&block[axis]) {
                return refuse(format!("a block of {block:?} threads, the limit is {MAX_BLOCK:?}"));
            }
        }
        let (threads, most) = (block.iter().product::<u32>(), self.max_threads()?);
        if threads > most {
            return refuse(format!("a block of {threads} threads, the limit is {most}"));
        }
        let most = self.max_dynamic_shared.load(Ordering::Acquire);
        if dynamic_shared > most {
            let remedy = "cuFuncSetAttribute raises it";
            return refuse(format!(
                "{dynamic_shared} bytes of dynamic shared memory, the limit is {most}: {remedy}"
            ));
        }
        Ok(())
    }

    /// Copies the arguments to where the kernel's parameters lie.
    pub fn arguments(&self, arguments: Arguments) -> Outcome<Vec<u8>> {
        let params = &self.kernel()?.params;
        let bytes = params.last().map_or(0, |last| last.offset + last.size);
        match (arguments.each.is_null(), arguments.extra.is_null()) {
            (false, false) => Err(Code::INVALID_VALUE.because("both kernelParams and extra are given")),
            (_, false) => self.copy_buffer(arguments.extra, bytes),
            (true, true) if !params.is_empty() => Err(Code::INVALID_VALUE.because(format!(
                "{} has {} parameters, none given",
                self.name,
                params.len()
            ))),
            (_, true) => self.copy_each(arguments.each, params, bytes),
        }
    }

    fn copy_each(&self, each: *const *const c_void, params: &[ptx::Param], bytes: usize) -> Outcome<Vec<u8>> {
        let mut copied = vec![0; bytes];
        for (index, param) in params.iter().enumerate() {
            // SAFETY: the caller promises a pointer for each parameter of the kernel.
            let argument = unsafe { *each.add(index) };
            if argument.is_null() {
                let (name, count) = (&self.name, params.len());
                return Err(
                    Code::INVALID_VALUE.because(format!("argument {index} of {count} of {name} is null"))
                );
            }
            let target = &mut copied[param.offset..param.offset + param.size];
            // SAFETY: the caller promises that it points to a value of the parameter's size.
            unsafe { std::ptr::copy_nonoverlapping(argument.cast(), target.as_mut_ptr(), param.size) };
        }
        Ok(copied)
    }

    /// `extra` is a list of pairs: 1 and a buffer, 2 and a pointer to its size, in any order; 0 ends it.
    fn copy_buffer(&self, extra: *const *const c_void, bytes: usize) -> Outcome<Vec<u8>> {
        let (mut buffer, mut size) = (std::ptr::null::<u8>(), None);
        for pair in 0.. {
            // SAFETY: the caller promises a list that ends.
            let (key, value) = unsafe { (*extra.add(2 * pair) as usize, extra.add(2 * pair + 1)) };
            match key {
                0 => break,
                // SAFETY: a key is followed by its value, and 2 by a pointer to a size.
                1 => buffer = unsafe { *value }.cast(),
                2 => size = Some(unsafe { *(*value).cast::<usize>() }),
                _ => return Err(Code::INVALID_VALUE.because(format!("extra has an unknown key {key}"))),
            }
        }
        match size {
            Some(size) if !buffer.is_null() && size >= bytes => {
                // SAFETY: the caller promises `size` bytes.
                Ok(unsafe { std::slice::from_raw_parts(buffer, bytes) }.to_vec())
            }
            Some(size) if !buffer.is_null() => {
                let name = &self.name;
                Err(Code::INVALID_VALUE.because(format!("{size} bytes of arguments, {name} has {bytes}")))
            }
            _ => Err(Code::INVALID_VALUE.because("extra names no buffer or no size")),
        }
    }
}

impl Launch {
    pub fn run(&self, driver: &Driver) {
        let name = &self.function.name;
        if let Some(code) = injected_fault(driver, name) {
            return driver.set_fault(code, name);
        }
        let checks = if driver.options.checks { ptx::Checks::ALL } else { ptx::Checks::NONE };
        let options = ptx::Options {
            checks,
            threads: driver.options.threads,
            order: driver.options.order,
            count: driver.options.report.is_some(),
            limit: driver.options.limit,
            ..ptx::Options::default()
        };
        let launch = ptx::Launch {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params: &self.params,
        };
        let mut memory = lock(&driver.memory);
        let began = std::time::Instant::now();
        match ptx::run(&self.function.module.ptx, name, &launch, &mut memory, &options) {
            Ok(counts) => {
                if options.count {
                    driver.report.add(name, self.function.module.ptx.files(), counts, began.elapsed());
                }
            }
            Err(fault) => driver.set_fault(code_of(&fault), &fault.to_string()),
        }
    }
}

/// What a GPU would report for a fault. What a GPU would not notice is a failed launch here.
pub fn code_of(fault: &ptx::Fault) -> Code {
    match fault.what {
        ptx::FaultKind::OutOfBounds(..) => Code::ILLEGAL_ADDRESS,
        ptx::FaultKind::Misaligned(..) => Code::MISALIGNED_ADDRESS,
        ptx::FaultKind::Unsupported(..) => Code::ILLEGAL_INSTRUCTION,
        _ => Code::LAUNCH_FAILED,
    }
}
