//! The CUDA device: driver calls through `cudarc`, kernels compiled by NVRTC.

pub mod check;
mod events;
mod images;
pub mod nvrtc;
mod presence;

pub use events::{Events, start_profiler, stop_profiler};
pub use presence::{GpuInfo, Status, driver_version, status, unusable_gpus};

use super::{Arg, Grid, Kernel, Peaks, Source};
use crate::error::{Error, Result};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError, result, sys,
};
use cudarc::nvrtc::Ptx;
use images::Images;
use presence::gpus;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

/// An NVIDIA GPU.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    /// All its memory in bytes.
    memory: usize,
    multiprocessors: usize,
    arch: nvrtc::Arch,
    images: Images,
    loaded: Mutex<Loaded>,
}

/// Modules by source and functions by kernel name.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
}

fn explain(error: &DriverError) -> String {
    error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().into_owned())
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Cuda { call, reason: explain(&e) }
}

impl Cuda {
    pub(super) fn new(ordinal: usize) -> Result<Cuda> {
        let unusable = |reason| Error::Device { device: format!("cuda:{ordinal}"), reason };
        let mut gpus = gpus().map_err(unusable)?;
        if ordinal >= gpus.len() {
            return Err(unusable(format!("the driver sees GPUs up to cuda:{}", gpus.len() - 1)));
        }
        let gpu = gpus.swap_remove(ordinal).map_err(unusable)?;
        let arch = nvrtc::Arch::of_device(gpu.capability).map_err(unusable)?;
        let context = CudaContext::new(ordinal).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // One stream orders everything: no events are needed, and they would break graph capture.
        // SAFETY: no buffer of cudarc's own is ever shared between streams here.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        let memory = context.mem_get_info().map_or(gpu.memory, |(_, total)| total);
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(failed("cuDeviceGetAttribute"))?;
        let multiprocessors = multiprocessors.max(1) as usize;
        let images = Images::new({
            let arch = arch.clone();
            move |source| nvrtc::cached_or_compiled(source, &arch).ok()
        });
        let name = gpu.name;
        let loaded = Mutex::default();
        Ok(Cuda { context, stream, name, memory, multiprocessors, arch, images, loaded })
    }

    /// What kernels are compiled for.
    pub(super) fn arch(&self) -> &nvrtc::Arch {
        &self.arch
    }

