//! `saddle eval`: attacks on a trained network.

use std::path::{Path, PathBuf};

use indicatif::HumanCount;
use serde_json::{Value, json};

use super::flags::{AttackFlags, EvalKeys, GROUP, KeyFlags};
use super::interrupt::stop_on_interrupt;
use super::{Run, progress, text};
use crate::attack;
use crate::config::Config;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::outcome::CLEAN;
use crate::eval::record::{Shard, merge};
use crate::eval::target::{Weights, settings_of};
use crate::eval::{self, EvalRequest, Extras, write_result};
use crate::files::weights::WeightFile;
use crate::files::{check_outputs, is_same};
use crate::run::network::WeightOverrides;

const EXAMPLES: &str = "\
Examples:
  saddle eval --weights runs/NAME
      the best and the last checkpoint of a run, in the threat model of its training
  saddle eval --weights runs/NAME --attack fgsm,pgd20 --eps 0.2
      other attacks, larger perturbations, each attack on all images
  saddle eval --weights runs/NAME --checkpoint best --attack autoattack --state aa --out aa.json
      AutoAttack; after Ctrl-C the same command continues
  saddle eval --weights runs/NAME --attack autoattack:apgd-ce,square
      other attacks in AutoAttack's protocol: each on the images that withstood the earlier ones
  saddle eval --weights FILE --attack autoattack --shard 1/2 --out 1.json
  saddle eval --merge 1.json 2.json --out whole.json
      one half of the images, and the result of both halves
  saddle eval --weights net.safetensors --model resnet18
      --dataset cifar10 --data ~/cifar-10-batches-bin
      weights without metadata

'saddle attacks' lists the attacks. A number after a name is the number of steps: pgd20, pgd100.";

const PROTOCOL: &str = "AutoAttack and other protocols";
/// Flags that exclude `--merge`.
const NOT_WITH_MERGE: [&str; 8] =
    ["weights", "attack", "checkpoint", "n", "state", "shard", "save_adv", "report"];

/// The checkpoints of a run to evaluate.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Checkpoints {
    Best,
    Last,
    Both,
}

impl Checkpoints {
    fn names(self) -> &'static [&'static str] {
        match self {
            Checkpoints::Best => &["best"],
            Checkpoints::Last => &["last"],
            Checkpoints::Both => &["best", "last"],
        }
    }
}

/// Measure the accuracy of a trained network, clean and under attack.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// A safetensors file, or a run directory with its checkpoints and settings
    #[arg(long, short, value_name = "FILE|RUN", required_unless_present = "merge", help_heading = GROUP)]
    weights: Option<PathBuf>,
    /// Comma-separated attacks, each on all images (clean: none); or autoattack, autoattack-plus,
    /// autoattack-rand, autoattack:A,B
    #[arg(
        long,
        short,
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "pgd20",
        help_heading = GROUP
    )]
    attack: Vec<String>,
    /// The checkpoint of a run directory: best, last or, if they differ, both [default: both]
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        hide_possible_values = true,
        help_heading = GROUP
    )]
    checkpoint: Option<Checkpoints>,
    /// Only the first N test images [default: all]
    #[arg(long, short, value_name = "N", help_heading = GROUP)]
    n: Option<usize>,
    /// Also write the result to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = GROUP)]
    out: Option<PathBuf>,
    /// Keep progress in this folder; after an interruption the same command continues
    #[arg(long, value_name = "DIR", help_heading = PROTOCOL)]
    state: Option<PathBuf>,
    /// Only part I of N of the images
    #[arg(long, value_name = "I/N", help_heading = PROTOCOL)]
    shard: Option<String>,
    /// Write the attacks' images to this safetensors file: x_adv [N,C,H,W], y, pred, success
    #[arg(long, value_name = "FILE", help_heading = PROTOCOL)]
    save_adv: Option<PathBuf>,
    /// Save the clean image where all attacks fail, not that of the last attack
    #[arg(long, requires = "save_adv", help_heading = PROTOCOL)]
    keep_clean: bool,
    /// Write a self-contained HTML page with pictures to this file
    #[arg(long, value_name = "FILE", help_heading = PROTOCOL)]
    report: Option<PathBuf>,
    /// Merge the result files of all shards into one result, without evaluating anything
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        conflicts_with_all = NOT_WITH_MERGE,
        help_heading = PROTOCOL
    )]
    merge: Vec<PathBuf>,
    #[command(flatten)]
    keys: KeyFlags<EvalKeys>,
    #[command(flatten)]
    parameters: AttackFlags,
    /// Print only the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
    /// Print JSON lines to standard output: evaluating, judging, judged, note, result
    #[arg(long, help_heading = "Running")]
    json: bool,
}

