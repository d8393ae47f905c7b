//! `saddle devices`: what can be used on this machine, and what is missing.

use serde_json::{Value, json};

use super::text;
use crate::device::cuda::{self, Status, nvrtc};
use crate::device::{Device, kernels::INSTRUCTION_SETS};
use crate::error::Result;

/// Show the CPU and the GPUs that can be used, and what is missing for a GPU.
#[derive(clap::Args)]
#[command(after_help = "\
Environment:
  SADDLE_HOST_ISA       another of the compiled instruction sets
  RAYON_NUM_THREADS     the number of threads
  CUDA_VISIBLE_DEVICES  the GPUs to be seen")]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is known of this machine.
struct Found {
    processor: Option<String>,
    threads: usize,
    /// The name of the instruction set in use.
    chosen: &'static str,
    driver: Option<String>,
    nvrtc: Result<(i32, i32), String>,
    cuda: Status,
    /// Why single GPUs cannot be used, when others can.
    unusable: Vec<String>,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let host = Device::host()?.describe();
    let is_word = |name: &str| host.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
    let found = Found {
        processor: processor(),
        threads: rayon::current_num_threads(),
        chosen: INSTRUCTION_SETS.into_iter().rev().find(|name| is_word(name)).unwrap_or_default(),
        driver: cuda::driver_version(),
        nvrtc: nvrtc::version(),
        cuda: cuda::status(),
        unusable: cuda::unusable_gpus(),
    };
    if arguments.json { text::print_json(&found.json()) } else { text::print(&found.text()) }
}

/// The processor's name, where the system tells it.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

impl Found {
    fn text(&self) -> String {
        let row = |name: &str, value: String| vec![format!("  {name}"), value];
        let mut rows = vec![vec!["host".to_owned()]];
        rows.extend(self.processor.clone().map(|name| row("processor", name)));
        rows.push(row("threads", self.threads.to_string()));
        rows.push(row(
            "instruction sets",
            format!("{} compiled, {} in use", INSTRUCTION_SETS.join(", "), self.chosen),
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
                .map_or("none that can be used".into(), |(major, minor)| format!("{major}.{minor}")),
        ));
        if let Status::Usable(gpus) = &self.cuda {
            rows.extend(gpus.iter().map(|gpu| {
                let (major, minor) = gpu.capability;
                let about =
                    format!("{}, compute capability {major}.{minor}, {}", gpu.name, text::bytes(gpu.memory));
                row(&format!("cuda:{}", gpu.ordinal), about)
            }));
        }
        let mut text = text::table(&rows, &[]);
        for reason in self.missing() {
            text += &text::wrapped(&reason, "  missing: ", "    ", text::WIDTH);
        }
        text + &format!("--device auto is {}\n", self.best())
    }

    fn json(&self) -> Value {
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
                "instruction_sets": INSTRUCTION_SETS, "instruction_set": self.chosen,
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

    /// What keeps CUDA from being used, with the way to get it; nothing when all is there.
    fn missing(&self) -> Vec<String> {
        let mut reasons = match &self.cuda {
            Status::Missing(reason) => vec![reason.clone()],
            Status::Usable(_) => self.unusable.clone(),
        };
        // The driver is looked for first; say at once what else will be needed.
        reasons.extend(self.nvrtc.as_ref().err().filter(|reason| !reasons.contains(reason)).cloned());
        reasons
    }

    /// What `--device auto` takes.
    fn best(&self) -> String {
        match &self.cuda {
            Status::Usable(gpus) => gpus.first().map_or("host".into(), |gpu| format!("cuda:{}", gpu.ordinal)),
            Status::Missing(_) => "host".into(),
        }
    }
}
