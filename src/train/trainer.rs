//! One run: its networks, its data, the epoch loop and its steps.

use super::average::Average;
use super::checkpoint::Progress;
use super::run::Run;
use super::schedule::lr;
use super::step::{Batch, Models, Sgd, StepConfig, StepOutput, train_step};
use crate::config::{Augment, Config, Select};
use crate::data::device_dataset::{DeviceDataset, shuffled};
use crate::data::{self, Dataset, ImageShape};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result, ensure};
use crate::method::{self, Method};
use crate::nn::{Arch, Net, Shape};
use crate::ops::augment::Padding;
use crate::run::dir::Summary;
use crate::run::network::{initial_weights, load};
use crate::run::observer::{Started, StepInfo};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;

/// Steps between two looks at the losses on a GPU, where each look waits for the device.
const LOOK_EVERY: usize = 32;

/// Everything that a run holds in memory.
pub struct Trainer<'a> {
    pub(super) device: Device,
    pub(super) config: &'a Config,
    pub(super) recipe: &'a str,
    pub(super) method: &'static Method,
    pub(super) net: Net,
    /// The average of the network's weights, which is the network that is evaluated and saved.
    pub(super) wa: Option<Net>,
    pub(super) average: Option<Average>,
    pub(super) shape: Shape,
    pub(super) dataset: String,
    /// What the run's data are: number, shape and fingerprint of the images to train and to test on.
    pub(super) data: Map<String, Value>,
    pub(super) train: DeviceDataset,
    /// The images that choose the best epoch, if one is chosen.
    pub(super) selection: Option<DeviceDataset>,
    pub(super) test: DeviceDataset,
    pub(super) progress: Progress,
}

/// A step whose loss has not been looked at yet.
struct Pending {
    step: usize,
    images: usize,
    output: StepOutput,
}

/// What images are, for comparison with what they were: `1437 of 8x8x1, 0123456789abcdef`.
fn data_facts(images: &Dataset) -> String {
    let ImageShape { height, width, channels } = images.shape;
    format!("{} of {height}x{width}x{channels}, {}", images.len(), images.fingerprint())
}

/// Errors: images of this size cannot be padded as much as the configuration asks.
fn check_crop(config: &Config, ImageShape { height, width, .. }: ImageShape) -> Result<()> {
    let pad = config.crop_padding;
    let wrong = |problem: &str| {
        let problem = format!("{problem}; the images have {height}x{width} pixels");
        Error::value("crop_padding", pad, problem)
    };
    let cropped = config.augment != Augment::None;
    let largest = (i32::MAX as usize - height.max(width)) / 2;
    ensure(!cropped || pad <= largest, || wrong(&format!("must be at most {largest}")))?;
    let mirrored = cropped && config.padding_mode == Padding::Reflect;
    ensure(!mirrored || pad < height.min(width), || wrong("reflection needs less than the image's side"))
}

