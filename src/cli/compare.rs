//! `saddle compare`: methods times seeds on one data set.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::device_flag::DeviceFlag;
use super::eval::names;
use super::flags::SetFlag;
use super::interrupt::stop_on_interrupt;
use super::{Run, text};
use crate::attack;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::plan::Plan;
use crate::run::observer::{Observer, StepInfo};
use crate::study::compare::{self, CompareRequest, Comparison, entries};

const EXAMPLES: &str = "\
The entries are the recipes for the data set ('saddle recipes'). Each run has a run directory
below OUT/runs; finished runs are not repeated, and after Ctrl-C the same command continues.
The tables OUT/compare.md, .csv and .json give the mean and standard deviation over seeds,
also of Mean = (clean + robust) / 2 and NRR = 2 clean robust / (clean + robust), where robust
is the accuracy under the last attack.

Examples:
  saddle compare --dataset digits
      all methods on the embedded digits, three seeds
  saddle compare --dataset digits --methods pgd-at,trades,raat --seeds 0
  saddle compare --dataset cifar10 --model resnet18 --set data=cifar-10-batches-bin
      --attack apgd-ce";

/// Compare training methods over seeds.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareArgs {
    /// The data set
    #[arg(long, value_name = "NAME", default_value = "digits")]
    dataset: String,
    /// Comma-separated methods or recipes [default: all]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    methods: Vec<String>,
    /// Only recipes with this architecture
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Comma-separated seeds
    #[arg(long, value_name = "SEED,..", value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Comma-separated attacks besides PGD-20; 'saddle attacks' lists them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    attack: Vec<String>,
    /// The folder of runs and tables [default: runs/compare-DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print only the table
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    set: SetFlag,
}

impl Run for CompareArgs {
    fn run(self, command_line: String) -> Result<()> {
        let dataset = data::find(&self.dataset)?.name;
        if self.seeds.is_empty() {
            return Err(Error::value("seeds", "''", "at least one is needed"));
        }
        let request = CompareRequest {
            attacks: extra_attacks(&self.attack)?,
            entries: entries(dataset, &self.methods, self.model.as_deref(), &self.set.settings()?)?,
            seeds: self.seeds,
            out: self.out.unwrap_or_else(|| PathBuf::from("runs").join(format!("compare-{dataset}"))),
            device: self.device.choice()?,
            command: command_line,
        };
        let stop = stop_on_interrupt("without a result of the current run");
        let mut overview = Overview::new(self.quiet, request.entries.len() * request.seeds.len());
        let comparison = compare::run(&request, &mut overview, &stop)?;
        drop(overview);
        let out = request.out.display();
        text::print(&format!(
            "{}written to {out}/compare.md, compare.csv and compare.json\n",
            table(&comparison)
        ))
    }
}

/// The attacks besides those that every comparison has.
///
/// Errors: an unknown attack.
fn extra_attacks(list: &[String]) -> Result<Vec<String>> {
    let mut attacks = names(list);
    attacks.retain(|name| !matches!(name.as_str(), "pgd20" | "pgd-20" | "clean"));
    let params = attack::Params::default();
    for name in &attacks {
        if Plan::named(std::slice::from_ref(name), &params)?.is_none() {
            attack::by_name(name, &params)?;
        }
    }
    Ok(attacks)
}

fn table(comparison: &Comparison) -> String {
    let cells = comparison.cells();
    let right: Vec<usize> = (1..cells.first().map_or(0, Vec::len)).collect();
    let note = comparison.note().map(|note| format!("{note}\n")).unwrap_or_default();
    text::table(&cells, &right) + &note
}

/// The length of a run in the bar.
const RUN_LENGTH: f64 = 1000.0;

/// The progress of several runs: a bar on a terminal, a line per run elsewhere.
pub(super) struct Overview {
    bar: Option<ProgressBar>,
    /// Whether to print a line for each run.
    plain: bool,
    /// The current run, counted from 1.
    number: usize,
}

impl Overview {
    pub(super) fn new(quiet: bool, runs: usize) -> Overview {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:24.cyan/dim} {msg}, {eta} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─");
            ProgressBar::new((runs as f64 * RUN_LENGTH) as u64).with_style(style)
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
                bar.set_position(((number - 1) as f64 * RUN_LENGTH) as u64);
                bar.set_message("");
            }
            None if self.plain => text::print_note(&format!("run {number}/{of}: {what}")),
            None => {}
        }
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            let part = (at.epoch.saturating_sub(1) * at.steps + at.step) as f64
                / (at.epochs * at.steps).max(1) as f64;
            bar.set_position(((self.number.saturating_sub(1) as f64 + part) * RUN_LENGTH) as u64);
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
