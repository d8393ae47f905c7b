//! Training: configuration, schedules, the epoch loop, checkpoints, the run directory.

pub mod checkpoint;
pub mod choice;
pub mod config;
mod judge;
pub mod observer;
pub mod recipe;
pub mod rundir;
pub mod schedule;
mod session;
pub mod setting;
pub mod step;
pub mod weights;

use crate::attack;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::BnMode;
use checkpoint::Progress;
use config::Config;
use observer::Observer;
use rundir::{RunDir, Summary};
use serde_json::{Map, Value, json};
use session::Session;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

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
/// Errors: bad settings, data or devices before anything is written; [`Error::NotFinite`]; [`Error::Interrupted`] once `stop` is set.
pub fn run(request: &Request, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
    let began = Instant::now();
    let (config, recipe) = match &request.resume {
        Some(dir) => recorded(dir, &request.config)?,
        None => (request.config.clone(), request.recipe.clone()),
    };
    config.validate()?;
    let device = Device::by_name(&config.device.to_string())?;
    let mut session = Session::new(&device, &config, &recipe)?;
    let (dir, progress) = match &request.resume {
        Some(path) => {
            // A run that ended before its first checkpoint begins anew.
            let state = state_path(path);
            let progress = match state.exists() {
                true => checkpoint::load_state(session.net_mut(), &device, &state)?,
                false => Progress::default(),
            };
            (RunDir::resume(path, progress.epochs_done)?.0, progress)
        }
        None => {
            let root = config.out.clone().unwrap_or_else(|| fresh_folder(&recipe, config.seed));
            let record = record(request, &config, &recipe, &device);
            (RunDir::create(&root, &record)?, Progress::default())
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
fn recorded(dir: &Path, given: &Config) -> Result<(Config, String)> {
    let path = dir.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "cannot read the record of the run to resume"))?;
    let run: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("not a JSON object: {e}")))?;
    let settings = run.get("config").and_then(Value::as_object).ok_or_else(|| Error::file(&path, "holds no 'config'"))?;
    let mut config = Config::from_json(settings)?;
    config.device = given.device;
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
    let stem: String = recipe.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let name = |n: usize| {
        PathBuf::from("runs").join(if n == 1 { format!("{stem}-seed{seed}") } else { format!("{stem}-seed{seed}-{n}") })
    };
    (1..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(1))
}

impl From<choice::Norm> for attack::Norm {
    fn from(norm: choice::Norm) -> attack::Norm {
        match norm {
            choice::Norm::Linf => attack::Norm::Linf,
            choice::Norm::L2 => attack::Norm::L2,
        }
    }
}

impl Config {
    /// The inner attack of training.
    pub fn attack(&self) -> attack::Pgd {
        attack::Pgd {
            norm: self.norm.into(),
            eps: self.eps.get(),
            step: self.step.get(),
            steps: self.steps,
            start: match self.start {
                choice::Start::Uniform => attack::Start::Uniform,
                choice::Start::Zero => attack::Start::Clean,
            },
            bn: match self.attack_bn {
                choice::AttackBn::Eval => BnMode::Eval,
                choice::AttackBn::Batch => BnMode::Batch,
                choice::AttackBn::Train => BnMode::Train,
            },
        }
    }
}
