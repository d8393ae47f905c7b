//! `saddle analyse`: the papers' motivating figures from a trained network.

use std::path::PathBuf;

use super::compare::Overview;
use super::train::stop_on_interrupt;
use super::{progress, text};
use crate::error::{Error, Result};
use crate::run::dir::RunDir;
use crate::study::analyse::{self, FIGURES, Request, find, sweep};

const EXAMPLES: &str = "\
Figures, each OUT/NAME.csv and OUT/NAME.svg; OUT/analysis.json has the main numbers:
  perception  logit MSE between x and x + t (x' - x), x' = PGD-20 with the run's eps: for
              all images and, of those right when clean, where the attack succeeds or fails
  margins     histograms of z_y - max other z at x, x + rho (x' - x) and x'
  layers      1-nn accuracy by each stage's pooled output (normalised, Euclidean distance),
              clean and PGD-20 test images among clean training images
  sweep       with --sweep: the run's training again, five times, where boundary samples or
              all others keep eps, eps/10 or nothing of their perturbation; what is trained
              below OUT/sweep is not trained again, and Ctrl-C may interrupt it

Examples:
  saddle analyse runs/NAME
  saddle analyse runs/NAME --figures margins,layers --n 1000
  saddle analyse runs/NAME --sweep --sweep-epochs 10";

/// Make the papers' motivating figures from a trained network.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A run directory; its best checkpoint is taken
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where data and pictures go [default: RUN/analysis]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the first N test images `[default: all]`
    #[arg(long, short, value_name = "N")]
    n: Option<usize>,
    /// Training images for nearest neighbours, at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    gallery: usize,
    /// The figures, with commas between them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "perception,margins,layers")]
    figures: Vec<String>,
    /// Train five networks for the figure 'sweep', too
    #[arg(long)]
    sweep: bool,
    /// Epochs of each of them [default: the run's]
    #[arg(long, value_name = "N", requires = "sweep")]
    sweep_epochs: Option<usize>,
    /// Where to run
    #[arg(long, value_name = "auto|host|cuda|cuda:N", default_value = "auto")]
    device: String,
    /// Print nothing but the result
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command; `line` is how it was called.
pub fn run(arguments: Arguments, line: String) -> Result<()> {
    if arguments.figures.iter().any(|name| name.trim() == "sweep") {
        return Err(Error::value(
            "figures",
            "sweep",
            "this one trains five networks; ask for it with --sweep",
        ));
    }
    let named = |name: &&String| !name.trim().is_empty();
    let chosen = arguments.figures.iter().filter(named).map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    if chosen.is_empty() {
        return Err(Error::value("figures", "''", "a name is needed; 'saddle help analyse' lists them"));
    }
    // In the order of the registry, each once.
    let figures: Vec<_> =
        FIGURES.iter().filter(|figure| chosen.iter().any(|c| c.name == figure.name)).collect();
    let device = arguments.device.parse()?;
    let config = RunDir::open(&arguments.run)?.config()?;
    let five = arguments.sweep.then(|| sweep::contenders(&config, arguments.sweep_epochs)).transpose()?;
    let out = arguments.out.unwrap_or_else(|| arguments.run.join("analysis"));
    let (n, gallery) = (arguments.n, arguments.gallery);
    let request = Request { run: arguments.run, config, figures, n, gallery, out, device, command: line };
    let mut observer = progress::observer(arguments.quiet, false, 0);
    let mut analysis = analyse::run(&request, &mut *observer)?;
    drop(observer);
    if let Some(five) = five {
        let stop = stop_on_interrupt("without a result of what is running");
        let mut overview = Overview::new(arguments.quiet, five.len());
        analysis
            .add("sweep", sweep::run(five, &request.out, device, &request.command, &mut overview, &stop)?)?;
    }
    let mut rows = vec![["figure", "what", "value"].map(String::from).to_vec()];
    for (name, made) in &analysis.made {
        let fact =
            |(what, value): &(String, f64)| vec![(*name).to_owned(), what.clone(), text::number(*value)];
        rows.extend(made.facts.iter().map(fact));
    }
    let files: String = analysis.made.iter().map(|(name, _)| format!("{name}.csv, {name}.svg, ")).collect();
    text::print(&format!(
        "{}written to {}: {files}analysis.json\n",
        text::table(&rows, &[2]),
        request.out.display()
    ))
}
