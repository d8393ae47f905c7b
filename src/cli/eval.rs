//! `saddle eval`: attacks on a trained network.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flags::{ForEvaluation, Given};
use super::parameters::Parameters;
use super::train::stop_on_interrupt;
use super::{progress, text};
use crate::config::Config;
use crate::config::recipe;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::record::{Shard, merge};
use crate::eval::{self, EvalRequest, Extras, Report, write_result};
use crate::files::check_writable;
use crate::files::weights::WeightFile;
use crate::method;
use crate::run::dir::RunDir;
use crate::run::network::WeightOverrides;
use crate::train;

const EXAMPLES: &str = "\
Examples:
  saddle eval --weights runs/NAME
      the best and the last checkpoint of a run, against what it was trained for
  saddle eval --weights runs/NAME --attack fgsm,pgd20 --eps 0.2
      other attacks, larger perturbations, each attack on all images
  saddle eval --weights runs/NAME --checkpoint best --attack autoattack --state aa --out aa.json
      AutoAttack; the same command goes on after Ctrl-C
  saddle eval --weights runs/NAME --attack autoattack:apgd-ce,square
      other attacks in AutoAttack's protocol: each on the images that withstood the earlier ones
  saddle eval --weights FILE --attack autoattack --shard 1/2 --out 1.json
  saddle eval --merge 1.json 2.json --out whole.json
      one half of the images, and the result of both halves
  saddle eval --weights net.safetensors --model resnet18 --dataset cifar10 --data ~/cifar-10-batches-bin
      weights from elsewhere, which say nothing about themselves

'saddle attacks' lists the attacks. A number after a name counts steps: pgd20, pgd100.";

const GROUP: &str = "What and how";
const PROTOCOL: &str = "AutoAttack and other protocols";
/// What makes no sense beside `--merge`.
const ALONE: [&str; 8] = ["weights", "attack", "checkpoint", "n", "state", "shard", "save_adv", "report"];

/// Which checkpoints of a run are evaluated.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Checkpoint {
    Best,
    Last,
    Both,
}

/// Measure the accuracy of a trained network, clean and under attack.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A safetensors file, or a run directory, whose checkpoints and settings are taken
    #[arg(long, short, value_name = "FILE|RUN", required_unless_present = "merge", help_heading = GROUP)]
    weights: Option<PathBuf>,
    /// The attacks, with commas between them, each judged alone; or autoattack, autoattack-plus,
    /// autoattack-rand, autoattack:A,B
    #[arg(long, short, value_name = "NAME,..", value_delimiter = ',', default_value = "pgd20", help_heading = GROUP)]
    attack: Vec<String>,
    /// Of a run directory: best, last or, where they differ, both `[default: both]`
    #[arg(long, value_enum, value_name = "WHICH", hide_possible_values = true, help_heading = GROUP)]
    checkpoint: Option<Checkpoint>,
    /// Only the first N test images `[default: all]`
    #[arg(long, short, value_name = "N", help_heading = GROUP)]
    n: Option<usize>,
    /// Write the result to this file as JSON, too
    #[arg(long, value_name = "FILE", help_heading = GROUP)]
    out: Option<PathBuf>,
    /// Keep progress in this folder; the same command goes on after an interruption
    #[arg(long, value_name = "DIR", help_heading = PROTOCOL)]
    state: Option<PathBuf>,
    /// Only part I of N of the images
    #[arg(long, value_name = "I/N", help_heading = PROTOCOL)]
    shard: Option<String>,
    /// Write the adversarial images to this safetensors file: x_adv [N,C,H,W], y, pred, success
    #[arg(long, value_name = "FILE", help_heading = PROTOCOL)]
    save_adv: Option<PathBuf>,
    /// Write a page with pictures to this file: HTML that needs nothing else
    #[arg(long, value_name = "FILE", help_heading = PROTOCOL)]
    report: Option<PathBuf>,
    /// Make one result of the result files of all shards; nothing is evaluated
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ALONE, help_heading = PROTOCOL)]
    merge: Vec<PathBuf>,
    #[command(flatten)]
    given: Given<ForEvaluation>,
    #[command(flatten)]
    parameters: Parameters,
    /// Print nothing but the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
    /// Print one JSON object a line on standard output: evaluating, judging, judged, note, result
    #[arg(long, help_heading = "Running")]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    if !arguments.merge.is_empty() {
        return merged(&arguments);
    }
    let (quiet, json, out) = (arguments.quiet, arguments.json, arguments.out.clone());
    let mut requests = requests(arguments)?;
    let stop = stop_on_interrupt("without a result");
    let several = requests.len() > 1;
    if let Some(out) = out.as_ref().filter(|_| several) {
        check_writable(out)?;
    }
    let mut observer = progress::observer(quiet, json, 0);
    let mut reports = Vec::new();
    let whole = |reports: &[Report]| match reports {
        [report] if !several => report.to_json(),
        reports => json!({"checkpoints": reports.iter().map(Report::to_json).collect::<Vec<_>>()}),
    };
    for request in &mut requests {
        request.extras.stop = stop.clone();
        if several {
            request.out = None;
            // Each checkpoint has progress of its own.
            let name = request.weights.file_stem().unwrap_or_default();
            request.extras.state = request.extras.state.take().map(|folder| folder.join(name));
            observer.note(&request.weights.display().to_string());
        }
        reports.push(eval::run(request, &mut *observer)?);
        if let Some(out) = out.as_ref().filter(|_| several) {
            // An interruption of the next one leaves this one's result.
            write_result(out, &whole(&reports))?;
        }
    }
    drop(observer);
    let whole = whole(&reports);
    if json {
        return text::print(&(text::to_json(&json!({"event": "result", "report": whole}), false)? + "\n"));
    }
    let mut result = String::new();
    for report in &reports {
        if several {
            result += &format!("{}\n", report.weights.display());
        }
        result += &table(&report.to_json());
    }
    text::print(&(result + &written(out.as_deref())))
}

