//! The PTX machine as a device: kernels run as NVRTC compiles them, on the CPU, and are counted.
//!
//! It has the launch shapes of CUDA. Each different launch (kernel, grid, scalar arguments, and which
//! pointers are null) is counted at its first occurrence. With a sample of the blocks nothing is computed in
//! full: memory is zeroed when it is allocated, so that what no block wrote is a harmless index.

use super::cuda::nvrtc::{self, Arch};
use super::recording::{Recorded, Recorder};
use super::{Arg, Grid, Kernel, Source};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The blocks of a launch that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// None: launches are recorded, and no kernel is compiled.
    Nothing,
    /// This many, spread over the grid, of the first of equal launches, and none of the others.
    Sample(u64),
    /// All, of all launches: everything is computed.
    All,
}

/// A different launch, how often it happened, and what it cost.
#[derive(Clone)]
pub struct LaunchCost {
    pub kernel: &'static Kernel,
    pub grid: [u32; 3],
    pub times: u64,
    /// `None` where no block ran.
    pub counts: Option<ptx::Counts>,
}

/// The PTX machine with its memory.
pub(super) struct Software {
    arch: Arch,
    coverage: Coverage,
    /// The only kernel that runs and is counted, if there is one; not with [`Coverage::All`].
    only: Option<String>,
    pub recorder: Recorder,
    state: Mutex<State>,
}

struct State {
    memory: ptx::Memory,
    modules: HashMap<&'static str, Arc<ptx::Module>>,
    costs: Vec<LaunchCost>,
    /// The places of launches in `costs`.
    known: HashMap<Launch, usize>,
}

