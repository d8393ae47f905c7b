//! Training: steps, the epoch loop, learning-rate schedules, averages, checkpoints.

pub mod average;
pub mod check_step;
mod checkpoint;
mod close_epoch;
mod epoch_log;
mod epoch_stats;
mod run;
pub mod schedule;
pub mod step;
mod trainer;
mod validate;

use crate::attack;
use crate::config::{Config, options, recipe};
use crate::device::Device;
use crate::error::Result;
use crate::method::Method;
use crate::method::settings::{Inner, Settings};
use crate::nn::BnMode;
use crate::ops::augment::{Augmentation, Padding};
use crate::run::dir::{RunDir, Summary};
use crate::run::observer::Observer;
use average::Average;
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
    /// An interrupted run to go on with, whose configuration `config` is, device excepted.
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
/// Errors: bad settings, data or devices before anything is written; [`Error::NotFinite`](crate::Error::NotFinite);
/// [`Error::Interrupted`](crate::Error::Interrupted) once `stop` is set.
pub fn run(job: &TrainJob, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<TrainedRun> {
    let began = Instant::now();
    let TrainJob { config, recipe, .. } = job;
    config.validate()?;
    let device = Device::by_name(&config.device.to_string())?;
    let mut trainer = Trainer::new(&device, config, recipe)?;
    let dir = match &job.resume {
        Some(dir) => {
            // A run that ended before its first checkpoint begins anew.
            if dir.state().exists() {
                trainer.resume(&dir.state())?
            } else {
                trainer.begin()?
            }
            dir.forget_after(trainer.progress().epochs_done)?;
            dir.clone()
        }
        None => {
            let root = config.out.clone().unwrap_or_else(|| fresh_folder(recipe, config.seed));
            trainer.begin()?;
            RunDir::create(&root, record(job, &device))?
        }
    };
    observer.started(&trainer.started(dir.root()));
    let earlier = trainer.progress().seconds;
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
        "reference": { "clean": reference.clean, "pgd20": reference.pgd20, "aa": reference.aa, "source": reference.source },
    });
    record.as_object().cloned().unwrap_or_default()
}

/// `runs/RECIPE-seedS`, or with a number after it when that is taken.
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
    /// The settings of the method.
    pub fn settings(&self) -> Settings {
        let inner = Inner {
            ball: attack::Ball { norm: self.norm.into(), eps: self.eps.get() },
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
    pub fn averaging(&self, method: &Method) -> Option<Average> {
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

    /// The augmentation of training images.
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
