//! `saddle bench`: how fast kernels and training steps are here.

use serde_json::json;

use super::text;
use crate::bench;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};

/// Measure the speed of kernels and of whole training steps.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle bench
      everything, on the device that 'auto' takes
  saddle bench step --device host
      training steps on the CPU
  saddle bench kernels --json
      for records

Nothing else should run meanwhile.")]
pub struct Arguments {
    /// What to measure: kernels on typical sizes, training steps of whole jobs, or the parts of those
    /// `[default: all]`
    what: Option<What>,
    /// Where to measure
    #[arg(long, value_name = "auto|host|cuda|cuda:N", default_value = "auto")]
    device: String,
    /// step, parts: images a step `[default: that of each job]`
    #[arg(long, value_name = "COUNT")]
    batch: Option<usize>,
    /// step: the methods to measure `[default: pgd-at,raat]`
    #[arg(long, value_name = "NAME,NAME..", value_delimiter = ',')]
    method: Vec<String>,
    /// step, parts: only the job with this network, resnet-mini or resnet18
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Seconds a measurement
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The groups of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Kernels,
    Step,
    Parts,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    if !(arguments.seconds > 0.0 && arguments.seconds.is_finite()) {
        return Err(Error::value("seconds", arguments.seconds, "must be above 0"));
    }
    if arguments.batch == Some(0) {
        return Err(Error::value("batch", 0, "must be 1 or more"));
    }
    let device = arguments.device.parse::<DeviceChoice>()?.open()?;
    let mut rows = Vec::new();
    let wanted = |what| arguments.what.is_none_or(|chosen| chosen == what);
    if wanted(What::Kernels) {
        rows.extend(bench::kernels(&device, arguments.seconds)?);
    }
    let model = arguments.model.as_deref();
    if wanted(What::Step) {
        rows.extend(bench::step(&device, arguments.seconds, arguments.batch, &arguments.method, model)?);
    }
    if wanted(What::Parts) {
        rows.extend(bench::parts(&device, arguments.seconds, arguments.batch, model)?);
    }
    if arguments.json {
        return text::print_json(
            &json!({"device": device.describe(), "commit": env!("SADDLE_COMMIT"), "rows": rows}),
        );
    }
    let cells = rows.iter().map(|row| {
        vec![row.name.clone(), row.detail.clone(), text::number(row.value), row.unit.into(), row.note.clone()]
    });
    text::print(&format!("{}\n{}", device.describe(), text::table(&cells.collect::<Vec<_>>(), &[2])))
}
