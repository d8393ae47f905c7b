//! `saddle corruptions`: accuracy under common corruptions.

use std::path::PathBuf;

use indicatif::HumanCount;

use super::flags::DeviceFlag;
use super::{Run, progress, text};
use crate::config::Config;
use crate::error::Result;
use crate::eval::corruptions::{self, CorruptionsReport, CorruptionsRequest, mean};
use crate::eval::write_result;
use crate::files::weights::WeightFile;
use crate::run::network::weight_file;

const EXAMPLES: &str = "\
The folder holds labels.npy and the 15 files NAME.npy of CIFAR-10-C or, for a network with
100 classes, of CIFAR-100-C.

Examples:
  saddle corruptions --weights runs/NAME --data ~/CIFAR-10-C
  saddle corruptions --weights runs/NAME --data ~/CIFAR-10-C --severity 3,5 --n 1000 --out c.json";

/// Measure the accuracy under common corruptions (CIFAR-10-C, CIFAR-100-C).
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CorruptionsArgs {
    /// A safetensors file, or a run directory with its best checkpoint
    #[arg(long, short, value_name = "FILE|RUN")]
    weights: PathBuf,
    /// The folder of the corrupted test images
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The network's architecture [default: the one in the weights' metadata]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Comma-separated severities, 1 to 5 [default: all]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    severity: Vec<usize>,
    /// Only the first N images of each corruption and severity [default: all]
    #[arg(long, short, value_name = "N")]
    n: Option<usize>,
    /// Also write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Images per batch
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().batch)]
    batch: usize,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print only the result
    #[arg(long, short)]
    quiet: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Run for CorruptionsArgs {
    fn run(self, command_line: String) -> Result<()> {
        let mut severities = self.severity;
        severities.sort_unstable();
        severities.dedup();
        let request = CorruptionsRequest {
            device: self.device.choice()?,
            weights: WeightFile::read(&weight_file(&self.weights)?)?,
            model: self.model,
            data: self.data,
            severities,
            n: self.n,
            batch: self.batch,
            command: command_line,
            out: self.out,
        };
        let mut observer = progress::observer(self.quiet, false, 0);
        let report = corruptions::run(&request, &mut *observer)?;
        drop(observer);
        let out = request.out.as_deref();
        let written = out.map_or(Ok(()), |out| write_result(out, &report.to_json()));
        match self.json {
            true => text::print_json(&report.to_json())?,
            false => text::print(&(table(&report) + &text::written(out.filter(|_| written.is_ok()))))?,
        }
        written
    }
}

/// The accuracies by corruption and severity, their means, and the mean of all.
fn table(report: &CorruptionsReport) -> String {
    let mut rows = vec![vec!["corruption".to_owned()]];
    rows[0].extend(report.severities.iter().map(|severity| format!("severity {severity}")));
    rows[0].push("mean %".into());
    for (name, accuracies) in &report.rows {
        let percent = |value: &f64| format!("{value:.2}");
        let cells = accuracies.iter().chain([&mean(accuracies)]).map(percent).collect::<Vec<_>>();
        rows.push([vec![name.clone()], cells].concat());
    }
    let right: Vec<usize> = (1..=report.severities.len() + 1).collect();
    let (cells, images) = (report.rows.len() * report.severities.len(), HumanCount(report.images as u64));
    let (dataset, mean) = (&report.dataset, report.mean());
    text::table(&rows, &right)
        + &format!("mean of {cells} accuracies, each on {images} images of {dataset}: {mean:.2} %\n")
}
