//! `saddle compare`: methods times seeds on one data set.

use std::path::PathBuf;

use super::eval::names;
use super::flags::{DeviceFlag, SetFlag};
use super::interrupt::stop_on_interrupt;
use super::{Run, progress, text};
use crate::attack::Params;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::plan;
use crate::study::compare::{self, CompareRequest, Comparison, entries};

const EXAMPLES: &str = "\
The entries are recipes for the data set ('saddle recipes'), those in files of your own among
them; a method without a recipe takes PGD-AT's. Each run has a run directory
below OUT/runs; finished runs are not repeated, and after Ctrl-C the same command continues.
The tables OUT/compare.md, .csv and .json give the mean and standard deviation over seeds,
also of Mean = (clean + robust) / 2 and NRR = 2 clean robust / (clean + robust), where robust
is the accuracy under the last attack.

Examples:
  saddle compare --dataset digits
      all methods on the embedded digits, three seeds
  saddle compare --dataset digits --methods pgd-at,trades,mine.toml --seeds 0
  saddle compare --dataset cifar10 --model resnet18 --set data=cifar-10-batches-bin
      --attack apgd-ce";

/// Compare training methods over seeds.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareArgs {
    /// The data set
    #[arg(long, value_name = "NAME", default_value = "digits")]
    dataset: String,
    /// Comma-separated methods, recipes or .toml files with recipes [default: all recipes for the data set]
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
        let mut observer = progress::series_observer(self.quiet, request.entries.len() * request.seeds.len());
        let comparison = compare::run(&request, &mut *observer, &stop)?;
        drop(observer);
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
    attacks.retain(|name| name != "pgd20");
    for name in &attacks {
        plan::check(std::slice::from_ref(name), &Params::default(), &[])?;
    }
    Ok(attacks)
}

fn table(comparison: &Comparison) -> String {
    let cells = comparison.cells();
    let right: Vec<usize> = (1..cells.first().map_or(0, Vec::len)).collect();
    let note = comparison.note().map(|note| format!("{note}\n")).unwrap_or_default();
    text::table(&cells, &right) + &note
}
