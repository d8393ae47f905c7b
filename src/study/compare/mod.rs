//! Methods times seeds on one data set. Each run has a run directory of its own, so that an interrupted
//! comparison continues where it stopped.

mod entries;
mod table;

pub use entries::{display_name, entries};
pub use table::{Comparison, ComparisonRow, Statistic};

use crate::attack::Params;
use crate::config::recipe::Recipe;
use crate::config::{Config, KEYS, Key, METHOD_GROUP, PrecisionChoice};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::eval::{self, Report};
use crate::files::lock::FolderLock;
use crate::files::{create_folder, read_text};
use crate::method;
use crate::run::dir::{RunDir, Summary};
use crate::run::observer::Observer;
use crate::run::provenance::Provenance;
use crate::train::{self, TrainJob, with_absolute_paths};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Keys that do not change the result of a run.
const NEUTRAL: &[&str] = &["device", "graphs", "data", "out", "checkpoint_every", "log_every"];

/// A comparison to make.
pub struct CompareRequest {
    pub entries: Vec<Recipe>,
    pub seeds: Vec<u64>,
    /// Attacks besides PGD-20, as named on the command line of `saddle eval`. The last one gives the robust
    /// accuracy of Mean and NRR.
    pub attacks: Vec<String>,
    /// The folder of runs and tables.
    pub out: PathBuf,
    pub device: DeviceChoice,
    /// The command line, for the records.
    pub command: String,
}

/// Trains and evaluates what is missing. The tables are written after each entry.
///
/// Errors: as training and evaluation; a run directory that holds a run with other settings.
pub fn run(
    request: &CompareRequest,
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<Comparison> {
    let CompareRequest { entries, seeds, attacks, out, command, .. } = request;
    let provenance = Provenance::now(&request.device.open()?, command);
    let columns = [&["clean".to_owned(), "PGD-20".to_owned()][..], attacks].concat();
    let dataset = entries.first().map(|r| r.config.dataset.clone()).unwrap_or_default();
    let mut table =
        Comparison { dataset, device: String::new(), seeds: seeds.clone(), columns, rows: vec![] };
    let (runs, mut number) = (entries.len() * seeds.len(), 0);
    create_folder(out).map_err(Error::io(out, "cannot create the folder"))?;
    let _lock = FolderLock::take(out, "wait until it has ended, or choose another --out")?;
    let mut runner = Runner { request, observer, stop };
    for recipe in entries {
        let mut row = ComparisonRow {
            name: display_name(&recipe.config),
            recipe: recipe.name.clone(),
            model: recipe.config.model.clone(),
            select: recipe.config.select,
            columns: vec![vec![]; table.columns.len()],
            seconds: 0.0,
        };
        for seed in seeds {
            number += 1;
            runner.observer.begins(number, runs, &format!("{}, seed {seed}", row.name));
            let (dir, summary) = runner.finished_run(recipe, *seed)?;
            let mut accuracies = vec![summary.clean_acc, summary.pgd20_acc];
            for attack in attacks {
                accuracies.push(runner.accuracy_under(attack, recipe, &dir)?);
            }
            row.columns.iter_mut().zip(accuracies).for_each(|(column, value)| column.push(value));
            row.seconds += summary.seconds;
            table.device = summary.device;
        }
        table.rows.push(row);
        table.write(out, &provenance)?;
    }
    observer.finished();
    Ok(table)
}

/// The context of each run.
struct Runner<'a> {
    request: &'a CompareRequest,
    observer: &'a mut dyn Observer,
    stop: &'a Arc<AtomicBool>,
}

