//! `saddle bench`: the speed of kernels and training steps.

use clap::ValueEnum;
use serde_json::json;

use super::flags::{DeviceFlag, JsonFlag};
use super::{Run, text};
use crate::bench::{self, BenchRow};
use crate::error::{Error, Result};
use crate::run::provenance::Provenance;

/// Measure the speed of kernels and of whole training steps.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle bench
      everything, on the default device
  saddle bench step --device host
      training steps on the CPU
  saddle bench kernels --json
      for records

A figure is the median of its repetitions after a warm-up, followed by the 10th and the 90th
percentile. Nothing else should run on the machine at the same time.")]
pub struct BenchArgs {
    /// Kernels at typical sizes, whole training steps, or the parts of these [default: all]
    #[arg(value_name = "WHAT")]
    group: Option<Group>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Images of a batch [default: 128; ResNet-18's steps on the host: 32]
    #[arg(long, value_name = "COUNT")]
    batch: Option<usize>,
    /// step: comma-separated methods [default: pgd-at,raat]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    method: Vec<String>,
    /// step, parts: only the job with this architecture: resnet-mini, resnet18 or wrn-28-10
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// step: the numbers that convolutions multiply: auto, f32, tf32, bf16 [default: f32]
    #[arg(long, value_name = "WORD")]
    precision: Option<String>,
    /// Seconds per measurement
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    seconds: f64,
    #[command(flatten)]
    json: JsonFlag,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    Kernels,
    Step,
    Parts,
}

impl Run for BenchArgs {
    fn run(self, command_line: String) -> Result<()> {
        let BenchArgs { batch, seconds, .. } = self;
        if !(seconds > 0.0 && seconds.is_finite()) {
            return Err(Error::value("seconds", seconds, "must be above 0"));
        }
        if batch == Some(0) {
            return Err(Error::value("batch", 0, "must be 1 or more"));
        }
        let group = |groups: &[Group]| self.group.is_none_or(|chosen| groups.contains(&chosen));
        for (flag, given, used) in [
            ("method", !self.method.is_empty(), group(&[Group::Step])),
            ("precision", self.precision.is_some(), group(&[Group::Step])),
            ("model", self.model.is_some(), group(&[Group::Step, Group::Parts])),
        ] {
            if given && !used {
                let chosen = self.group.and_then(|group| group.to_possible_value());
                let chosen = chosen.map(|value| value.get_name().to_owned()).unwrap_or_default();
                return Err(Error::value("bench", chosen, format!("takes no --{flag}")));
            }
        }
        let device = self.device.choice()?.open()?;
        let model = self.model.as_deref();
        let wanted = |group| self.group.is_none_or(|chosen| chosen == group);
        let mut rows = Vec::new();
        if wanted(Group::Kernels) {
            rows.extend(bench::kernels(&device, seconds, batch)?);
        }
        if wanted(Group::Step) {
            let precision = self.precision.as_deref().unwrap_or(bench::DEFAULT_PRECISION);
            rows.extend(bench::step(&device, seconds, batch, &self.method, model, precision)?);
        }
        if wanted(Group::Parts) {
            rows.extend(bench::parts(&device, seconds, batch, model)?);
        }
        let provenance = Provenance::now(&device, &command_line);
        let record = || {
            let Provenance { device, commit, .. } = &provenance;
            json!({"device": device, "commit": commit, "provenance": provenance, "rows": rows})
        };
        let cells = |row: &BenchRow| {
            let spread = format!("{} .. {}", text::number(row.p10), text::number(row.p90));
            let value = text::number(row.value);
            [row.name.clone(), row.detail.clone(), value, spread, row.unit.into(), row.note.clone()]
        };
        self.json.print(record, || {
            let table = text::table(&rows.iter().map(cells).collect::<Vec<_>>(), &[2, 3]);
            format!("{}\n{table}", device.describe())
        })
    }
}