/// What makes launches equal: scalars, and of pointers whether they are null.
#[derive(PartialEq, Eq, Hash)]
struct Launch(&'static str, [u32; 3], Vec<u64>);

impl Launch {
    fn of(kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Launch {
        let pointers = kernel.signature.split(',').map(|parameter| parameter.contains('*'));
        let value = |(arg, pointer): (&Arg, bool)| if pointer { (arg.0 != 0) as u64 } else { arg.0 };
        Launch(kernel.name, grid.0, args.iter().zip(pointers).map(value).collect())
    }
}

impl Software {
    /// `arch` names PTX, such as `compute_90`.
    pub fn new(arch: &str, coverage: Coverage, only: Option<&str>) -> Result<Software> {
        nvrtc::version().map_err(|reason| Error::Device { device: "PTX machine".into(), reason })?;
        let state = State {
            memory: ptx::Memory::new(false),
            modules: HashMap::new(),
            costs: Vec::new(),
            known: HashMap::new(),
        };
        let only = only.filter(|_| coverage != Coverage::All).map(str::to_owned);
        Ok(Software {
            arch: Arch::named(arch),
            coverage,
            only,
            recorder: Recorder::default(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The architecture that kernels are compiled for.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    pub fn describe(&self) -> String {
        format!("PTX machine for {}", self.arch.name)
    }

    /// What was launched since the last call.
    pub fn take_costs(&self) -> Vec<LaunchCost> {
        let mut state = self.state();
        state.known.clear();
        std::mem::take(&mut state.costs)
    }

    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        let exhausted = || Error::OutOfMemory { device: self.describe(), asked: bytes, free: 0, total: 0 };
        self.state().memory.allocate(bytes).ok_or_else(exhausted)
    }

    pub fn release(&self, address: u64) {
        self.state().memory.free(address);
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.recorder.refuse_while_capturing("write to a buffer")?;
        self.state().memory.write(address, bytes).map_err(faulty)
    }

    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.recorder.refuse_while_capturing("read a buffer")?;
        self.state().memory.read(address, bytes).map_err(faulty)
    }

    pub fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.do_or_record(Recorded::Zero { address, bytes })
    }

    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.do_or_record(Recorded::Copy { from, to, bytes })
    }

    pub fn launch(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        self.do_or_record(Recorded::Launch { kernel, grid, args: args.to_vec() })
    }

    fn do_or_record(&self, item: Recorded) -> Result<()> {
        if self.recorder.capturing() {
            self.recorder.push(item);
            return Ok(());
        }
        self.run(&item)
    }

    /// Runs one piece of recorded work.
    pub fn run(&self, item: &Recorded) -> Result<()> {
        match item {
            Recorded::Launch { kernel, grid, args } => self.run_kernel(kernel, *grid, args),
            // Without results there is nothing to move, and every new block of memory is zero.
            _ if self.coverage != Coverage::All => Ok(()),
            Recorded::Zero { address, bytes } => {
                self.state().memory.fill(*address, 0, *bytes).map_err(faulty)
            }
            Recorded::Copy { from, to, bytes } => {
                let mut content = vec![0; *bytes];
                let memory = &mut self.state().memory;
                memory.read(*from, &mut content).map_err(faulty)?;
                memory.write(*to, &content).map_err(faulty)
            }
        }
    }

    fn run_kernel(&self, kernel: &'static Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let state = &mut *self.state();
        let launch = Launch::of(kernel, grid, args);
        let known = state.known.get(&launch).copied();
        let excluded = self.only.as_deref().is_some_and(|only| only != kernel.name);
        let runs = match self.coverage {
            Coverage::Nothing => false,
            Coverage::Sample(_) => known.is_none() && !excluded,
            Coverage::All => true,
        };
        let place = known.unwrap_or_else(|| {
            state.costs.push(LaunchCost { kernel, grid: grid.0, times: 0, counts: None });
            *state.known.entry(launch).or_insert(state.costs.len() - 1)
        });
        state.costs[place].times += 1;
        if !runs {
            return Ok(());
        }
        let module = self.module(&mut state.modules, kernel.source)?;
        let options = ptx::Options {
            checks: ptx::Checks::NONE,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            count: state.costs[place].counts.is_none(),
            footprint: true,
            sample: match self.coverage {
                Coverage::Sample(blocks) => Some(blocks),
                _ => None,
            },
            ..ptx::Options::default()
        };
        let params = parameters(&module, kernel, args);
        let launch = ptx::Launch {
            grid: grid.0,
            block: [kernel.threads.cuda as u32, 1, 1],
            dynamic_shared: kernel.dynamic.cuda,
            params: &params,
        };
        let counts = ptx::run(&module, kernel.name, &launch, &mut state.memory, &options).map_err(faulty)?;
        state.costs[place].counts.get_or_insert(counts);
        Ok(())
    }

    fn module(
        &self,
        modules: &mut HashMap<&'static str, Arc<ptx::Module>>,
        source: &'static Source,
    ) -> Result<Arc<ptx::Module>> {
        if let Some(module) = modules.get(source.name) {
            return Ok(module.clone());
        }
        let wrong =
            |log: String| Error::Compile { file: source.file.into(), arch: self.arch.name.clone(), log };
        let mut image = nvrtc::cached_or_compiled(source, &self.arch)?;
        // NVRTC ends its text with a zero.
        image.retain(|&byte| byte != 0);
        let text = String::from_utf8(image).map_err(|error| wrong(error.to_string()))?;
        let module = Arc::new(ptx::Module::parse(&text).map_err(|error| wrong(error.to_string()))?);
        modules.insert(source.name, module.clone());
        Ok(module)
    }
}

/// The arguments as the kernel's PTX lays them out.
fn parameters(module: &ptx::Module, kernel: &Kernel, args: &[Arg]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let params = module.kernel(kernel.name).map_or(&[][..], |found| &found.params);
    for (param, arg) in params.iter().zip(args) {
        bytes.resize(param.offset, 0);
        bytes.extend(&arg.0.to_le_bytes()[..param.size.min(8)]);
    }
    bytes
}

fn faulty(fault: ptx::Fault) -> Error {
    let ptx::Fault { kernel, block, source, what, .. } = fault;
    if kernel.is_empty() {
        return Error::Internal { what: format!("the PTX machine's memory: {what}") };
    }
    let place = source.map(|(file, line)| format!(" at {file}:{line}")).unwrap_or_default();
    Error::Kernel { kernel, block, reason: format!("{what}{place}") }
}
