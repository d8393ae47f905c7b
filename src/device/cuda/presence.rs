//! The driver, NVRTC and the GPUs of this machine, and what is missing to use them; nothing here panics or
//! takes a GPU into use.

use super::{explain, nvrtc};
use cudarc::driver::{DriverError, result, sys};
use std::ffi::c_void;

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
pub(super) fn gpus() -> Result<Vec<Result<GpuInfo, String>>, String> {
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
