//! `saddle precision`: what rounding to bf16 and tf32 does to the attack of a run.

use std::path::PathBuf;

use super::flags::{DeviceFlag, JsonFlag};
use super::{Run, progress, text};
use crate::error::Result;
use crate::run::dir::RunDir;
use crate::study::precision::{self, PrecisionReport, PrecisionRequest};

const EXAMPLES: &str = "\
sign: the fraction of the input gradient's numbers whose sign is that of float32. cosine: of
the angle between the two gradients, the mean over images; below it, that of the gradient
after each stage. loss and robust: what the run's own attack reaches when its gradients are
computed in this precision, judged in float32.

Examples:
  saddle precision runs/NAME
  saddle precision runs/NAME --n 1000 --json";

/// Compare the gradients and attacks of a run in float32, tf32 and bf16.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PrecisionArgs {
    /// A run directory, of which all checkpoints are used
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Only the first N test images [default: all]
    #[arg(long, short, value_name = "N")]
    n: Option<usize>,
    #[command(flatten)]
    device: DeviceFlag,
    #[command(flatten)]
    json: JsonFlag,
    /// Print only the result
    #[arg(long, short)]
    quiet: bool,
}

impl Run for PrecisionArgs {
    fn run(self, command_line: String) -> Result<()> {
        let run = RunDir::open(&self.run)?;
        let request = PrecisionRequest {
            config: run.config()?,
            run,
            n: self.n,
            device: self.device.choice()?,
            command: command_line,
        };
        let mut observer = progress::observer(self.quiet, false, 0);
        let report = precision::run(&request, &mut *observer)?;
        drop(observer);
        self.json.print(|| &report, || table(&report))
    }
}

fn table(report: &PrecisionReport) -> String {
    let stages = report.rows.first().map_or(0, |row| row.gradients.len().saturating_sub(1));
    let mut headings = ["checkpoint", "epoch", "precision", "sign", "cosine"].map(String::from).to_vec();
    headings.extend((1..=stages).map(|stage| format!("stage {stage}")));
    headings.extend(["loss", "robust"].map(String::from));
    let right: Vec<usize> = (3..headings.len()).chain([1]).collect();
    let mut rows = vec![headings];
    for row in &report.rows {
        let mut cells = vec![row.checkpoint.clone(), row.epoch.map_or("-".into(), |epoch| epoch.to_string())];
        cells.push(row.precision.clone());
        cells.extend(row.gradients.first().map(|image| format!("{:.4}", image.sign)));
        cells.extend(row.gradients.iter().map(|gradient| format!("{:.6}", gradient.cosine)));
        cells.extend([format!("{:.5}", row.pgd_loss), format!("{:.2} %", row.robust_acc)]);
        rows.push(cells);
    }
    let PrecisionReport { dataset, images, attack, provenance, .. } = report;
    format!("{}{attack}, {images} images of {dataset}, {}\n", text::table(&rows, &right), provenance.device)
}
