//! Training: configuration, schedules, the epoch loop, checkpoints, the run directory.

pub mod average;
pub mod check_step;
pub mod checkpoint;
pub mod epoch_stats;
pub mod margins;
mod requirements;
pub mod schedule;
pub mod step;
mod trainer;
mod validate;

use crate::config::{Averaging, Config, recipe};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::method;
use crate::run::dir::{self, RunDir, Summary};
use crate::run::observer::Observer;
use average::Average;
pub use requirements::validate;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use trainer::Session;

/// What is to be trained.
pub struct Request {
    pub config: Config,
    /// The recipe's name, or what else the configuration came from.
    pub recipe: String,
    pub reference: recipe::Reference,
    /// The command line, for the records.
    pub command: String,
    /// A run directory to go on with; its recorded configuration replaces `config`, device excepted.
    pub resume: Option<PathBuf>,
}

/// What came of it.
pub struct Outcome {
    /// The run directory.
    pub dir: PathBuf,
    pub summary: Summary,
}

/// Trains, evaluates and records.
///
/// Errors: bad settings, data or devices before anything is written; [`Error::NotFinite`];
/// [`Error::Interrupted`] once `stop` is set.
pub fn run(request: &Request, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
    let began = Instant::now();
    let (config, recipe) = match &request.resume {
        Some(dir) => {
            let (config, recipe) = recorded(dir)?;
            (Config { device: request.config.device, ..config }, recipe)
        }
        None => (request.config.clone(), request.recipe.clone()),
    };
    validate(&config)?;
    let device = config.device.open()?;
    let mut session = Session::new(&device, &config, &recipe)?;
    let (dir, progress) = match &request.resume {
        Some(path) => {
            // A run that ended before its first checkpoint begins anew.
            let state = state_path(path);
            let progress = if state.exists() { session.load(&state)? } else { session.begin()? };
            (RunDir::resume(path, progress.epochs_done)?.0, progress)
        }
        None => {
            let root = config.out.clone().unwrap_or_else(|| fresh_folder(&recipe, config.seed));
            let record = record(request, &config, &recipe, &device);
            let progress = session.begin()?;
            (RunDir::create(&root, &record)?, progress)
        }
    };
    observer.started(&session.started(dir.root()));
    let summary = session.run(&dir, progress, began, observer, stop)?;
    observer.finished();
    let mut run = dir.read_run()?;
    run.insert("seconds".into(), json!(summary.seconds));
    dir.write_run(&run)?;
    Ok(Outcome { dir: dir.root().to_owned(), summary })
}

/// Where the state of a run is kept.
fn state_path(dir: &Path) -> PathBuf {
    dir.join("checkpoints/state.safetensors")
}

/// The configuration and recipe name of an earlier run.
///
/// Errors: no record, or one that holds no configuration.
pub fn recorded(dir: &Path) -> Result<(Config, String)> {
    let run = dir::read_run(dir)?;
    let lacks = || Error::file(&dir.join("run.json"), "holds no 'config'");
    let config = Config::from_json(run.get("config").and_then(Value::as_object).ok_or_else(lacks)?)?;
    let recipe = run.get("recipe").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((config, recipe))
}

fn record(request: &Request, config: &Config, recipe: &str, device: &Device) -> Map<String, Value> {
    let reference = &request.reference;
    let record = json!({
        "command": request.command,
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("SADDLE_COMMIT"),
        "recipe": recipe,
        "device": device.describe(),
        "driver": crate::device::cuda::driver_version(),
        "seed": config.seed,
        "config": config.to_json(),
        "reference": { "clean": reference.clean, "pgd20": reference.pgd20, "aa": reference.aa, "source": reference.source },
    });
    record.as_object().cloned().unwrap_or_default()
}

/// `runs/RECIPE-seedS`, with a number behind it when that is taken.
fn fresh_folder(recipe: &str, seed: u64) -> PathBuf {
    let stem: String =
        recipe.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let name = |n: usize| {
        PathBuf::from("runs").join(if n == 1 {
            format!("{stem}-seed{seed}")
        } else {
            format!("{stem}-seed{seed}-{n}")
        })
    };
    (1..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(1))
}

impl Config {
    /// How the network is averaged, if a key or the method asks for it.
    pub fn averaging(&self, method: &method::Entry) -> Option<Average> {
        let kind = match self.average {
            Averaging::None if method.averaged => Averaging::Ema,
            kind => kind,
        };
        let average = Average { kind, decay: self.average_decay, start: self.average_start_epoch };
        (kind != Averaging::None).then_some(average)
    }
}
