//! Devices: buffers, compiled kernels, launches and graphs, on an NVIDIA GPU, on the CPU, or as PTX on the
//! CPU.
//!
//! This folder is the only place of the crate with `unsafe` code. A [`Device`] runs kernels in order, as one
//! stream; a kernel is launched through the typed functions of [`kernels`], which `build.rs` writes from the
//! signatures in `kernels/*.cu`.

#![allow(unsafe_code)]

mod buffer;
mod choice;
#[cfg(test)]
mod conformance;
pub mod cuda;
mod graph;
pub mod host;
pub mod kernels;
mod memory;
mod peaks;
mod precision;
mod recording;
mod software;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;
pub mod trace;
mod tuning;

pub use buffer::{Buffer, Element, Real};
pub use choice::DeviceChoice;
pub use graph::Graph;
pub use host::Order;
pub use peaks::{Binding, Peaks};
pub use precision::Precision;
pub use software::{Coverage, LaunchCost};
pub use table::Table;
pub use tuning::Choices;

use crate::error::Result;
use memory::Policy;
use std::ffi::CStr;
use std::sync::Arc;

/// A place where kernels run. Cloning is cheap and gives the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Backend,
    memory: memory::Pool,
    tracer: trace::Tracer,
    tuning: tuning::Tuning,
}

enum Backend {
    Host(host::Host),
    Cuda(cuda::Cuda),
    Software(software::Software),
}

/// A kernel as build.rs found it: its source, its parameters, and its entry on the host.
pub struct Kernel {
    pub name: &'static str,
    /// The file that defines it.
    pub source: &'static Source,
    /// The C signature.
    pub signature: &'static str,
    /// The result that it computes, from the comment at its signature.
    pub doc: &'static str,
    /// Threads of a block.
    pub threads: PerDevice,
    /// Bytes of dynamic shared memory.
    pub dynamic: PerDevice,
    c_name: &'static CStr,
    /// The entry for each of [`kernels::INSTRUCTION_SETS`], and last the one with CUDA's launch shapes.
    host: [unsafe extern "C" fn(*const Arg); kernels::INSTRUCTION_SETS.len() + 1],
}

/// A kernel source file for one type of its T: its text and the kernels in it.
pub struct Source {
    /// The file's stem, then `_bf16` where T is that: no two sources have the same name.
    pub name: &'static str,
    /// The path inside `kernels/`.
    pub file: &'static str,
    pub text: &'static str,
    pub kernels: &'static [&'static Kernel],
}

/// A constant of a kernel source with a value per device (`PER_DEVICE` in the source).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerDevice {
    pub cuda: usize,
    pub host: usize,
}

impl PerDevice {
    /// The value on this device.
    pub fn on(self, device: &Device) -> usize {
        self.in_shapes(device.shapes())
    }

    fn in_shapes(self, shapes: Shapes) -> usize {
        match shapes {
            Shapes::Host => self.host,
            Shapes::Cuda => self.cuda,
        }
    }
}

/// The launch configurations that the host device runs kernels with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shapes {
    /// Its own, which are fast.
    Host,
    /// Those of CUDA, with the code that kernels have for CUDA only: to check that code without a GPU.
    Cuda,
}

/// The number of blocks of a launch, in up to three dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(pub [u32; 3]);

impl From<usize> for Grid {
    fn from(x: usize) -> Grid {
        Grid([x as u32, 1, 1])
    }
}
impl From<(usize, usize)> for Grid {
    fn from((x, y): (usize, usize)) -> Grid {
        Grid([x as u32, y as u32, 1])
    }
}
impl From<(usize, usize, usize)> for Grid {
    fn from((x, y, z): (usize, usize, usize)) -> Grid {
        Grid([x as u32, y as u32, z as u32])
    }
}

/// One kernel argument: the bits of a scalar or of a device pointer.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Arg(u64);

/// A type of kernel arguments.
pub trait IntoArg {
    fn arg(self) -> Arg;
}
macro_rules! scalar_args {
    ($($scalar:ty => $bits:expr),*) => { $(impl IntoArg for $scalar {
        fn arg(self) -> Arg { let bits: fn($scalar) -> u64 = $bits; Arg(bits(self)) }
    })* };
}
scalar_args!(
    f32 => |v| v.to_bits() as u64,
    bool => |v| v as u64,
    i32 => |v| v as u32 as u64,
    u32 => |v| v as u64,
    u64 => |v| v
);
impl<T: Element> IntoArg for &Buffer<T> {
    fn arg(self) -> Arg {
        Arg(self.address())
    }
}
impl<T: Element> IntoArg for &mut Buffer<T> {
    fn arg(self) -> Arg {
        Arg(self.address())
    }
}
impl<T: Element> IntoArg for Option<&Buffer<T>> {
    fn arg(self) -> Arg {
        Arg(self.map_or(0, |b| b.address()))
    }
}
impl<T: Element> IntoArg for Option<&mut Buffer<T>> {
    fn arg(self) -> Arg {
        Arg(self.map_or(0, |b| b.address()))
    }
}

impl Device {
    fn new(backend: Backend, policy: Policy) -> Device {
        let timeline = match &backend {
            Backend::Cuda(cuda) => trace::Timeline::Events(cuda::Events::new(cuda)),
            Backend::Host(_) | Backend::Software(_) => trace::Timeline::Clock,
        };
        let tracer = trace::Tracer::new(timeline);
        let tuning = match &backend {
            Backend::Cuda(cuda) => tuning::Tuning::of_gpu(&cuda.describe()),
            Backend::Host(_) | Backend::Software(_) => tuning::Tuning::default(),
        };
        Device(Arc::new(Inner { backend, memory: memory::Pool::new(policy), tracer, tuning }))
    }