/// `--merge`.
fn merged(arguments: &Arguments) -> Result<()> {
    // Where and in how large batches it runs decides nothing.
    let given =
        arguments.given.settings()?.into_iter().find(|(key, _)| !["device", "batch"].contains(&key.as_str()));
    if let Some((key, value)) =
        given.or_else(|| arguments.parameters.given().next().map(|(key, value)| (key.into(), value)))
    {
        return Err(Error::value(
            key,
            value,
            "the shards have been evaluated with settings of their own; --merge takes none",
        ));
    }
    let whole = merge(&arguments.merge)?.to_json();
    if let Some(out) = &arguments.out {
        write_result(out, &whole)?;
    }
    match arguments.json {
        true => text::print(&(text::to_json(&json!({"event": "result", "report": whole}), false)? + "\n")),
        false => text::print(&(table(&whole) + &written(arguments.out.as_deref()))),
    }
}

fn written(out: Option<&Path>) -> String {
    out.map(|out| format!("written to {}\n", out.display())).unwrap_or_default()
}

/// A report for people.
fn table(report: &Value) -> String {
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let by_protocol = report["verification"].is_object();
    let mut rows = vec![["attack", "accuracy", "time"].map(String::from).to_vec()];
    if by_protocol {
        rows[0].push("points".into());
    }
    for row in report["results"].as_array().into_iter().flatten() {
        let name = row["attack"].as_str().unwrap_or_default().to_owned();
        let mut cells =
            vec![name, format!("{:.2} %", number(row, "accuracy")), text::duration(number(row, "seconds"))];
        if by_protocol {
            let skipped = row["skipped"] == true;
            cells.push(if skipped {
                "skipped".into()
            } else {
                text::thousands(number(row, "attacked") as i64)
            });
        }
        rows.push(cells);
    }
    let mut lines = text::table(&rows, &[1, 2, 3]);
    if by_protocol {
        let what = if report["autoattack_acc"].is_null() { "these attacks" } else { "AutoAttack" };
        let word = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
        let (robust, version) = (word("robust_acc"), word("version"));
        lines +=
            &format!("{robust} % robust under {what} ({version}, {}, eps {})\n", word("norm"), word("eps"));
        if report["verification"]["passed"] == true {
            let largest = text::number(number(&report["verification"], "largest_distance"));
            lines += &format!(
                "verified: all images in the ball (largest distance {largest}) and in [0,1], predictions reproduced\n"
            );
        }
        let warnings = report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.extend(warnings.map(|line| format!("warning: {line}\n")));
    }
    lines
}

