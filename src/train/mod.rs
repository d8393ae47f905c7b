//! Training: steps, the epoch loop, learning-rate schedules, averages, checkpoints.

pub mod average;
pub mod check_step;
mod checkpoint;
mod close_epoch;
mod epoch_log;
mod epoch_stats;
mod requirements;
mod run;
pub mod schedule;
pub mod step;
mod trainer;
mod validate;

use crate::config::Config;
use crate::config::recipe;
use crate::device::Device;
use crate::error::Result;
use crate::run::dir::{RunDir, Summary};
use crate::run::observer::Observer;
pub use requirements::validate;
use run::Run;
use serde_json::{Map, Value, json};
use std::iter;
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

/// Trains, evaluates and records.
///
/// Errors: bad settings, data or devices before anything is written;
/// [`Error::NotFinite`](crate::Error::NotFinite); [`Error::Interrupted`](crate::Error::Interrupted) once
/// `stop` is set.
pub fn run(job: &TrainJob, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<TrainedRun> {
    let began = Instant::now();
    let TrainJob { config, recipe, .. } = job;
    validate(config)?;
    let device = config.device.open()?;
    let mut trainer = Trainer::new(&device, config, recipe)?;
    let dir = match &job.resume {
        Some(dir) => {
            // A run that ended before its first checkpoint begins anew.
            if dir.state().exists() {
                trainer.resume(&dir.state())?
            } else {
                trainer.begin()?
            }
            dir.forget_after(trainer.progress.epochs_done)?;
            dir.clone()
        }
        None => {
            let root = config.out.clone().unwrap_or_else(|| fresh_folder(recipe, config.seed));
            trainer.begin()?;
            RunDir::create(&root, record(job, &device))?
        }
    };
    observer.started(&trainer.started(dir.root()));
    let earlier = trainer.progress.seconds;
    let mut run = Run { dir, observer, stop, began, earlier };
    let summary = trainer.run(&mut run)?;
    run.observer.finished();
    run.dir.add_fact("seconds", json!(summary.seconds))?;
    Ok(TrainedRun { dir: run.dir.root().to_owned(), summary })
}

/// The content of `run.json`.
fn record(job: &TrainJob, device: &Device) -> Map<String, Value> {
    let TrainJob { config, recipe, reference, command, .. } = job;
    let record = json!({
        "command": command,
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("SADDLE_COMMIT"),
        "recipe": recipe,
        "device": device.describe(),
        "driver": crate::device::cuda::driver_version(),
        "seed": config.seed,
        "config": config.to_json(),
        "reference": reference,
    });
    record.as_object().cloned().unwrap_or_default()
}

/// `runs/RECIPE-seedS`, or with a number after it when that is taken.
fn fresh_folder(recipe: &str, seed: u64) -> PathBuf {
    let stem: String =
        recipe.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let first = PathBuf::from(format!("runs/{stem}-seed{seed}"));
    let others = (2..).map(|n| PathBuf::from(format!("runs/{stem}-seed{seed}-{n}")));
    iter::once(first.clone()).chain(others).find(|path| !path.exists()).unwrap_or(first)
}
