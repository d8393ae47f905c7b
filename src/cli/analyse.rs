//! `saddle analyse`: the papers' motivating figures of a trained network.

use std::path::PathBuf;

use super::flags::DeviceFlag;
use super::interrupt::stop_on_interrupt;
use super::{Run, progress, text};
use crate::error::{Error, Result};
use crate::run::dir::RunDir;
use crate::study::analyse::{self, AnalyseRequest, Analysis, FIGURES, Figure, find, sweep};

const EXAMPLES: &str = "\
Examples:
  saddle analyse runs/NAME
  saddle analyse runs/NAME --figures margins,layers --n 1000
  saddle analyse runs/NAME --sweep --sweep-epochs 10";

/// Make the papers' motivating figures of a trained network.
#[derive(clap::Args)]
#[command(after_help = figures_and_examples())]
pub struct AnalyseArgs {
    /// A run directory, of which the best checkpoint is used
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The folder for data and pictures [default: RUN/analysis]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the first N test images [default: all]
    #[arg(long, short, value_name = "N")]
    n: Option<usize>,
    /// The largest number of training images to search nearest neighbours among
    #[arg(long, value_name = "N", default_value_t = 1000)]
    gallery: usize,
    /// Comma-separated figures
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "perception,margins,layers")]
    figures: Vec<String>,
    /// Also train five networks for the figure 'sweep'
    #[arg(long)]
    sweep: bool,
    /// Epochs of each of the five [default: the run's]
    #[arg(long, value_name = "N", requires = "sweep")]
    sweep_epochs: Option<usize>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print only the result
    #[arg(long, short)]
    quiet: bool,
}

fn figures_and_examples() -> String {
    let figures = FIGURES.iter().map(|figure| (figure.name, figure.about));
    let line =
        |(name, about): (&str, &str)| text::wrapped(about, &format!("  {name:<10}  "), &" ".repeat(14), 90);
    let lines: String = figures.chain([(sweep::NAME, sweep::ABOUT)]).map(line).collect();
    let heading = "Figures, each as OUT/NAME.csv and OUT/NAME.svg, with main numbers in OUT/analysis.json";
    format!("{heading}:\n{lines}\n{EXAMPLES}")
}

impl Run for AnalyseArgs {
    fn run(self, command_line: String) -> Result<()> {
        let figures = selected(&self.figures)?;
        let device = self.device.choice()?;
        let config = RunDir::open(&self.run)?.config()?;
        let runs = self.sweep.then(|| sweep::entries(&config, self.sweep_epochs)).transpose()?;
        let request = AnalyseRequest {
            out: self.out.unwrap_or_else(|| self.run.join("analysis")),
            run: self.run,
            config,
            figures,
            n: self.n,
            gallery: self.gallery,
            device,
            command: command_line,
        };
        let mut observer = progress::observer(self.quiet, false, 0);
        let mut analysis = analyse::run(&request, &mut *observer)?;
        drop(observer);
        if let Some(runs) = runs {
            let stop = stop_on_interrupt("without a result of the current run");
            let mut observer = progress::series_observer(self.quiet, runs.len());
            analysis.add(sweep::run(runs, &request, &mut *observer, &stop)?)?;
        }
        let files: String =
            analysis.figures.iter().map(|figure| format!("{0}.csv, {0}.svg, ", figure.name)).collect();
        let out = request.out.display();
        text::print(&format!("{}written to {out}: {files}analysis.json\n", table(&analysis)))
    }
}

/// The figures of these names, in the order of [`FIGURES`], each once.
fn selected(names: &[String]) -> Result<Vec<&'static Figure>> {
    if names.iter().any(|name| name.trim() == sweep::NAME) {
        return Err(Error::value("figures", sweep::NAME, "trains five networks; ask for it with --sweep"));
    }
    let named = |name: &&String| !name.trim().is_empty();
    let chosen = names.iter().filter(named).map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    if chosen.is_empty() {
        return Err(Error::value("figures", "''", "a name is needed; 'saddle help analyse' lists them"));
    }
    Ok(FIGURES.iter().filter(|figure| chosen.iter().any(|c| c.name == figure.name)).collect())
}

/// The main numbers of all figures.
fn table(analysis: &Analysis) -> String {
    let mut rows = vec![["figure", "metric", "value"].map(String::from)];
    for figure in &analysis.figures {
        let row = |(name, value): &(String, f64)| [figure.name.into(), name.clone(), text::number(*value)];
        rows.extend(figure.metrics.iter().map(row));
    }
    text::table(&rows, &[2])
}