impl<'a> Trainer<'a> {
    /// Loads data and builds the network; writes nothing.
    pub fn new(device: &Device, config: &'a Config, recipe: &'a str) -> Result<Trainer<'a>> {
        let method = method::find(&config.method)?;
        let arch = Arch::find(&config.model)?;
        let split = data::load(&config.dataset, config.data.as_deref())?;
        ensure(!split.train.is_empty(), || {
            Error::value("dataset", &config.dataset, "has no images to train on; x_adv is for tests only")
        })?;
        let facts = [("training images", &split.train), ("test images", &split.test)];
        let data =
            facts.map(|(key, images)| (key.to_owned(), json!(data_facts(images)))).into_iter().collect();
        check_crop(config, split.train.shape)?;
        let (train, selection) = match config.select {
            Select::Heldout => {
                split.train.hold_out(config.held_out, config.seed).map(|(train, held)| (train, Some(held)))?
            }
            Select::Test => (split.train, Some(split.test.clone())),
            Select::Last => (split.train, None),
        };
        let (ImageShape { channels, height, .. }, classes) = (train.shape, train.classes);
        let (mean, std) = (config.mean.clone(), config.std.clone());
        let shape = Shape { channels, height, classes, mean, std };
        let new_net = || Net::new(device, arch, &shape, config.seed);
        let average = Average::of(config, method);
        Ok(Trainer {
            device: device.clone(),
            config,
            recipe,
            method,
            net: new_net()?,
            wa: average.map(|_| new_net()).transpose()?,
            average,
            shape,
            dataset: train.name.clone(),
            data,
            train: DeviceDataset::new(device, &train)?,
            selection: selection.map(|s| DeviceDataset::new(device, &s)).transpose()?,
            test: DeviceDataset::new(device, &split.test)?,
            progress: Progress::default(),
        })
    }

    /// Takes the initial weights from the file that `init` names, if it names one.
    pub fn begin(&mut self) -> Result<()> {
        if let Some(path) = &self.config.init {
            let file = initial_weights(path, &self.shape)?;
            for net in [Some(&mut self.net), self.wa.as_mut()].into_iter().flatten() {
                load(net, &self.device, &file)?;
            }
        }
        Ok(())
    }

    /// The facts about the run that are reported before its first step.
    pub fn started(&self, out: &Path) -> Started {
        Started {
            device: self.device.describe(),
            model: self.config.model.clone(),
            parameters: self.net.params.count(),
            method: self.config.method.clone(),
            dataset: self.dataset.clone(),
            train: self.train.len,
            held_out: self.selection.as_ref().map_or(0, |s| s.len),
            test: self.test.len,
            epochs: self.config.epochs,
            steps_per_epoch: self.steps_per_epoch(),
            out: Some(out.to_owned()),
        }
    }

    /// The learning rate at a fractional epoch.
    pub(super) fn lr(&self, time: f64) -> f64 {
        lr(self.config, (self.method.pretraining)(self.config), time)
    }

    pub(super) fn steps_per_epoch(&self) -> usize {
        self.train.len.div_ceil(self.config.batch)
    }

    /// Trains to the end, evaluates, and writes the summary.
    pub fn run(&mut self, run: &mut Run) -> Result<Summary> {
        for epoch in self.progress.epochs_done..self.config.epochs {
            let finished = self.epoch(run, epoch).and_then(|()| self.close_epoch(run, epoch));
            self.progress.seconds = run.seconds();
            if matches!(finished, Err(Error::Interrupted { .. })) {
                self.save_state(run)?;
            }
            finished?;
            self.progress.next_epoch();
            self.save_state(run)?;
        }
        self.conclude(run)
    }

    /// The steps of one epoch that are still to do.
    fn epoch(&mut self, run: &mut Run, epoch: usize) -> Result<()> {
        let (config, steps) = (self.config, self.steps_per_epoch());
        let batches = shuffled(&self.device, self.train.len, config.batch, config.seed, epoch)?;
        let look_every = if self.device.is_host() { 1 } else { LOOK_EVERY };
        let mut pending = Vec::new();
        let mut looked = Instant::now();
        for (step, indices) in batches.iter().enumerate().skip(self.progress.steps_done) {
            pending.push(self.step(epoch, step, indices)?);
            if pending.len() < look_every && step + 1 < steps && !run.is_stopped() {
                continue;
            }
            let loss = self.look(run, epoch, &mut pending)?;
            self.progress.add_seconds(looked.elapsed().as_secs_f64());
            looked = Instant::now();
            self.progress.steps_done = step + 1;
            run.observer.step(&self.step_info(epoch, step, loss));
            if run.is_stopped() {
                return Err(run.interrupted(&format!("epoch {}, step {}", epoch + 1, step + 1)));
            }
        }
        Ok(())
    }

    /// One training step: batch, attack, loss, gradients, update.
    fn step(&mut self, epoch: usize, step: usize, indices: &Buffer<i32>) -> Result<Pending> {
        let config = self.config;
        let time =
            epoch as f64 + (step as f64 + config.lr_step_at.fraction()) / self.steps_per_epoch() as f64;
        let augmentation = config.augmentation((self.method.views)(config), epoch);
        let (x, y) = self.train.batch(indices, &augmentation)?;
        let batch = Batch { x: &x, y: &y, images: indices, index: step };
        let step_config = StepConfig { method: self.method, set: config, epoch };
        let &Config { momentum, weight_decay, .. } = config;
        let lr = Buffer::from_slice(&self.device, &[self.lr(time) as f32])?;
        let sgd = Sgd { lr: &lr, momentum, weight_decay };
        let mut models = Models { net: &mut self.net, wa: self.wa.as_mut() };
        let output = train_step(&mut models, &batch, &step_config, sgd, self.average.as_ref())?;
        Ok(Pending { step, images: indices.len(), output })
    }

    /// Reads the losses of finished steps; the last one is returned. Errors: a loss that is not a number.
    fn look(&mut self, run: &Run, epoch: usize, pending: &mut Vec<Pending>) -> Result<f32> {
        let mut last = f32::NAN;
        for Pending { step, images, output } in pending.drain(..) {
            last = output.loss.item()?;
            if !last.is_finite() {
                return Err(run.not_finite(last, epoch, step + 1, &self.progress));
            }
            self.progress.stats.add(images, last, &output)?;
            self.progress.images_trained += images;
        }
        Ok(last)
    }

    /// The report of a step, both counted from 0.
    fn step_info(&self, epoch: usize, step: usize, loss: f32) -> StepInfo {
        let (Config { epochs, batch, .. }, images) = (self.config, self.train.len);
        let left = (epochs - epoch) * images - ((step + 1) * batch).min(images);
        let images_per_s = self.progress.images_per_s();
        StepInfo {
            epoch: epoch + 1,
            epochs: *epochs,
            step: step + 1,
            steps: self.steps_per_epoch(),
            loss,
            images_per_s,
            seconds_left: left as f64 / images_per_s,
        }
    }
}
