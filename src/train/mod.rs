//! Training: steps, the epoch loop, learning-rate schedules, averages, checkpoints.

pub mod average;
pub mod captured;
pub mod check_step;
mod checkpoint;
mod close_epoch;
mod epoch;
mod epoch_log;
mod epoch_stats;
pub mod rehearsal;
mod requirements;
mod resume;
mod run;
pub mod schedule;
pub mod step;
mod step_report;
mod trainer;
mod validate;

use crate::config::{Config, KEYS, Key, PrecisionChoice, recipe};
use crate::error::Result;
use crate::run::dir::{RunDir, Summary};
use crate::run::observer::Observer;
use crate::run::provenance::Provenance;
pub use requirements::validate;
use run::Run;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use trainer::Trainer;

/// A training job.
pub struct TrainJob {
    pub config: Config,
    /// The recipe's name, or another source of the configuration.
    pub recipe: String,
    pub reference: recipe::Reference,
    /// The command line, for the records.
    pub command: String,
    /// The interrupted run to resume, whose configuration is `config` except for the device.
    pub resume: Option<RunDir>,
}

/// A run that has come to its end.
pub struct TrainedRun {
    /// The run directory.
    pub dir: PathBuf,
    pub summary: Summary,
}

/// Trains, evaluates and records. A run that fails before it has saved anything leaves nothing behind.
///
/// Errors: bad settings, data or devices before anything is written; a folder that another process has;
/// a run to resume whose data, state or checkpoints have changed;
/// [`Error::NotFinite`](crate::Error::NotFinite); [`Error::Interrupted`](crate::Error::Interrupted) once
/// `stop` is set.
pub fn run(job: &TrainJob, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<TrainedRun> {
    let began = Instant::now();
    let TrainJob { config, recipe, .. } = job;
    validate(config)?;
    let begun = job.resume.clone().map(RunDir::take).transpose()?;
    let device = config.device.open()?;
    let config =
        &Config { precision: PrecisionChoice::Fixed(config.precision.on(&device)), ..config.clone() };
    let mut trainer = Trainer::new(&device, config, recipe)?;
    let dir = match begun {
        Some(dir) => trainer.take_up(dir, observer)?,
        None => {
            trainer.begin()?;
            let record = record(job, &trainer);
            match &config.out {
                Some(root) => RunDir::create(root, record)?,
                None => RunDir::create_numbered(&default_folder(recipe, config.seed), record)?,
            }
        }
    };
    observer.started(&trainer.started(dir.root()));
    let earlier = trainer.progress.seconds;
    let mut run = Run { dir, observer, stop, began, earlier };
    let summary = match trainer.run(&mut run) {
        Err(error) if job.resume.is_none() => {
            run.dir.discard();
            return Err(error);
        }
        ended => ended?,
    };
    run.observer.finished();
    run.dir.add_fact("seconds", json!(summary.seconds))?;
    Ok(TrainedRun { dir: run.dir.root().to_owned(), summary })
}

/// The content of `run.json`.
fn record(job: &TrainJob, trainer: &Trainer) -> Map<String, Value> {
    let TrainJob { recipe, reference, command, .. } = job;
    let config = trainer.config;
    let Provenance { saddle, commit, command, date, device, driver, nvrtc } =
        Provenance::now(&trainer.device, command);
    let record = json!({
        "command": command,
        "version": saddle,
        "commit": commit,
        "date": date,
        "recipe": recipe,
        "device": device,
        "driver": driver,
        "nvrtc": nvrtc,
        "seed": config.seed,
        "config": with_absolute_paths(config.clone()).to_json(),
        "data": trainer.data,
        "reference": reference,
    });
    record.as_object().cloned().unwrap_or_default()
}

/// The configuration with paths that mean the same in every folder.
pub fn with_absolute_paths(mut config: Config) -> Config {
    for path in [&mut config.data, &mut config.init].into_iter().flatten() {
        // Only an empty path has no absolute one.
        *path = std::path::absolute(&*path).unwrap_or_default();
    }
    config
}

/// Keys that do not affect whether a result can be compared with a recipe's reference accuracies.
const NEUTRAL: &[&str] =
    &["device", "precision", "graphs", "seed", "data", "out", "checkpoint_every", "log_every"];

/// The keys in which `config` differs from a recipe's so that the recipe's reference accuracies are not for
/// it.
pub fn changed_keys(config: &Config, recipe: &Config) -> Vec<&'static str> {
    let differ = |key: &&Key| !NEUTRAL.contains(&key.name) && (key.get)(config) != (key.get)(recipe);
    KEYS.iter().filter(differ).map(|key| key.name).collect()
}

/// `runs/RECIPE-seedS`.
fn default_folder(recipe: &str, seed: u64) -> PathBuf {
    let stem: String =
        recipe.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    PathBuf::from(format!("runs/{stem}-seed{seed}"))
}