impl Run for EvalArgs {
    fn run(self, command_line: String) -> Result<()> {
        if self.merge.is_empty() { self.evaluate(command_line) } else { self.merge_shards(&command_line) }
    }
}

impl EvalArgs {
    fn evaluate(self, command_line: String) -> Result<()> {
        let (quiet, json, out) = (self.quiet, self.json, self.out.clone());
        let mut requests = self.requests(&command_line)?;
        let stop = stop_on_interrupt("without a result");
        let several = requests.len() > 1;
        // Of several checkpoints, the results so far stay if the next evaluation is interrupted.
        let out_of_all = out.as_deref().filter(|_| several);
        requests.iter().try_for_each(EvalRequest::check_outputs)?;
        let mut observer = progress::observer(quiet, json, 0);
        let (mut reports, mut tables, mut result) = (Vec::new(), String::new(), Value::Null);
        let (mut complaint, mut unwritten) = (None, None);
        for request in &mut requests {
            request.extras.stop = stop.clone();
            if several {
                request.out = None;
                // Each checkpoint keeps its own progress.
                let name = request.weights.file_stem().unwrap_or_default();
                request.extras.state = request.extras.state.take().map(|folder| folder.join(name));
                observer.note(&request.weights.display().to_string());
                tables += &format!("{}\n", request.weights.display());
            }
            let mut report = eval::run(request, &mut *observer).map_err(|error| match error {
                Error::Interrupted { saved, .. } => {
                    Error::Interrupted { saved, resume: command_line.clone() }
                }
                other => other,
            })?;
            complaint = complaint.or(report.complaint());
            unwritten = unwritten.or(report.unwritten.take());
            let report = report.to_json();
            tables += &table(&report);
            reports.push(report);
            result = if several { json!({"checkpoints": reports}) } else { json!(reports[0]) };
            let written = out_of_all.map_or(Ok(()), |out| write_result(out, &result));
            unwritten = unwritten.or(written.err());
        }
        drop(observer);
        print_result(json, &result, || tables, out.as_deref().filter(|_| unwritten.is_none()))?;
        unwritten.map_or(Ok(()), Err)?;
        complaint.map_or(Ok(()), |complaint| Err(Error::Unverified { complaint }))
    }

    /// `--merge`.
    fn merge_shards(self, command_line: &str) -> Result<()> {
        // Device and batch size do not change a result.
        let mut settings = self.keys.settings()?;
        settings.retain(|(key, _)| !["device", "batch"].contains(&key.as_str()));
        settings.extend(self.parameters.given().map(|(name, value)| (name.to_string(), value)));
        if let Some((key, value)) = settings.into_iter().next() {
            let problem = "--merge takes no settings; the shards have been evaluated with theirs";
            return Err(Error::value(key, value, problem));
        }
        let inputs: Vec<(&str, &Path)> = self.merge.iter().map(|path| ("--merge", path.as_path())).collect();
        let outputs: Vec<(&str, &Path)> = self.out.iter().map(|out| ("out", out.as_path())).collect();
        check_outputs(&outputs, &inputs)?;
        let mut result = merge(&self.merge)?.to_json();
        // The other facts are those of the first shard.
        if let Some(provenance) = result.get_mut("provenance").and_then(Value::as_object_mut) {
            provenance.insert("merged_by".into(), command_line.into());
        }
        let written = self.out.as_ref().map_or(Ok(()), |out| write_result(out, &result));
        let out = self.out.as_deref().filter(|_| written.is_ok());
        print_result(self.json, &result, || table(&result), out)?;
        written
    }