    pub(super) fn describe(&self) -> String {
        self.name.clone()
    }

    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Peaks from clocks and widths, and of tensor cores from NVIDIA's data sheet.
    pub(super) fn peaks(&self) -> Result<Peaks> {
        use sys::CUdevice_attribute::*;
        let attribute =
            |which| self.context.attribute(which).map(f64::from).map_err(failed("cuDeviceGetAttribute"));
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32;
        let lanes = ptx::gpu::Gpu { capability: (major, minor), ..ptx::gpu::GPUS[0] }.limits().fp32;
        let kilohertz = attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        let (memory, bits) = (
            attribute(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            attribute(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        );
        let sheet = ptx::gpu::of_driver(&self.name);
        let origin = "from the clocks and widths that the driver states";
        Ok(Peaks {
            flops: 2.0 * f64::from(lanes) * self.multiprocessors as f64 * kilohertz * 1e3,
            // Two transfers a clock.
            bandwidth: 2.0 * memory * 1e3 * bits / 8.0,
            tensor: sheet.map(|gpu| [gpu.tensor[0], gpu.tensor[1]]).filter(|peaks| !peaks.contains(&0.0)),
            origin: match sheet {
                Some(gpu) => format!("{origin}, tensor cores from {}; not measured", gpu.source),
                None => format!("{origin}; not measured"),
            },
        })
    }

    /// Waits for all work. After an error it waits for the whole context, so that nothing still uses the
    /// program's memory.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| {
            // Where the context is lost this fails, too, and nothing runs.
            let _ = self.context.synchronize();
            failed("cuStreamSynchronize")(error)
        })
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        let exhausted = || {
            let (free, total) = self.context.mem_get_info().unwrap_or((0, self.memory));
            Error::OutOfMemory { device: self.name.clone(), asked: bytes, free, total }
        };
        // Drivers answer sizes beyond the memory with various errors.
        if bytes > self.memory {
            return Err(exhausted());
        }
        // SAFETY: plain allocation; freed by `release`.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => exhausted(),
            _ => failed("cuMemAlloc")(e),
        })
    }

    pub(super) fn release(&self, address: u64) {
        if self.bind().is_ok() {
            // An error here means that the context is gone, and the memory with it.
            // SAFETY: allocated by `allocate`; the pool hands it back once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    pub(super) fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller owns `bytes` bytes at `address`.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemsetD8Async"))
    }

    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller owns `bytes` bytes at both addresses.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoDAsync"))
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller owns as many bytes at `address`; the stream is waited for before `bytes` can go
        // away.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyHtoDAsync"))?;
        self.synchronize()
    }

    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller owns as many bytes at `address`; the stream is waited for before `bytes` is
        // used.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoHAsync"))?;
        self.synchronize()
    }

    pub(super) fn launch(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let function = self.function(kernel)?;
        self.bind()?;
        let mut params: Vec<*mut c_void> = args.iter().map(|a| &a.0 as *const u64 as *mut c_void).collect();
        let [x, y, z] = grid.0;
        let block = kernel.threads.cuda as u32;
        // SAFETY: the generated launcher built `args` to match the kernel's parameters.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (block, 1, 1),
                kernel.dynamic.cuda as u32,
                self.stream.cu_stream(),
                &mut params,
            )
        }
        .map_err(|e| Error::Launch {
            kernel: kernel.name.into(),
            grid: grid.0,
            block,
            reason: explain(&e),
        })
    }

    /// The compiled kernel. A source is compiled whole, and all its functions are resolved, when the first of
    /// them is used.
    fn function(&self, kernel: &'static Kernel) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.functions.contains_key(kernel.name) {
            let module = self.module(kernel.source)?;
            for other in kernel.source.kernels {
                let function = module.load_function(other.name).map_err(failed("cuModuleGetFunction"))?;
                if other.dynamic.cuda > 0 {
                    // A kernel gets more than 48 KiB only on request.
                    let attribute =
                        sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function
                        .set_attribute(attribute, other.dynamic.cuda as i32)
                        .map_err(failed("cuFuncSetAttribute"))?;
                }
                loaded.functions.insert(other.name, function);
            }
            loaded.modules.insert(kernel.source.name, module);
        }
        match loaded.functions.get(kernel.name) {
            Some(function) => Ok(function.cu_function()),
            None => Err(Error::Internal {
                what: format!("{} is not in the list of {}", kernel.name, kernel.source.file),
            }),
        }
    }

    /// A source as the driver runs it. An image that the driver refuses may be a broken file of the cache: it
    /// is compiled anew, once.
    fn module(&self, source: &Source) -> Result<Arc<CudaModule>> {
        self.bind()?;
        let load =
            |image| self.context.load_module(Ptx::from_binary(image)).map_err(failed("cuModuleLoadData"));
        if let Some(module) = self.images.get(source).and_then(|image| load(image.to_vec()).ok()) {
            return Ok(module);
        }
        load(nvrtc::compile_to_cache(source, &self.arch)?)
    }

    pub(super) fn begin_capture(&self) -> Result<()> {
        // Relaxed: the allocator may have to ask the driver for memory while work is recorded.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("cuStreamBeginCapture"))
    }

    pub(super) fn end_capture(&self) -> Result<CapturedGraph> {
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(failed("cuStreamEndCapture"))?;
        Ok(CapturedGraph(graph))
    }
}

/// A CUDA graph; `None` when nothing was recorded.
pub struct CapturedGraph(Option<CudaGraph>);

impl CapturedGraph {
    pub(super) fn launch(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |graph| graph.launch().map_err(failed("cuGraphLaunch")))
    }
}
