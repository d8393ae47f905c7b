//! The steps of an epoch. The first goes directly; then a step is captured, and the graph is replayed for all
//! other whole batches. Everything in which these differ lies in device memory: their images, their learning
//! rates, their reports.

use super::captured::{CapturedStep, Networks};
use super::run::Run;
use super::step::{Batch, Models, Sgd, StepConfig, train_step};
use super::step_report::{StepReport, StepReports};
use super::trainer::Trainer;
use crate::config::{Config, Graphs};
use crate::data::device_dataset::shuffled;
use crate::device::trace::Range;
use crate::error::Result;
use crate::method::draw_mix;
use crate::nn::Net;
use crate::ops::feed::{Feed, Portion};
use crate::run::observer::StepInfo;
use std::time::Instant;

/// Steps between two looks at the reports on a GPU, where each look waits for the device.
const LOOK_EVERY: usize = 32;

/// What the steps of an epoch work on.
pub(super) struct EpochSteps {
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

impl EpochSteps {
    pub(super) fn new(trainer: &Trainer, epoch: usize) -> Result<EpochSteps> {
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
            // A trace hears launches, not what a replay repeats.
            replays: !device.is_traced()
                && match config.graphs {
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

impl Networks for Trainer<'_> {
    fn nets(&mut self) -> impl Iterator<Item = &mut Net> {
        [Some(&mut self.net), self.wa.as_mut()].into_iter().flatten()
    }
}

impl Trainer<'_> {
    /// The steps of an epoch, counted from 0, that are still to do.
    pub(super) fn epoch(&mut self, run: &mut Run, epoch: usize) -> Result<()> {
        let device = self.device.clone();
        let _epoch = device.scope(Range::Epoch(epoch + 1));
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
    pub(super) fn step(&mut self, steps: &mut EpochSteps, step: usize) -> Result<()> {
        let device = self.device.clone();
        let _step = device.scope(Range::Step(steps.epoch * self.steps_per_epoch() + step + 1));
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
            None => CapturedStep::of(&device, self, |trainer| trainer.launch(steps, 0))?,
        };
        captured.replay(self)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::testing::fast_devices;
    use crate::method::METHODS;

    /// A job on 300 digits with three whole batches and one of 30 images.
    fn config(method: &str, graphs: &str) -> Config {
        let mut config = Config::default();
        let keys = [
            ("method", method),
            ("graphs", graphs),
            ("batch", "90"),
            ("held_out", "1137"),
            ("attack_steps", "2"),
            ("epochs", "4"),
            ("linear_epochs", "2"),
            ("average_start_epoch", "1"),
            ("eps", "0.1"),
            ("step_size", "0.05"),
        ];
        config.apply(&keys).unwrap();
        config
    }

    /// The steps of an epoch, and the losses that they report.
    fn train(trainer: &mut Trainer, epoch: usize) -> Vec<f32> {
        let mut steps = EpochSteps::new(trainer, epoch).unwrap();
        // As on a GPU, where several steps are looked at together.
        steps.look_every = LOOK_EVERY;
        (0..trainer.steps_per_epoch()).for_each(|step| trainer.step(&mut steps, step).unwrap());
        assert_eq!(steps.lanes[0].reports.is_some(), steps.whole > 0);
        steps.look().unwrap().into_iter().map(|(_, report)| report.loss).collect()
    }

    #[test]
    fn memory_does_not_grow_over_epochs_and_reports_are_those_of_direct_steps() {
        for (label, device) in fast_devices() {
            for method in METHODS {
                let mut losses = Vec::new();
                for graphs in ["off", "on"] {
                    // Of this job alone: other tests launch on the common one while this one captures.
                    let own = if device.is_host() { Device::host() } else { Device::cuda(0) };
                    let device = own.unwrap();
                    let config = config(method.name, graphs);
                    let mut trainer = Trainer::new(&device, &config, "test").unwrap();
                    let mut held = Vec::new();
                    for epoch in 0..4 {
                        losses.push(train(&mut trainer, epoch));
                        held.push(device.memory_held());
                    }
                    // Averages begin in the second epoch, AFA's second stage in the third. Small buffers may
                    // still lie in blocks that are a little too large for them.
                    let settled = held[2].max(held[1]);
                    let grown = held[3].saturating_sub(settled) > settled / 200;
                    assert!(!grown, "{label}, {}, graphs {graphs}: {held:?}", method.name);
                }
                assert_eq!(losses[..4], losses[4..], "{label}, {}", method.name);
                assert!(losses.concat().iter().all(|loss| loss.is_finite()) && losses[0].len() == 4);
            }
        }
    }

    #[test]
    fn a_step_that_moves_a_tensor_of_the_network_is_not_replayed() {
        let device = Device::host().unwrap();
        let config = config("pgd-at", "on");
        let mut trainer = Trainer::new(&device, &config, "test").unwrap();
        let mut steps = EpochSteps::new(&trainer, 0).unwrap();
        trainer.step(&mut steps, 0).unwrap();
        // Its update is not in place while somebody else has the values.
        let (id, _) = trainer.net.params.trained().next().unwrap();
        let shared = trainer.net.params.value(id);
        let error = trainer.step(&mut steps, 1).unwrap_err().to_string();
        assert_eq!(error, "internal error: a captured step moves a tensor of the network");
        drop(shared);
    }
}
