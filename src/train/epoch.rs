//! The steps of an epoch. The first goes directly; then a step is captured, and the graph is replayed for all
//! other whole batches. Everything in which these differ lies in device memory: their images, their learning
//! rates, their reports.

use super::run::Run;
use super::step::{Batch, Models, Sgd, StepConfig, train_step};
use super::step_report::{StepReport, StepReports};
use super::trainer::Trainer;
use crate::config::{Config, Graphs};
use crate::data::device_dataset::shuffled;
use crate::device::Graph;
use crate::error::{Error, Result, ensure};
use crate::method::draw_mix;
use crate::nn::Net;
use crate::ops::feed::{Feed, Portion};
use crate::run::observer::StepInfo;
use std::time::Instant;

/// Steps between two looks at the reports on a GPU, where each look waits for the device.
const LOOK_EVERY: usize = 32;

/// What the steps of an epoch work on.
struct EpochSteps {
    /// 0-based.
    epoch: usize,
    feed: Feed,
    /// Steps with a whole batch; another one, with the rest of the images, may follow.
    whole: usize,
    /// Of whole batches, and of the last one.
    lanes: [Lane; 2],
    /// Steps to the next look at the reports, and those that were not looked at yet.
    look_every: usize,
    pending: Vec<usize>,
    replays: bool,
    captured: Option<CapturedStep>,
}

/// Steps with batches of one size.
struct Lane {
    portion: Portion,
    /// `None` before the first step.
    reports: Option<StepReports>,
}

/// A step that can be repeated.
struct CapturedStep {
    graph: Graph,
    /// Passes in train mode of the network and of its average.
    passes: [i64; 2],
}

impl EpochSteps {
    fn new(trainer: &Trainer, epoch: usize) -> Result<EpochSteps> {
        let Trainer { config, device, train, .. } = trainer;
        let (steps, batch) = (trainer.steps_per_epoch(), config.batch);
        let time = |step| epoch as f64 + (step as f64 + config.lr_step_at.fraction()) / steps as f64;
        let rates: Vec<f32> = (0..steps).map(|step| trainer.lr(time(step)) as f32).collect();
        let mixes: Vec<f32> = (0..steps).map(|step| draw_mix(config, epoch, step)).collect();
        let order = shuffled(train.len, config.seed, epoch);
        let next = trainer.progress.steps_done;
        let lane = |n| Ok(Lane { portion: Portion::uninit(device, n)?, reports: None });
        Ok(EpochSteps {
            epoch,
            feed: Feed::new(device, &order, batch, &rates, &mixes, next)?,
            whole: train.len / batch,
            lanes: [lane(batch.min(train.len))?, lane(train.len % batch)?],
            look_every: if device.is_host() { 1 } else { LOOK_EVERY },
            pending: Vec::new(),
            replays: match config.graphs {
                Graphs::Auto => !device.is_host(),
                Graphs::On => true,
                Graphs::Off => false,
            },
            captured: None,
        })
    }

    /// The reports of the steps that were not looked at yet; waits for the device.
    fn look(&mut self) -> Result<Vec<(usize, StepReport)>> {
        let steps = std::mem::take(&mut self.pending);
        let of_whole = steps.partition_point(|step| *step < self.whole);
        let mut reports = Vec::with_capacity(steps.len());
        for (lane, steps) in self.lanes.iter().zip([&steps[..of_whole], &steps[of_whole..]]) {
            if let (Some(entered), false) = (&lane.reports, steps.is_empty()) {
                reports.extend(steps.iter().copied().zip(entered.read(steps)?));
            }
        }
        Ok(reports)
    }
}

