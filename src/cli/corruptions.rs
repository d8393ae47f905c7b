//! `saddle corruptions`: accuracy under common corruptions.

use std::path::PathBuf;

use super::{progress, text};
use crate::config::Config;
use crate::error::Result;
use crate::eval::corruptions::{self, CorruptionsRequest, mean};
use crate::files::weights::WeightFile;
use crate::run::network::weight_file;

const EXAMPLES: &str = "\
The folder holds labels.npy and the 15 files NAME.npy of CIFAR-10-C or CIFAR-100-C; which of
them, the number of the network's classes says.

Examples:
  saddle corruptions --weights runs/NAME --data ~/CIFAR-10-C
  saddle corruptions --weights runs/NAME --data ~/CIFAR-10-C --severity 3,5 --n 1000 --out c.json";

/// Measure the accuracy of a trained network under common corruptions (CIFAR-10-C, CIFAR-100-C).
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A safetensors file, or a run directory, whose best checkpoint is taken
    #[arg(long, short, value_name = "FILE|RUN")]
    weights: PathBuf,
    /// The folder of the corrupted test images
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The network's architecture [default: as the weights' metadata says]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Severities, 1 to 5, with commas between them `[default: all]`
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    severity: Vec<usize>,
    /// Only the first N images of each corruption and severity `[default: all]`
    #[arg(long, short, value_name = "N")]
    n: Option<usize>,
    /// Write the result to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().batch)]
    batch: usize,
    /// Where to run
    #[arg(long, value_name = "auto|host|cuda|cuda:N", default_value = "auto")]
    device: String,
    /// Print nothing but the result
    #[arg(long, short)]
    quiet: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { model, data, n, batch, out, .. } = arguments;
    let mut severities = arguments.severity;
    severities.sort_unstable();
    severities.dedup();
    let device = arguments.device.parse()?;
    let weights = WeightFile::read(&weight_file(&arguments.weights)?)?;
    let request = CorruptionsRequest { weights, model, data, severities, n, batch, device, out };
    let mut observer = progress::observer(arguments.quiet, false, 0);
    let report = corruptions::run(&request, &mut *observer)?;
    drop(observer);
    if arguments.json {
        return text::print_json(&report.to_json());
    }
    let percent = |value: &f64| format!("{value:.2}");
    let heading = report.severities.iter().map(|severity| format!("severity {severity}"));
    let mut rows =
        vec![["corruption".into()].into_iter().chain(heading).chain(["mean %".into()]).collect::<Vec<_>>()];
    for (name, row) in &report.rows {
        rows.push([name.clone()].into_iter().chain(row.iter().chain([&mean(row)]).map(percent)).collect());
    }
    let columns: Vec<usize> = (1..=report.severities.len() + 1).collect();
    let (cells, images) =
        (report.rows.len() * report.severities.len(), text::thousands(report.images as i64));
    let mut result = text::table(&rows, &columns);
    result += &format!(
        "mean of {cells} accuracies, each on {images} images of {}: {:.2} %\n",
        report.dataset,
        report.mean()
    );
    if let Some(out) = &request.out {
        result += &format!("written to {}\n", out.display());
    }
    text::print(&result)
}