    /// The CPU: all cores, the best instruction set of the machine (`SADDLE_HOST_ISA` chooses another).
    pub fn host() -> Result<Device> {
        Ok(Device::new(Backend::Host(host::Host::new(None, Shapes::Host)?), Policy::of_environment()))
    }

    /// The CPU in checked mode: threads of a block start in `order`, shared memory and new buffers are filled
    /// with NaN, every buffer ends at a guard page, and shared arrays have red zones.
    pub fn host_checked(order: Order) -> Result<Device> {
        host::install_fault_handler();
        Ok(Device::new(Backend::Host(host::Host::new(Some(order), Shapes::Host)?), Policy::Guarded))
    }

    /// [`Device::host_checked`] with the launch shapes of CUDA: every kernel runs with as many threads a
    /// block as on a GPU, through the code that it runs there. It is slow, and it finds the races that the
    /// host's own shapes cannot have.
    pub fn host_as_cuda(order: Order) -> Result<Device> {
        host::install_fault_handler();
        Ok(Device::new(Backend::Host(host::Host::new(Some(order), Shapes::Cuda)?), Policy::Guarded))
    }

    /// The NVIDIA GPU number `ordinal`. Errors say what is missing and how to get it.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::new(Backend::Cuda(cuda::Cuda::new(ordinal)?), Policy::of_environment()))
    }

    /// The PTX machine, which runs what NVRTC makes of the kernels for an architecture (`compute_90`), and
    /// counts what it costs a GPU; of all kernels or of one `only`.
    ///
    /// Errors: NVRTC is missing; the error says how to get it.
    pub fn software(arch: &str, coverage: Coverage, only: Option<&str>) -> Result<Device> {
        let machine = software::Software::new(arch, coverage, only)?;
        // Every block of memory is new, and so zero.
        Ok(Device::new(Backend::Software(machine), Policy::Exact))
    }

    /// What was launched on [`Device::software`] since the last call, in the order of first launches; nothing
    /// on other devices.
    pub fn take_costs(&self) -> Vec<LaunchCost> {
        match &self.0.backend {
            Backend::Software(software) => software.take_costs(),
            _ => Vec::new(),
        }
    }

    /// Whether this is the CPU.
    pub fn is_host(&self) -> bool {
        matches!(self.0.backend, Backend::Host(_))
    }

    fn shapes(&self) -> Shapes {
        match &self.0.backend {
            Backend::Host(host) => host.shapes,
            Backend::Cuda(_) | Backend::Software(_) => Shapes::Cuda,
        }
    }

    /// Whether a block is one thread, as the host runs kernels by default (`ONE_THREAD_BLOCKS` in kernels).
    pub fn has_one_thread_blocks(&self) -> bool {
        self.shapes() == Shapes::Host
    }

    /// Whether kernels with tensor cores run (`TENSOR_CORES` in kernels): on GPUs from compute capability 8.0
    /// on, and on the host with CUDA's launch shapes.
    pub fn has_tensor_cores(&self) -> bool {
        match &self.0.backend {
            Backend::Host(host) => host.shapes == Shapes::Cuda,
            Backend::Cuda(cuda) => cuda.arch().number() >= 80,
            Backend::Software(software) => software.arch().number() >= 80,
        }
    }

    /// A name for records and reports, such as `host (2 threads, v4)` or `NVIDIA H200`.
    pub fn describe(&self) -> String {
        match &self.0.backend {
            Backend::Host(host) => host.describe(),
            Backend::Cuda(cuda) => cuda.describe(),
            Backend::Software(software) => software.describe(),
        }
    }

    /// Waits until all work launched so far is done.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0.backend {
            Backend::Host(_) | Backend::Software(_) => Ok(()),
            Backend::Cuda(cuda) => cuda.synchronize(),
        }
    }

    /// Bytes that buffers hold now, and the most they have held.
    pub fn memory_in_use(&self) -> (usize, usize) {
        self.0.memory.in_use()
    }

    /// Bytes that the device has taken from its memory: those of buffers, of graphs, and free ones that the
    /// next buffers get.
    pub fn memory_held(&self) -> usize {
        self.0.memory.held()
    }

    /// Launches a kernel; the typed functions of [`kernels`] are the way to call it. Nothing is launched for
    /// an empty grid.
    pub(crate) fn launch(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        if grid.0.contains(&0) {
            return Ok(());
        }
        if self.0.memory.capturing() {
            self.0.memory.record_use(args.iter().map(|arg| arg.0));
        }
        let Inner { backend, memory, tracer, .. } = &*self.0;
        // The launches of a graph are heard when it is replayed.
        if !tracer.is_on() || memory.capturing() {
            return backend.launch(kernel, grid, args);
        }
        let (threads, size) = (kernel.threads.on(self), |address| memory.size_of(address));
        tracer.launch((kernel, grid, args), threads, size, || backend.launch(kernel, grid, args))
    }

    /// Records what `work` launches instead of running it; [`Graph::replay`] runs it on the same memory,
    /// any number of times. Inside, buffers may not be read or written by the program.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        Graph::capture(self, work)
    }
}

impl Backend {
    fn launch(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        match self {
            Backend::Host(host) => host.launch(kernel, grid, args),
            Backend::Cuda(cuda) => cuda.launch(kernel, grid, args),
            Backend::Software(software) => software.launch(kernel, grid, args),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}