impl Runner<'_> {
    /// The folder and the result of one run: read if it is complete, resumed if it was interrupted, trained
    /// otherwise.
    fn finished_run(&mut self, recipe: &Recipe, seed: u64) -> Result<(PathBuf, Summary)> {
        let CompareRequest { out, device, command, .. } = self.request;
        let dir = out.join("runs").join(format!("{}-seed{seed}", recipe.name));
        let mut config = recipe.config.clone();
        (config.seed, config.out, config.device) = (seed, Some(dir.clone()), *device);
        config = with_absolute_paths(config);
        let begun = dir.join("run.json").is_file();
        let begun = begun.then(|| RunDir::open(&dir)?.take()).transpose()?;
        if let Some(run) = &begun {
            let recorded = with_absolute_paths(run.config()?);
            check_same_settings(&dir, &recorded, &config)?;
            config = Config { device: *device, data: config.data, out: Some(dir.clone()), ..recorded };
        }
        let summary = dir.join("summary.json");
        if summary.is_file() {
            let read: Summary = read_json(&summary, "summary")?;
            let broken = read.extra.get("best").and_then(|best| best.get("error")?.as_str());
            return match broken {
                Some(problem) => {
                    Err(Error::file(&summary, format!("without its best checkpoint: {problem}")))
                }
                None => Ok((dir, read)),
            };
        }
        let job = TrainJob {
            config,
            recipe: recipe.name.clone(),
            reference: recipe.reference.clone(),
            command: command.clone(),
            resume: begun,
        };
        let trained =
            train::run(&job, self.observer, self.stop).map_err(|error| self.resumed_as_a_whole(error))?;
        Ok((trained.dir, trained.summary))
    }

    /// A run's accuracy under one more attack, measured once and kept in its directory, as is the progress of
    /// AutoAttack.
    fn accuracy_under(&mut self, attack: &str, recipe: &Recipe, dir: &Path) -> Result<f64> {
        let out = dir.join(format!("eval-{attack}.json"));
        let state = attack.starts_with("autoattack").then(|| dir.join(format!("eval-{attack}.state")));
        if !out.is_file() {
            let config = &recipe.config;
            let request = eval::EvalRequest {
                weights: dir.to_owned(),
                dataset: config.dataset.clone(),
                data: config.data.clone(),
                attacks: vec![attack.to_owned()],
                params: Params { ball: config.ball(), ..Params::default() },
                n: None,
                batch: Config::default().batch,
                device: self.request.device,
                out: Some(out.clone()),
                extras: eval::Extras {
                    state,
                    stop: self.stop.clone(),
                    command: self.request.command.clone(),
                    ..eval::Extras::default()
                },
            };
            let report = eval::run(&request, self.observer).and_then(Report::written);
            report.map_err(|error| self.resumed_as_a_whole(error))?;
        }
        let report: Value = read_json(&out, "evaluation")?;
        // The last row is the attack's, or that of AutoAttack's last attack.
        let accuracy = report["results"].as_array().and_then(|rows| rows.last()?["accuracy"].as_f64());
        accuracy.ok_or_else(|| Error::file(&out, format!("holds no accuracy under {attack}")))
    }

    /// After an interruption the user resumes the comparison, not the run.
    fn resumed_as_a_whole(&self, error: Error) -> Error {
        match error {
            Error::Interrupted { saved, .. } => {
                Error::Interrupted { saved, resume: self.request.command.clone() }
            }
            other => other,
        }
    }
}

/// A JSON file of a run, which holds a `kind`.
fn read_json<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T> {
    let text = read_text(path, "cannot read")?;
    let wrong = |e| Error::file(path, format!("is not a valid {kind}: {e}"));
    serde_json::from_str(&text).map_err(wrong)
}

/// Errors: a run directory that holds a run with other settings; the error names the first that differs.
fn check_same_settings(dir: &Path, recorded: &Config, config: &Config) -> Result<()> {
    let read = method::find(&config.method).map(|m| m.keys).unwrap_or_default();
    // A run records the precision that auto took.
    let precision = config.precision != PrecisionChoice::Auto;
    let matters = |key: &&Key| {
        let neutral = NEUTRAL.contains(&key.name) || (key.name == "precision" && !precision);
        !neutral && (key.group != METHOD_GROUP || read.contains(&key.name))
    };
    let Some(key) = KEYS.iter().filter(matters).find(|key| (key.get)(recorded) != (key.get)(config)) else {
        return Ok(());
    };
    let (name, had, wanted) = (key.name, key.text(recorded), key.text(config));
    let problem =
        format!("holds a run with {name} = {had}, not {wanted}; choose another --out, or delete it");
    Err(Error::file(dir, problem))
}