impl Trainer<'_> {
    /// The steps of an epoch, counted from 0, that are still to do.
    pub(super) fn epoch(&mut self, run: &mut Run, epoch: usize) -> Result<()> {
        let mut steps = EpochSteps::new(self, epoch)?;
        let count = self.steps_per_epoch();
        let mut looked = Instant::now();
        for step in self.progress.steps_done..count {
            self.step(&mut steps, step)?;
            if steps.pending.len() < steps.look_every && step + 1 < count && !run.is_stopped() {
                continue;
            }
            let loss = self.look(run, &mut steps)?;
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

    /// One step, directly or replayed.
    fn step(&mut self, steps: &mut EpochSteps, step: usize) -> Result<()> {
        steps.pending.push(step);
        if step >= steps.whole {
            // Gives the memory to the last batch, whose sizes are others.
            steps.captured = None;
            return self.launch(steps, 1);
        }
        // The first step makes what exists after every step: momenta, and the place of the reports.
        if !steps.replays || steps.lanes[0].reports.is_none() {
            return self.launch(steps, 0);
        }
        let captured = match steps.captured.take() {
            Some(captured) => captured,
            None => self.capture(steps)?,
        };
        captured.graph.replay()?;
        for (net, passes) in self.nets().zip(captured.passes) {
            net.train_passes += passes;
        }
        steps.captured = Some(captured);
        Ok(())
    }

    /// Launches a step: batch, attack, loss, gradients, update, report.
    fn launch(&mut self, steps: &mut EpochSteps, lane: usize) -> Result<()> {
        let &mut EpochSteps { epoch, ref mut feed, ref mut lanes, look_every, .. } = steps;
        let (config, Lane { portion, reports }) = (self.config, &mut lanes[lane]);
        feed.take(self.train.labels(), portion)?;
        let Portion { images, labels, lr, mix } = portion;
        let augmentation = config.augmentation((self.method.views)(config), epoch);
        let x = self.train.images(images, &augmentation)?;
        let batch = Batch { x: &x, y: labels, images, mix };
        let step_config = StepConfig { method: self.method, set: config, epoch };
        let &Config { momentum, weight_decay, .. } = config;
        let mut models = Models { net: &mut self.net, wa: self.wa.as_mut() };
        let sgd = Sgd { lr, momentum, weight_decay };
        let output = train_step(&mut models, &batch, &step_config, sgd, self.average.as_ref())?;
        let reports = match reports {
            Some(reports) => reports,
            none => none.insert(StepReports::new(&output, images.len(), look_every)?),
        };
        reports.enter(feed.at(), &output)
    }

    /// Captures a step with a whole batch.
    ///
    /// Errors: the step leaves a tensor of a network elsewhere than it found it, so that it cannot be
    /// repeated.
    fn capture(&mut self, steps: &mut EpochSteps) -> Result<CapturedStep> {
        let state = |net: &mut Net| (net.train_passes, net.params.addresses());
        // The copies of weights that a step reads are made in it.
        let before: Vec<_> = self.nets().map(|net| (net.params.drop_copies(), state(net)).1).collect();
        let device = self.device.clone();
        let graph = device.capture(|| self.launch(steps, 0))?;
        let mut passes = [0; 2];
        for ((net, (count, addresses)), passes) in self.nets().zip(before).zip(&mut passes) {
            // Copies that were made in it belong to its replays.
            net.params.drop_copies();
            let moved = || Error::Internal { what: "a captured step moves a tensor of the network".into() };
            ensure(net.params.addresses() == addresses, moved)?;
            *passes = net.train_passes - count;
            net.train_passes = count;
        }
        Ok(CapturedStep { graph, passes })
    }

    /// The network, and its average if there is one.
    fn nets(&mut self) -> impl Iterator<Item = &mut Net> {
        [Some(&mut self.net), self.wa.as_mut()].into_iter().flatten()
    }

    /// Adds the reports of finished steps to the epoch's; the last loss is returned. Errors: a loss that is
    /// not a number.
    fn look(&mut self, run: &Run, steps: &mut EpochSteps) -> Result<f32> {
        let mut last = f32::NAN;
        for (step, report) in steps.look()? {
            last = report.loss;
            if !last.is_finite() {
                return Err(run.not_finite(last, steps.epoch, step + 1, &self.progress));
            }
            self.progress.stats.add(&report);
            self.progress.images_trained += report.images;
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
