//! The CUDA device: driver calls through `cudarc`, kernels compiled by NVRTC when they are first used.

pub mod check;
pub mod nvrtc;

use super::kernels::SOURCES;
use super::{Arg, Grid, Kernel};
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

/// An NVIDIA GPU.
pub struct Cuda {
    pub(super) ordinal: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    arch: nvrtc::Arch,
    loaded: Mutex<Loaded>,
}

/// Modules by source index and functions by kernel name.
#[derive(Default)]
struct Loaded {
    modules: HashMap<usize, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// Whether CUDA can be used on this machine, and if not, why.
pub enum Status {
    /// These GPUs can be used.
    Usable(Vec<GpuInfo>),
    /// What is missing and how to get it, one line.
    Missing(String),
}

/// What `saddle devices` prints of a GPU.
pub struct GpuInfo {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Memory in bytes.
    pub memory: usize,
}

/// Looks for a driver, a GPU and NVRTC, without ever panicking.
pub fn status() -> Status {
    // SAFETY: only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        return Status::Missing(
            "the NVIDIA driver library (libcuda.so.1) was not found; install the NVIDIA driver, or in a container start it with GPU access".into(),
        );
    }
    let missing = |what: &str, e: DriverError| Status::Missing(format!("{what}: {}", explain(&e)));
    if let Err(e) = result::init() {
        return missing("the NVIDIA driver is installed but does not start", e);
    }
    let count = match result::device::get_count() {
        Ok(0) => return Status::Missing("the NVIDIA driver works but sees no GPU (CUDA_VISIBLE_DEVICES may hide it)".into()),
        Ok(count) => count as usize,
        Err(e) => return missing("the NVIDIA driver cannot list GPUs", e),
    };
    if let Err(reason) = nvrtc::version() {
        return Status::Missing(reason);
    }
    let gpus = (0..count).filter_map(|ordinal| {
        let context = CudaContext::new(ordinal).ok()?;
        let (_, memory) = context.mem_get_info().ok()?;
        Some(GpuInfo { ordinal, name: context.name().ok()?, capability: context.compute_capability().ok()?, memory })
    });
    Status::Usable(gpus.collect())
}

/// The version of the installed driver, such as `13.0` for the CUDA version that it supports; `None` without a driver.
pub fn driver_version() -> Option<String> {
    // SAFETY: the library is opened only when it is there; the call fills one integer.
    unsafe {
        if !sys::is_culib_present() {
            return None;
        }
        let mut version = 0;
        sys::cuDriverGetVersion(&mut version).result().ok()?;
        Some(format!("{}.{}", version / 1000, version % 1000 / 10))
    }
}

fn explain(error: &DriverError) -> String {
    error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().into_owned())
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Cuda { call, reason: explain(&e) }
}

impl Cuda {
    pub(super) fn new(ordinal: usize) -> Result<Cuda> {
        let device = format!("cuda:{ordinal}");
        let gpus = match status() {
            Status::Missing(reason) => return Err(Error::Device { device, reason }),
            Status::Usable(gpus) => gpus,
        };
        let Some(gpu) = gpus.iter().find(|g| g.ordinal == ordinal) else {
            return Err(Error::Device { device, reason: format!("there are {} usable GPUs, numbered from 0", gpus.len()) });
        };
        let context = CudaContext::new(ordinal).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // One stream orders everything: no events are needed, and they would break graph capture.
        // SAFETY: no buffer of cudarc's own is ever shared between streams here.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        let arch = nvrtc::Arch::of_device(gpu.capability)?;
        Ok(Cuda { ordinal, context, stream, name: gpu.name.clone(), arch, loaded: Mutex::default() })
    }

    pub(super) fn describe(&self) -> String {
        self.name.clone()
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("cuStreamSynchronize"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: plain allocation; freed by `release`.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| {
            let (free, total) = self.context.mem_get_info().unwrap_or((0, 0));
            match e.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    Error::OutOfMemory { device: self.name.clone(), asked: bytes, free, total }
                }
                _ => failed("cuMemAlloc")(e),
            }
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
        self.bind()?;
        // SAFETY: the caller owns `bytes` bytes at `address`.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }.map_err(failed("cuMemsetD8Async"))
    }

    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller owns `bytes` bytes at both addresses.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }.map_err(failed("cuMemcpyDtoDAsync"))
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller owns as many bytes at `address`; the stream is waited for before `bytes` can go away.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }.map_err(failed("cuMemcpyHtoDAsync"))?;
        self.synchronize()
    }

    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller owns as many bytes at `address`; the stream is waited for before `bytes` is used.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }.map_err(failed("cuMemcpyDtoHAsync"))?;
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
        .map_err(|e| Error::Launch { kernel: kernel.name.into(), grid: grid.0, block, reason: explain(&e) })
    }

    /// The compiled kernel. A source is compiled whole, and all its functions are resolved, when the first of them is used.
    fn function(&self, kernel: &'static Kernel) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.functions.contains_key(kernel.name) {
            let source = &SOURCES[kernel.source];
            let image = nvrtc::compile_cached(source, &self.arch)?;
            self.bind()?;
            let module = self.context.load_module(image).map_err(failed("cuModuleLoadData"))?;
            for other in source.kernels {
                let function = module.load_function(other.name).map_err(failed("cuModuleGetFunction"))?;
                if other.dynamic.cuda > 0 {
                    // More than 48 KiB only for those who ask.
                    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function.set_attribute(attribute, other.dynamic.cuda as i32).map_err(failed("cuFuncSetAttribute"))?;
                }
                loaded.functions.insert(other.name, function);
            }
            loaded.modules.insert(kernel.source, module);
        }
        match loaded.functions.get(kernel.name) {
            Some(function) => Ok(function.cu_function()),
            None => {
                Err(Error::Cuda { call: "cuModuleGetFunction", reason: format!("{} is not in {}", kernel.name, kernel.file) })
            }
        }
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