/// What the arguments ask for, one request a checkpoint.
fn requests(arguments: Arguments) -> Result<Vec<EvalRequest>> {
    let settings = arguments.given.settings()?;
    let (files, run) = find(arguments.weights.as_deref().unwrap_or(Path::new("")), arguments.checkpoint)?;
    let named =
        |name: &str| settings.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let alone = run.is_none();
    let mut config = match (run, named("dataset")) {
        (Some(run), _) => run.config()?,
        (None, Some(name)) if data::find(name)?.name == "digits" => {
            method::load_recipe(recipe::DEFAULT)?.config
        }
        (None, Some(_)) => Config::default(),
        (None, None) => {
            let problem = "no run.json says which data set these weights are for; add --dataset NAME";
            return Err(Error::file(&files[0], problem));
        }
    };
    // A file outside of a run directory says itself what it was made for; one that cannot be read is reported
    // where it is opened.
    if let (true, Ok(file)) = (alone, WeightFile::read(&files[0])) {
        config.apply(&file.trained_for())?;
    }
    let before = config.dataset.clone();
    config.apply(&settings)?;
    if config.dataset != before && named("data").is_none() {
        // The folder of another data set is of no use.
        config.data = None;
    }
    train::validate(&config)?;
    if arguments.n == Some(0) {
        return Err(Error::value("n", 0, "must be 1 or more"));
    }
    let attacks: Vec<String> = arguments
        .attack
        .iter()
        .map(|name| name.trim().to_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    if attacks.is_empty() {
        return Err(Error::value("attack", "''", "a name is needed; 'saddle attacks' lists them"));
    }
    let shard = arguments.shard.as_deref().map(Shard::read).transpose()?;
    let of_one = [
        ("shard", shard.is_some()),
        ("save-adv", arguments.save_adv.is_some()),
        ("report", arguments.report.is_some()),
    ];
    if let (2.., Some((flag, _))) = (files.len(), of_one.into_iter().find(|(_, given)| *given)) {
        let problem = format!(
            "--{flag} is for one network, and best and last differ; add --checkpoint best or --checkpoint last"
        );
        return Err(Error::value("weights", files[0].display(), problem));
    }
    let given = |name: &str| named(name).is_some();
    let extras = Extras {
        eps_text: Some(config.eps.to_string()),
        overrides: WeightOverrides {
            model: given("model").then(|| config.model.clone()),
            mean: given("mean").then(|| config.mean.clone()),
            std: given("std").then(|| config.std.clone()),
        },
        state: arguments.state,
        shard,
        save_adv: arguments.save_adv,
        page: arguments.report,
        ..Extras::default()
    };
    let request = |weights: PathBuf| EvalRequest {
        weights,
        dataset: config.dataset.clone(),
        data: config.data.clone(),
        attacks: attacks.clone(),
        params: arguments.parameters.params(&config, given("step_size")),
        n: arguments.n,
        batch: if given("batch") { config.batch } else { Config::default().batch },
        device: if given("device") { config.device } else { Config::default().device },
        out: arguments.out.clone(),
        extras: extras.clone(),
    };
    Ok(files.into_iter().map(request).collect())
}

/// The weight files that are meant, and the run that they belong to, if there is one.
///
/// Errors: [`Error::File`] for a folder without a run or without a checkpoint, [`Error::Io`] when there is
/// nothing.
fn find(weights: &Path, checkpoint: Option<Checkpoint>) -> Result<(Vec<PathBuf>, Option<RunDir>)> {
    let kind = std::fs::metadata(weights).map_err(Error::io(weights, "cannot open the weights"))?;
    if !kind.is_dir() {
        if checkpoint.is_some() {
            return Err(Error::value(
                "weights",
                weights.display(),
                "is one file; --checkpoint chooses in a run directory",
            ));
        }
        let run = weights.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
        let run = run.filter(|run| run.join("run.json").is_file()).map(RunDir::open).transpose()?;
        return Ok((vec![weights.to_owned()], run));
    }
    let run = RunDir::open(weights)?;
    let names: &[&str] = match checkpoint {
        Some(Checkpoint::Best) => &["best"],
        Some(Checkpoint::Last) => &["last"],
        Some(Checkpoint::Both) | None => &["best", "last"],
    };
    let paths = names.iter().map(|name| weights.join("checkpoints").join(format!("{name}.safetensors")));
    let mut files: Vec<PathBuf> = paths.filter(|file| file.is_file()).collect();
    if files.is_empty() {
        let name = names[0];
        return Err(Error::file(
            weights,
            format!("this run has no checkpoint yet (checkpoints/{name}.safetensors)"),
        ));
    }
    if let [best, last] = files.as_slice()
        && WeightFile::read(best)?.tensors == WeightFile::read(last)?.tensors
    {
        files.pop();
    }
    Ok((files, Some(run)))
}
