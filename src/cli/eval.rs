//! `saddle eval`: attacks on a trained network.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{ForEvaluation, Given};
use super::train::{Record, recorded};
use super::{progress, text};
use crate::data;
use crate::error::{Error, Result};
use crate::eval::{self, Request};
use crate::train::config::Config;
use crate::train::recipe;

const EXAMPLES: &str = "\
Examples:
  saddle eval --weights runs/NAME
      the best checkpoint of a run, against what it was trained for
  saddle eval --weights runs/NAME --attack fgsm,pgd20 --eps 0.2
      other attacks, larger perturbations
  saddle eval --weights net.safetensors --dataset cifar10 --data ~/cifar-10-batches-bin
      weights without a run

'saddle attacks' lists the attacks. A number after a name counts steps: pgd20, pgd100.";

/// Measure the accuracy of a trained network, clean and under attack.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A safetensors file, or a run directory, whose best checkpoint and settings are taken
    #[arg(long, short, value_name = "FILE|RUN", help_heading = "What and how")]
    weights: PathBuf,
    /// The attacks, with commas between them
    #[arg(long, short, value_name = "NAME,..", value_delimiter = ',', default_value = "pgd20", help_heading = "What and how")]
    attack: Vec<String>,
    /// Only the first N test images `[default: all]`
    #[arg(long, short, value_name = "N", help_heading = "What and how")]
    n: Option<usize>,
    /// Write the result to this file as JSON, too
    #[arg(long, value_name = "FILE", help_heading = "What and how")]
    out: Option<PathBuf>,
    #[command(flatten)]
    given: Given<ForEvaluation>,
    /// Print nothing but the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
    /// Print one JSON object a line on standard output: evaluating, note, result
    #[arg(long, help_heading = "Running")]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let (quiet, json) = (arguments.quiet, arguments.json);
    let request = request(arguments)?;
    let mut observer = progress::observer(quiet, json, 0);
    let report = eval::run(&request, &mut *observer)?;
    drop(observer);
    if json {
        return text::print(&(text::to_json(&json!({"event": "result", "report": report.to_json()}), false)? + "\n"));
    }
    let mut rows = vec![["attack", "accuracy", "time"].map(String::from).to_vec()];
    rows.extend(
        report.rows.iter().map(|row| vec![row.name.clone(), format!("{:.2} %", row.accuracy), text::duration(row.seconds)]),
    );
    let mut result = text::table(&rows, &[1, 2]);
    if let Some(out) = &request.out {
        result += &format!("written to {}\n", out.display());
    }
    text::print(&result)
}

/// What the arguments ask for.
fn request(arguments: Arguments) -> Result<Request> {
    let settings = arguments.given.settings()?;
    let (weights, record) = find(&arguments.weights)?;
    let named = |name: &str| settings.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut config = match (record, named("dataset")) {
        (Some(record), _) => record.config,
        (None, Some(name)) if data::find(name)?.name == "digits" => recipe::load(recipe::DEFAULT)?.config,
        (None, Some(_)) => Config::default(),
        (None, None) => {
            let problem = "no run.json says which data set these weights are for; add --dataset NAME";
            return Err(Error::file(&weights, problem));
        }
    };
    let before = config.dataset.clone();
    config.apply(&settings)?;
    if config.dataset != before && named("data").is_none() {
        // The folder of another data set is of no use.
        config.data = None;
    }
    config.validate()?;
    if arguments.n == Some(0) {
        return Err(Error::value("n", 0, "must be 1 or more"));
    }
    let attacks: Vec<String> =
        arguments.attack.iter().map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect();
    if attacks.is_empty() {
        return Err(Error::value("attack", "''", "a name is needed; 'saddle attacks' lists them"));
    }
    let given_batch = named("batch").is_some();
    Ok(Request {
        weights,
        dataset: config.dataset,
        data: config.data,
        attacks,
        norm: config.norm.into(),
        eps: config.eps.get(),
        step: named("step").is_some().then_some(config.step.get()),
        n: arguments.n,
        batch: if given_batch { config.batch } else { Config::default().batch },
        seed: config.seed,
        device: if named("device").is_some() { config.device } else { Config::default().device },
        out: arguments.out,
    })
}

/// The weight file that is meant, and the record of the run that it belongs to, if there is one.
///
/// Errors: [`Error::File`] for a folder without a run or without a checkpoint, [`Error::Io`] when there is nothing.
fn find(weights: &Path) -> Result<(PathBuf, Option<Record>)> {
    let kind = std::fs::metadata(weights).map_err(Error::io(weights, "cannot open the weights"))?;
    if kind.is_dir() {
        let record = recorded(weights)?;
        let checkpoints = ["best", "last"].map(|name| weights.join("checkpoints").join(format!("{name}.safetensors")));
        let file = checkpoints.into_iter().find(|file| file.is_file());
        let file = file.ok_or_else(|| Error::file(weights, "this run has no checkpoint yet (checkpoints/best.safetensors)"))?;
        return Ok((file, Some(record)));
    }
    let run = weights.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
    let record = run.filter(|run| run.join("run.json").is_file()).map(recorded).transpose()?;
    Ok((weights.to_owned(), record))
}
