//! `saddle devices`: the usable devices of this machine, and what is missing for others.

use indicatif::HumanBytes;
use serde::Serialize;

use super::flags::JsonFlag;
use super::{Run, text};
use crate::device::cuda::{self, GpuInfo, Status, nvrtc};
use crate::device::{Device, kernels::INSTRUCTION_SETS};
use crate::error::Result;

/// Show the usable CPU and GPUs, and what is missing to use a GPU.
#[derive(clap::Args)]
#[command(after_help = "\
Environment:
  SADDLE_HOST_ISA       the instruction set to use, of those compiled
  RAYON_NUM_THREADS     the number of threads
  CUDA_VISIBLE_DEVICES  the GPUs that are visible")]
pub struct DevicesArgs {
    #[command(flatten)]
    json: JsonFlag,
}

/// The devices of this machine, and what they need: the record of `--json`.
#[derive(Serialize)]
struct Inventory {
    host: Host,
    cuda: Cuda,
    /// The device that `--device auto` selects.
    auto: String,
}

#[derive(Serialize)]
struct Host {
    processor: Option<String>,
    threads: usize,
    instruction_sets: &'static [&'static str],
    /// The instruction set in use.
    instruction_set: &'static str,
}

#[derive(Serialize)]
struct Cuda {
    driver: Option<String>,
    nvrtc: Option<String>,
    gpus: Vec<Gpu>,
    /// What is missing for CUDA and how to get it; empty if nothing is.
    missing: Vec<String>,
}

#[derive(Serialize)]
struct Gpu {
    device: String,
    name: String,
    memory: usize,
    capability: String,
}

impl Run for DevicesArgs {
    fn run(self, _: String) -> Result<()> {
        let (host, cuda) = (host()?, cuda());
        let auto = cuda.gpus.first().map_or("host".into(), |gpu| gpu.device.clone());
        let inventory = Inventory { host, cuda, auto };
        self.json.print(|| &inventory, || inventory.text())
    }
}

fn host() -> Result<Host> {
    let host = Device::host()?.describe();
    let is_word = |name: &str| host.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
    let in_use = INSTRUCTION_SETS.iter().rev().find(|name| is_word(name));
    Ok(Host {
        processor: processor(),
        threads: rayon::current_num_threads(),
        instruction_sets: &INSTRUCTION_SETS,
        instruction_set: in_use.copied().unwrap_or_default(),
    })
}

/// The processor's name, if the system reports it.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

fn cuda() -> Cuda {
    let (gpus, mut missing) = match cuda::status() {
        Status::Usable(gpus) => (gpus, cuda::unusable_gpus()),
        Status::Missing(reason) => (vec![], vec![reason]),
    };
    let nvrtc = nvrtc::version();
    // A missing driver hides a missing NVRTC, which will be needed, too.
    missing.extend(nvrtc.clone().err().filter(|reason| !missing.contains(reason)));
    let gpu = |GpuInfo { ordinal, name, capability: (major, minor), memory }| Gpu {
        device: format!("cuda:{ordinal}"),
        name,
        memory,
        capability: format!("{major}.{minor}"),
    };
    Cuda {
        driver: cuda::driver_version(),
        nvrtc: nvrtc.ok().map(|(major, minor)| format!("{major}.{minor}")),
        gpus: gpus.into_iter().map(gpu).collect(),
        missing,
    }
}

impl Inventory {
    fn text(&self) -> String {
        let Inventory { host, cuda, auto } = self;
        let sets = format!("{} compiled, {} in use", host.instruction_sets.join(", "), host.instruction_set);
        let driver = cuda.driver.as_ref().map(|version| format!("for CUDA {version} and older"));
        let about = |gpu: &Gpu| {
            let memory = HumanBytes(gpu.memory as u64);
            format!("{}, compute capability {}, {memory}", gpu.name, gpu.capability)
        };
        let mut rows = vec![("host", String::new())];
        rows.extend(host.processor.clone().map(|name| ("  processor", name)));
        rows.extend([
            ("  threads", host.threads.to_string()),
            ("  instruction sets", sets),
            ("CUDA", String::new()),
            ("  driver", driver.unwrap_or("not found".into())),
            ("  NVRTC", cuda.nvrtc.clone().unwrap_or("no usable one found".into())),
        ]);
        let gpus = cuda.gpus.iter().map(|gpu| (format!("  {}", gpu.device), about(gpu)));
        let rows = rows.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(gpus);
        let wrapped = |reason: &String| text::wrapped(reason, "  missing: ", "    ", text::WIDTH);
        let missing: String = cuda.missing.iter().map(wrapped).collect();
        text::facts(rows) + &missing + &format!("--device auto is {auto}\n")
    }
}