    /// One request per checkpoint.
    fn requests(self, command_line: &str) -> Result<Vec<EvalRequest>> {
        let settings = self.keys.settings()?;
        let path = self.weights.as_deref().unwrap_or(Path::new(""));
        if self.attack.iter().all(|name| name.trim().is_empty()) {
            return Err(Error::value("attack", "''", "a name is needed; 'saddle attacks' lists them"));
        }
        let attacks = names(&self.attack);
        let Weights { files, run } = Weights::find(path, self.checkpoint.map(Checkpoints::names))?;
        // A file outside of a run records itself what it was trained for. One that cannot be read is reported
        // where it is opened.
        let alone = if run.is_none() { WeightFile::read(&files[0]).ok() } else { None };
        let metadata = alone.as_ref().map(WeightFile::trained_for).unwrap_or_default();
        if let Some(file) = &alone {
            file.in_metadata(Config::default().apply(&metadata))?;
        }
        let run = run.map(|run| run.config()).transpose()?;
        let config = settings_of(run.clone(), &metadata, &settings)?.ok_or_else(|| {
            let problem = "no run.json says which data set these weights are for; add --dataset NAME";
            Error::file(&files[0], problem)
        })?;
        if self.n == Some(0) {
            return Err(Error::value("n", 0, "must be 1 or more"));
        }
        let params = self.parameters.params(&attacks, &config, &settings)?;
        let shard = self.shard.as_deref().map(Shard::read).transpose()?;
        let given = |name: &str| settings.iter().any(|(key, _)| key == name);
        let extras = Extras {
            command: command_line.to_owned(),
            eps_text: Some(config.eps.to_string()),
            overrides: WeightOverrides {
                model: given("model").then(|| config.model.clone()),
                mean: given("mean").then(|| config.mean.clone()),
                std: given("std").then(|| config.std.clone()),
            },
            precision: given("precision").then_some(config.precision),
            state: self.state,
            shard,
            save_adv: self.save_adv,
            keep_clean: self.keep_clean,
            page: self.report,
            trained_elsewhere: trained_elsewhere(run.as_ref(), alone.as_ref(), &config),
            ..Extras::default()
        };
        // Each network keeps its own progress; the other files are of one network.
        let both = self.checkpoint.map_or(path.is_dir(), |which| which.names().len() > 1);
        if let Some(flag) = extras.protocol_flags().find(|flag| both && *flag != "state") {
            let problem = format!(
                "--{flag} is for one network, and a run has two; add --checkpoint best or --checkpoint last"
            );
            return Err(Error::value("weights", path.display(), problem));
        }
        let request = |weights: PathBuf| EvalRequest {
            weights,
            dataset: config.dataset.clone(),
            data: config.data.clone(),
            attacks: attacks.clone(),
            params,
            n: self.n,
            batch: config.batch,
            device: config.device,
            out: self.out.clone(),
            extras: extras.clone(),
        };
        let requests: Vec<_> = files.into_iter().map(request).collect();
        requests.iter().try_for_each(EvalRequest::check_options)?;
        Ok(requests)
    }
}

/// Whether a network was certainly not trained on a part of the data that `config` names; `alone` is a weight
/// file outside of a run.
fn trained_elsewhere(run: Option<&Config>, alone: Option<&WeightFile>, config: &Config) -> bool {
    // A data set has several names.
    let is_it = |name: &str| {
        data::find(name).is_ok_and(|own| data::find(&config.dataset).is_ok_and(|it| it.name == own.name))
    };
    match run {
        Some(run) if is_it(&run.dataset) => match (&run.data, &config.data) {
            // Where the data of the run is gone, it may have been moved to the other place.
            (Some(own), Some(other)) => own.exists() && !is_same(own, other),
            _ => false,
        },
        Some(_) => true,
        None => !alone.and_then(|file| file.metadata.get("dataset")).is_some_and(|name| is_it(name)),
    }
}

/// The attacks in a comma-separated list, each in its one spelling; the clean accuracy always comes first.
pub(super) fn names(list: &[String]) -> Vec<String> {
    let names = list.iter().map(|name| attack::spelling(name));
    names.filter(|name| !name.is_empty() && name != CLEAN).collect()
}

/// Prints a result that was written to `out`, if given: as a JSON line, or its table.
fn print_result(
    json: bool,
    result: &Value,
    table: impl FnOnce() -> String,
    out: Option<&Path>,
) -> Result<()> {
    match json {
        true => text::print_json_line(&json!({"event": "result", "report": result})),
        false => text::print(&(table() + &text::written(out))),
    }
}

/// A report as a table.
fn table(report: &Value) -> String {
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let by_protocol = report["verification"].is_object();
    let mut rows = vec![["attack", "accuracy", "time", "points"].map(String::from).to_vec()];
    for row in report["results"].as_array().into_iter().flatten() {
        let points = match row["skipped"] == true {
            true => "skipped".into(),
            false => HumanCount(row["attacked"].as_u64().unwrap_or(0)).to_string(),
        };
        rows.push(vec![
            row["attack"].as_str().unwrap_or_default().into(),
            row["accuracy"].as_f64().map_or("-".into(), |accuracy| format!("{accuracy:.2} %")),
            text::duration(number(row, "seconds")),
            points,
        ]);
    }
    if !by_protocol {
        rows.iter_mut().for_each(|row| row.truncate(3));
    }
    let mut lines = text::table(&rows, &[1, 2, 3]);
    if by_protocol {
        lines += &protocol_lines(report);
    }
    lines
}

/// The result of a protocol in words, its verification and its warnings.
fn protocol_lines(report: &Value) -> String {
    let mut lines = report["headline"].as_str().unwrap_or_default().to_owned() + "\n";
    let verification = &report["verification"];
    if verification["passed"] == true {
        let distance = text::number(verification["largest_distance"].as_f64().unwrap_or(f64::NAN));
        lines += &format!(
            "verified: all images in the ball (largest distance {distance}) and in [0,1], \
             predictions reproduced\n"
        );
    }
    let warnings = report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(warnings.map(|line| format!("warning: {line}\n")));
    lines
}
