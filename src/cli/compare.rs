//! `saddle compare`: methods times seeds on one data set.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::flags::{Set, sets};
use super::text;
use super::train::stop_on_interrupt;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::plan::Plan;
use crate::run::observer::{Observer, StepInfo};
use crate::study::compare::{Request, contenders, run as compare};

const EXAMPLES: &str = "\
Each contender is a recipe for the data set ('saddle recipes'), each run a run directory
below OUT/runs. What is finished is not done again: after Ctrl-C the same command goes on.
The tables OUT/compare.md, .csv and .json give mean and standard deviation over seeds,
Mean = (clean + robust) / 2 and NRR = 2 clean robust / (clean + robust), where robust is
the last attack's accuracy.

Examples:
  saddle compare --dataset digits
      all methods on the embedded digits, three seeds
  saddle compare --dataset digits --methods pgd-at,trades,raat --seeds 0
  saddle compare --dataset cifar10 --model resnet18 --set data=cifar-10-batches-bin
      --attack apgd-ce";

/// Compare training methods over seeds.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The data set
    #[arg(long, value_name = "NAME", default_value = "digits")]
    dataset: String,
    /// Only these methods or recipes, with commas between them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    methods: Vec<String>,
    /// Only recipes with this network
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The seeds, with commas between them
    #[arg(long, value_name = "SEED,..", value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Attacks besides PGD-20, with commas between them; 'saddle attacks' lists them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    attack: Vec<String>,
    /// The folder of runs and tables [default: runs/compare-DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to run
    #[arg(long, value_name = "auto|host|cuda|cuda:N", default_value = "auto")]
    device: String,
    /// Print nothing but the table
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    set: Set,
}

/// Runs the command; `line` is how it was called.
pub fn run(arguments: Arguments, line: String) -> Result<()> {
    let dataset = data::find(&arguments.dataset)?.name;
    if arguments.seeds.is_empty() {
        return Err(Error::value("seeds", "''", "one at least is needed"));
    }
    let mut attacks: Vec<String> = arguments.attack.iter().map(|name| name.trim().to_lowercase()).collect();
    attacks.retain(|name| !name.is_empty() && !matches!(name.as_str(), "pgd20" | "pgd-20" | "clean"));
    for attack in &attacks {
        let params = crate::attack::Params::default();
        if Plan::named(std::slice::from_ref(attack), &params)?.is_none() {
            crate::attack::by_name(attack, &params)?;
        }
    }
    let request = Request {
        contenders: contenders(
            dataset,
            &arguments.methods,
            arguments.model.as_deref(),
            &sets(&arguments.set)?,
        )?,
        seeds: arguments.seeds,
        attacks,
        out: arguments.out.unwrap_or_else(|| PathBuf::from("runs").join(format!("compare-{dataset}"))),
        device: arguments.device.parse()?,
        command: line,
    };
    let stop = stop_on_interrupt("without a result of what is running");
    let mut overview = Overview::new(arguments.quiet, request.contenders.len() * request.seeds.len());
    let table = compare(&request, &mut overview, &stop)?;
    drop(overview);
    let cells = table.cells();
    let right: Vec<usize> = (1..cells.first().map_or(0, Vec::len)).collect();
    let out = request.out.display();
    let note = table.note().map(|note| format!("{note}\n")).unwrap_or_default();
    text::print(&format!(
        "{}{note}written to {out}/compare.md, compare.csv and compare.json\n",
        text::table(&cells, &right)
    ))
}

/// Thousandths of a run are what the bar counts.
const PART: f64 = 1000.0;

/// One view of the whole comparison: a bar on a terminal, a line a run elsewhere.
pub(super) struct Overview {
    bar: Option<ProgressBar>,
    /// Whether a line is printed for each run.
    plain: bool,
    number: usize,
}

impl Overview {
    pub(super) fn new(quiet: bool, runs: usize) -> Overview {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:24.cyan/dim} {msg}, {eta} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─");
            ProgressBar::new((runs as f64 * PART) as u64).with_style(style)
        });
        Overview { plain: !quiet && bar.is_none(), bar, number: 0 }
    }
}

impl Observer for Overview {
    fn begins(&mut self, number: usize, of: usize, what: &str) {
        self.number = number;
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(format!("run {number}/{of}: {what}"));
                bar.set_position(((number - 1) as f64 * PART) as u64);
                bar.set_message("");
            }
            None if self.plain => text::tell(&format!("run {number}/{of}: {what}")),
            None => {}
        }
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            let part = (at.epoch.saturating_sub(1) * at.steps + at.step) as f64
                / (at.epochs * at.steps).max(1) as f64;
            bar.set_position(((self.number.saturating_sub(1) as f64 + part) * PART) as u64);
            bar.set_message(format!("epoch {}/{}", at.epoch, at.epochs));
        }
    }

    fn evaluating(&mut self, what: &str, _: usize, _: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("evaluating {what}"));
        }
    }
}

impl Drop for Overview {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
