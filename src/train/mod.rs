//! Training: configuration, schedules, the epoch loop, checkpoints, the run directory.

pub mod average;
pub mod check_step;
pub mod checkpoint;
pub mod epoch_stats;
pub mod margins;
pub mod schedule;
pub mod step;
mod trainer;
mod validate;

use crate::attack;
use crate::config::{Config, options, recipe};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::method;
use crate::method::settings::{Inner, Settings};
use crate::nn::BnMode;
use crate::ops::augment::{Augmentation, Padding};
use crate::run::dir::{self, RunDir, Summary};
use crate::run::observer::Observer;
use average::Average;
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
    config.validate()?;
    let device = Device::by_name(&config.device.to_string())?;
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

impl From<options::Norm> for attack::Norm {
    fn from(norm: options::Norm) -> attack::Norm {
        match norm {
            options::Norm::Linf => attack::Norm::Linf,
            options::Norm::L2 => attack::Norm::L2,
        }
    }
}

impl Config {
    /// What the method is told.
    pub fn settings(&self) -> Settings {
        let inner = Inner {
            norm: self.norm.into(),
            eps: self.eps.get(),
            step: self.step.get(),
            steps: self.steps,
            start: match self.start {
                options::Start::Method => None,
                options::Start::Uniform => Some(attack::Start::Uniform),
                options::Start::Zero => Some(attack::Start::Clean),
            },
            bn: match self.attack_bn {
                options::AttackBn::Method => None,
                options::AttackBn::Eval => Some(BnMode::Eval),
                options::AttackBn::Batch => Some(BnMode::Batch),
                options::AttackBn::Train => Some(BnMode::Train),
            },
        };
        Settings {
            inner,
            epochs: self.epochs,
            variant: self.variant,
            base: self.base,
            beta: self.beta as f32,
            lambda: self.lambda as f32,
            base_lambda: self.base_lambda as f32,
            temperature: self.temperature as f32,
            rho: self.rho as f32,
            a: self.a as f32,
            rpat_start_epoch: self.rpat_start_epoch,
            trades_passes: self.trades_passes,
            start_sigma: self.start_sigma as f32,
            mix_beta: self.mix_beta,
            wa_mode: self.wa_mode,
            average_start: self.average_start,
            late_epoch: self.late_epoch,
            late_eps: self.late_eps.get(),
            late_steps: self.late_steps,
            tau: self.tau as f32,
            contrast: self.contrast,
            joint_attack: self.joint_attack,
            stage: self.stage,
            linear_epochs: self.linear_epochs,
            linear_on: self.linear_on,
            rho_boundary: self.rho_boundary as f32,
            rho_other: self.rho_other as f32,
        }
    }

    /// How the network is averaged, if a key or the method asks for it.
    pub fn averaging(&self, method: &method::Entry) -> Option<Average> {
        let kind = match self.average {
            options::Averaging::None if method.averaged => options::Averaging::Ema,
            kind => kind,
        };
        let average = Average { kind, decay: self.average_decay as f32, start: self.average_start };
        (kind != options::Averaging::None).then_some(average)
    }

    /// Adversarial weight perturbation's gamma in an epoch counted from 0.
    pub fn awp(&self, epoch: usize) -> f32 {
        if epoch >= self.awp_start { self.awp_gamma as f32 } else { 0.0 }
    }

    /// What happens to training images on their way into a batch.
    pub fn augmentation(&self, views: usize, epoch: usize) -> Augmentation {
        let cropped = Augmentation::crop_flip(self.crop_padding, self.seed, epoch as u32).padded(match self
            .crop_fill
        {
            options::CropFill::Zero => Padding::Zero,
            options::CropFill::Reflect => Padding::Reflect,
        });
        let augmentation = match self.augment {
            options::Augment::None => Augmentation::none(),
            options::Augment::Crop => Augmentation { flip: false, ..cropped },
            options::Augment::CropFlip => cropped,
        };
        augmentation.views(views)
    }
}
