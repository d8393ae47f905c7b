//! `saddle devices`: the usable devices of this machine, and what is missing for others.

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{Run, text};
use crate::device::cuda::{self, Status, nvrtc};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The devices of this machine, and what they need.
struct Inventory {
    processor: Option<String>,
    threads: usize,
    /// The instruction set in use.
    instruction_set: &'static str,
    driver: Option<String>,
    nvrtc: Result<(i32, i32), String>,
    cuda: Status,
    /// Why some GPUs cannot be used while others can.
    unusable: Vec<String>,
}

impl Run for DevicesArgs {
    fn run(self, _: String) -> Result<()> {
        let host = Device::host()?.describe();
        let is_word = |name: &str| host.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
        let in_use = INSTRUCTION_SETS.into_iter().rev().find(|name| is_word(name));
        let inventory = Inventory {
            processor: processor(),
            threads: rayon::current_num_threads(),
            instruction_set: in_use.unwrap_or_default(),
            driver: cuda::driver_version(),
            nvrtc: nvrtc::version(),
            cuda: cuda::status(),
            unusable: cuda::unusable_gpus(),
        };
        if self.json { text::print_json(&inventory.record()) } else { text::print(&inventory.text()) }
    }
}

/// The processor's name, if the system reports it.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

impl Inventory {
    fn text(&self) -> String {
        let row = |name: &str, value: String| vec![format!("  {name}"), value];
        let mut rows = vec![vec!["host".to_owned()]];
        rows.extend(self.processor.clone().map(|name| row("processor", name)));
        rows.push(row("threads", self.threads.to_string()));
        rows.push(row(
            "instruction sets",
            format!("{} compiled, {} in use", INSTRUCTION_SETS.join(", "), self.instruction_set),
        ));
        rows.push(vec!["CUDA".to_owned()]);
        let driver = self
            .driver
            .as_ref()
            .map_or("not found".into(), |version| format!("for CUDA {version} and older"));
        rows.push(row("driver", driver));
        rows.push(row(
            "NVRTC",
            self.nvrtc
                .as_ref()
                .map_or("no usable one found".into(), |(major, minor)| format!("{major}.{minor}")),
        ));
        if let Status::Usable(gpus) = &self.cuda {
            rows.extend(gpus.iter().map(|gpu| {
                let (major, minor) = gpu.capability;
                let about = format!(
                    "{}, compute capability {major}.{minor}, {}",
                    gpu.name,
                    HumanBytes(gpu.memory as u64)
                );
                row(&format!("cuda:{}", gpu.ordinal), about)
            }));
        }
        let mut text = text::table(&rows, &[]);
        for reason in self.missing() {
            text += &text::wrapped(&reason, "  missing: ", "    ", text::WIDTH);
        }
        text + &format!("--device auto is {}\n", self.best())
    }

    fn record(&self) -> Value {
        let gpus = match &self.cuda {
            Status::Usable(gpus) => gpus.as_slice(),
            Status::Missing(_) => &[],
        };
        let gpu = |gpu: &cuda::GpuInfo| {
            json!({
                "device": format!("cuda:{}", gpu.ordinal), "name": gpu.name, "memory": gpu.memory,
                "capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
            })
        };
        json!({
            "host": {
                "processor": self.processor, "threads": self.threads,
                "instruction_sets": INSTRUCTION_SETS, "instruction_set": self.instruction_set,
            },
            "cuda": {
                "driver": self.driver,
                "nvrtc": self.nvrtc.as_ref().ok().map(|(major, minor)| format!("{major}.{minor}")),
                "gpus": gpus.iter().map(gpu).collect::<Vec<_>>(),
                "missing": self.missing(),
            },
            "auto": self.best(),
        })
    }

    /// What is missing for CUDA and how to get it; empty if nothing is.
    fn missing(&self) -> Vec<String> {
        let mut reasons = match &self.cuda {
            Status::Missing(reason) => vec![reason.clone()],
            Status::Usable(_) => self.unusable.clone(),
        };
        // A missing driver hides a missing NVRTC, which will be needed, too.
        reasons.extend(self.nvrtc.as_ref().err().filter(|reason| !reasons.contains(reason)).cloned());
        reasons
    }

    /// The device that `--device auto` selects.
    fn best(&self) -> String {
        match &self.cuda {
            Status::Usable(gpus) => gpus.first().map_or("host".into(), |gpu| format!("cuda:{}", gpu.ordinal)),
            Status::Missing(_) => "host".into(),
        }
    }
}
