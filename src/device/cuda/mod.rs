//! The CUDA device: driver calls through `cudarc`, kernels compiled by NVRTC.

mod ahead;
pub mod check;
pub mod nvrtc;

use super::{Arg, Grid, Kernel, Source};
use crate::error::{Error, Result};
use ahead::Ahead;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError, result, sys,
};
use cudarc::nvrtc::Ptx;
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
    arch: nvrtc::Arch,
    images: Ahead,
    loaded: Mutex<Loaded>,
}

/// Modules by source file and functions by kernel name.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// Whether CUDA can be used on this machine, and if not, why.
pub enum Status {
    /// These GPUs can be used.
    Usable(Vec<GpuInfo>),
    /// The missing part and how to get it, one line.
    Missing(String),
}

/// The facts about a GPU that `saddle devices` prints.
pub struct GpuInfo {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Memory in bytes.
    pub memory: usize,
}

/// Looks for a driver, a GPU and NVRTC, without ever panicking. No GPU is taken into use.
pub fn status() -> Status {
    match gpus() {
        Err(reason) => Status::Missing(reason),
        Ok(found) => {
            let (usable, unusable) = sorted(found);
            if usable.is_empty() { Status::Missing(unusable.join("; ")) } else { Status::Usable(usable) }
        }
    }
}

/// Why some of the GPUs that the driver lists cannot be used, one line for each.
pub fn unusable_gpus() -> Vec<String> {
    gpus().map(|found| sorted(found).1).unwrap_or_default()
}

fn sorted(found: Vec<Result<GpuInfo, String>>) -> (Vec<GpuInfo>, Vec<String>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for (ordinal, gpu) in found.into_iter().enumerate() {
        match gpu {
            Ok(gpu) => usable.push(gpu),
            Err(reason) => unusable.push(format!("cuda:{ordinal}: {reason}")),
        }
    }
    (usable, unusable)
}

/// All GPUs by ordinal, each with the reason when it cannot be used. The error is the reason why none can.
fn gpus() -> Result<Vec<Result<GpuInfo, String>>, String> {
    const NO_GPU: &str = "the NVIDIA driver works but sees no GPU (CUDA_VISIBLE_DEVICES may hide it)";
    driver_library()?;
    let missing = |what: &'static str| {
        move |e: DriverError| match e.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => NO_GPU.to_owned(),
            _ => format!("{what}: {}", explain(&e)),
        }
    };
    result::init().map_err(missing("the NVIDIA driver is installed but does not start"))?;
    let count = result::device::get_count().map_err(missing("the NVIDIA driver cannot list GPUs"))?;
    if count <= 0 {
        return Err(NO_GPU.into());
    }
    let compiler = nvrtc::version()?;
    match driver_number().and_then(|driver| too_new(compiler, driver)) {
        Some(reason) => Err(reason),
        None => Ok((0..count as usize).map(gpu).collect()),
    }
}

/// Some functions of the driver, new and old ones of every kind. `cudarc` panics at the call of one that is
/// missing.
const DRIVER_FUNCTIONS: [&str; 14] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuMemAlloc_v2",
    "cuModuleLoadData",
    "cuLaunchKernel",
];

/// Whether there is a driver's library, and a whole one.
fn driver_library() -> Result<(), String> {
    // SAFETY: only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "the NVIDIA driver library (libcuda.so.1) was not found; install the NVIDIA driver, or in a \
             container start it with GPU access"
                .into(),
        );
    }
    // SAFETY: only looks the names up.
    let has = |name: &&str| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()).is_ok() };
    match DRIVER_FUNCTIONS.iter().find(|name| !has(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "the library libcuda.so that the loader finds has no {name}, so it is not an NVIDIA driver's: \
             install the driver anew, or take that library's folder off LD_LIBRARY_PATH"
        )),
    }
}

/// The driver's facts about a GPU, without a context on it; the error is why it cannot be used.
fn gpu(ordinal: usize) -> Result<GpuInfo, String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let asked = || {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the driver gave this device.
        let (major, minor, memory) = unsafe {
            use result::device::{get_attribute, total_mem};
            (get_attribute(device, MAJOR)?, get_attribute(device, MINOR)?, total_mem(device)?)
        };
        Ok(GpuInfo { ordinal, name: result::device::get_name(device)?, capability: (major, minor), memory })
    };
    let gpu = asked().map_err(|e: DriverError| format!("the GPU does not answer: {}", explain(&e)))?;
    nvrtc::Arch::of_device(gpu.capability)?;
    Ok(gpu)
}

/// Why an NVRTC version cannot be used with a driver: drivers load no code of a CUDA generation after their
/// own.
fn too_new((major, minor): (i32, i32), driver: i32) -> Option<String> {
    let generation = driver / 1000;
    let remedy = match generation {
        _ if major <= generation => return None,
        ..12 => "update the driver".into(),
        12 => "install an NVRTC of that version (pip install nvidia-cuda-nvrtc-cu12), or update the driver"
            .into(),
        // From 13 on the package has no number in its name.
        _ => format!(
            "install an NVRTC of that version (pip install 'nvidia-cuda-nvrtc=={generation}.*'), or update \
             the driver"
        ),
    };
    Some(format!(
        "NVRTC {major}.{minor} is newer than the driver, which supports CUDA {}: {remedy}",
        dotted(driver)
    ))
}

/// A driver's version number as it is written: `13.0` for 13000.
fn dotted(driver: i32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// The version of the installed driver, such as `13.0` for the CUDA version that it supports; `None` without
/// a driver.
pub fn driver_version() -> Option<String> {
    driver_number().map(dotted)
}

fn driver_number() -> Option<i32> {
    driver_library().ok()?;
    let mut version = 0;
    // SAFETY: the library has the function, which fills one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().ok()?;
    Some(version)
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
        let images = Ahead::start({
            let arch = arch.clone();
            move |source| nvrtc::cached_or_compiled(source, &arch).ok()
        });
        Ok(Cuda { context, stream, name: gpu.name, memory, arch, images, loaded: Mutex::default() })
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
            loaded.modules.insert(kernel.source.file, module);
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
        if let Some(module) = self.images.image(source).and_then(|image| load(image.to_vec()).ok()) {
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

#[cfg(test)]
mod tests {
    use super::too_new;

    #[test]
    fn a_compiler_newer_than_the_driver_is_refused() {
        for (compiler, driver) in [((12, 0), 12090), ((12, 9), 12000), ((12, 4), 13000), ((13, 5), 13000)] {
            assert_eq!(too_new(compiler, driver), None);
        }
        assert_eq!(
            too_new((13, 5), 12040).as_deref(),
            Some(
                "NVRTC 13.5 is newer than the driver, which supports CUDA 12.4: install an NVRTC of that \
                 version (pip install nvidia-cuda-nvrtc-cu12), or update the driver"
            )
        );
        let reason = too_new((12, 9), 11080).unwrap();
        assert_eq!(
            reason,
            "NVRTC 12.9 is newer than the driver, which supports CUDA 11.8: update the driver"
        );
        assert!(
            too_new((14, 0), 13020).unwrap().contains(
                "CUDA 13.2: install an NVRTC of that version (pip install 'nvidia-cuda-nvrtc==13.*')"
            )
        );
    }
}
