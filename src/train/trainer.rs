//! One run: its networks, its data, and the loop over its epochs.

use super::average::Average;
use super::checkpoint::Progress;
use super::run::Run;
use super::schedule::lr;
use crate::config::{Augment, Config, Select};
use crate::data::device_dataset::DeviceDataset;
use crate::data::{self, Dataset, ImageShape, Split};
use crate::device::Device;
use crate::error::{Error, Result, ensure};
use crate::method::{self, Method};
use crate::nn::{Arch, Net, Shape};
use crate::ops::augment::Padding;
use crate::run::dir::Summary;
use crate::run::network::{initial_weights, load};
use crate::run::observer::Started;
use serde_json::{Map, Value, json};
use std::path::Path;

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
        Trainer::on(device, config, recipe, || data::load(&config.dataset, config.data.as_deref()))
    }

    /// [`Trainer::new`] with these data; writes nothing.
    pub(super) fn on(
        device: &Device,
        config: &'a Config,
        recipe: &'a str,
        data: impl FnOnce() -> Result<Split>,
    ) -> Result<Trainer<'a>> {
        let method = method::find(&config.method)?;
        let arch = Arch::find(&config.model)?;
        let split = data()?;
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
        let precision = config.precision.on(device);
        let new_net = || {
            let mut net = Net::new(device, arch, &shape, config.seed)?;
            net.set_precision(precision);
            Ok::<Net, Error>(net)
        };
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
}
