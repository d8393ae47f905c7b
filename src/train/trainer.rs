//! One run: the epoch loop, selection, the final evaluation.

use super::average::Average;
use super::checkpoint::{Origin, Progress, load_state, save, save_state};
use super::epoch_stats::Totals;
use super::schedule::Schedule;
use super::step::{Batch, Nets, Rules, Stepped, Update, train_step};
use super::validate::{Watch, interrupted, judge, loss_on_first, not_finite};
use crate::attack::{Pgd, Start};
use crate::config::{Config, Select};
use crate::data::resident::{Resident, shuffled};
use crate::data::{self, Dataset};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::eval::accuracy::Accuracy;
use crate::files::weights::WeightFile;
use crate::method::{self, Entry};
use crate::nn::{Arch, BnMode, Net, Shape};
use crate::run::dir::{LogRow, RunDir, Summary};
use crate::run::network::{beginning, load};
use crate::run::observer::{EpochInfo, Observer, Started, StepInfo};
use serde_json::{Map, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Steps between two looks at the losses on a GPU, where each look waits for the device.
const LOOK_EVERY: usize = 32;

/// Steps of the final attack: what `pgd20_acc` is measured with.
const EVAL_STEPS: usize = 20;

/// Everything that a run holds in memory.
pub struct Session<'a> {
    device: Device,
    config: &'a Config,
    recipe: &'a str,
    method: &'static Entry,
    net: Net,
    /// The average of the network's weights, which is then the one that is judged.
    wa: Option<Net>,
    average: Option<Average>,
    shape: Shape,
    image_width: usize,
    dataset: String,
    train: Resident,
    /// What the best epoch is chosen by, if it is.
    selection: Option<Resident>,
    test: Resident,
    schedule: Schedule,
}

/// A step whose loss has not been looked at yet.
struct Pending {
    step: usize,
    images: usize,
    stepped: Stepped,
}

impl<'a> Session<'a> {
    /// Loads data and builds the network; writes nothing.
    pub fn new(device: &Device, config: &'a Config, recipe: &'a str) -> Result<Session<'a>> {
        let method = method::find(&config.method)?;
        let arch = Arch::find(&config.model)?;
        let split = data::load(&config.dataset, config.data.as_deref())?;
        let (train, selection): (Dataset, Option<Dataset>) = match config.select {
            Select::Heldout => {
                let (train, held_out) = split.train.hold_out(config.held_out, config.seed)?;
                (train, Some(held_out))
            }
            Select::Test => (split.train, Some(split.test.clone())),
            Select::Last => (split.train, None),
        };
        let shape = Shape {
            channels: train.shape.channels,
            height: train.shape.height,
            classes: train.classes,
            mean: config.mean.clone(),
            std: config.std.clone(),
        };
        let new_net = || Net::new(device, &arch.spec(), &shape, config.seed);
        let average = config.averaging(method);
        Ok(Session {
            device: device.clone(),
            config,
            recipe,
            method,
            net: new_net()?,
            wa: average.map(|_| new_net()).transpose()?,
            average,
            shape,
            image_width: train.shape.width,
            dataset: train.name.clone(),
            train: Resident::new(device, &train)?,
            selection: selection.map(|s| Resident::new(device, &s)).transpose()?,
            test: Resident::new(device, &split.test)?,
            schedule: Schedule::new(config, (method.pretraining)(config)),
        })
    }

    /// The beginning of a run, from the weights that `init` names.
    pub fn begin(&mut self) -> Result<Progress> {
        if let Some(path) = &self.config.init {
            let file = beginning(path, &self.shape)?;
            for net in [Some(&mut self.net), self.wa.as_mut()].into_iter().flatten() {
                load(net, &self.device, &file)?;
            }
        }
        Ok(Progress::default())
    }

    /// Takes up the state of an interrupted run.
    pub fn load(&mut self, state: &Path) -> Result<Progress> {
        load_state(&mut self.net, self.wa.as_mut(), &self.device, state)
    }

    /// What is about to happen, for whoever watches.
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

    fn steps_per_epoch(&self) -> usize {
        self.train.len.div_ceil(self.config.batch)
    }

    /// Trains from `progress` to the end, evaluates, and writes the summary.
    pub fn run(
        &mut self,
        dir: &RunDir,
        mut progress: Progress,
        began: Instant,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Summary> {
        let earlier = progress.seconds;
        for epoch in progress.epochs_done..self.config.epochs {
            let finished = match self.epoch(dir, epoch, &mut progress, observer, stop) {
                Ok(()) => self.close_epoch(dir, epoch, &mut progress, observer, stop),
                ended => ended,
            };
            progress.seconds = earlier + began.elapsed().as_secs_f64();
            if matches!(finished, Err(Error::Interrupted { .. })) {
                self.save_state(dir, &progress)?;
            }
            finished?;
            (progress.epochs_done, progress.steps_done, progress.averaged) = (epoch + 1, 0, false);
            progress.totals = Totals::default();
            self.save_state(dir, &progress)?;
        }
        self.conclude(dir, &progress, earlier, began, observer, stop)
    }

    /// The steps of one epoch that are still to do.
    fn epoch(
        &mut self,
        dir: &RunDir,
        epoch: usize,
        progress: &mut Progress,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let (config, steps) = (self.config, self.steps_per_epoch());
        let batches = shuffled(&self.device, self.train.len, config.batch, config.seed, epoch)?;
        let look_every = if self.device.is_host() { 1 } else { LOOK_EVERY };
        let mut pending = Vec::new();
        let mut looked = Instant::now();
        for (step, indices) in batches.iter().enumerate().skip(progress.steps_done) {
            let lr = self
                .schedule
                .lr(epoch as f64 + (step as f64 + self.config.lr_step_at.fraction()) / steps as f64);
            pending.push(self.step(epoch, step, indices, lr)?);
            if pending.len() < look_every && step + 1 < steps && !stop.load(Ordering::Relaxed) {
                continue;
            }
            let trained: usize = pending.iter().map(|p| p.images).sum();
            let loss = self.look(dir, epoch, &mut pending, progress)?;
            let seconds = looked.elapsed().as_secs_f64();
            looked = Instant::now();
            progress.train_seconds += seconds;
            progress.totals.seconds += seconds;
            progress.images_trained += trained;
            progress.steps_done = step + 1;
            let images_per_s = progress.images_trained as f64 / progress.train_seconds.max(1e-9);
            let left =
                (config.epochs - epoch) * self.train.len - ((step + 1) * config.batch).min(self.train.len);
            observer.step(&StepInfo {
                epoch: epoch + 1,
                epochs: config.epochs,
                step: step + 1,
                steps,
                loss,
                images_per_s,
                seconds_left: left as f64 / images_per_s,
            });
            if stop.load(Ordering::Relaxed) {
                return Err(interrupted(dir, &format!("epoch {}, step {}", epoch + 1, step + 1)));
            }
        }
        Ok(())
    }

    /// One training step: batch, attack, loss, gradients, update.
    fn step(&mut self, epoch: usize, step: usize, indices: &Buffer<i32>, lr: f64) -> Result<Pending> {
        let config = self.config;
        let views = (self.method.views)(config);
        let (x, y) = self.train.batch(indices, &config.augmentation(views, epoch))?;
        let batch = Batch { x: &x, y: &y, images: indices, index: step };
        let (method, awp_gamma) = (self.method, config.awp(epoch));
        let rules = Rules { method, settings: config, awp_gamma, seed: config.seed, epoch };
        let update = Update { lr: lr as f32, momentum: config.momentum, weight_decay: config.weight_decay };
        let mut nets = Nets { net: &mut self.net, wa: self.wa.as_mut() };
        let stepped = train_step(&mut nets, &batch, &rules, &update, self.average.as_ref())?;
        Ok(Pending { step, images: indices.len(), stepped })
    }

    /// Reads the losses of finished steps; the last one is returned. Errors: a loss that is not a number.
    fn look(
        &self,
        dir: &RunDir,
        epoch: usize,
        pending: &mut Vec<Pending>,
        progress: &mut Progress,
    ) -> Result<f32> {
        let mut last = f32::NAN;
        for done in pending.drain(..) {
            last = done.stepped.loss.item()?;
            if !last.is_finite() {
                return Err(not_finite(last, dir, epoch, done.step + 1, progress));
            }
            progress.totals.add(done.images, last, &done.stepped)?;
        }
        Ok(last)
    }

    /// Selection, records and checkpoints at the end of an epoch.
    fn close_epoch(
        &mut self,
        dir: &RunDir,
        epoch: usize,
        progress: &mut Progress,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let (number, config, totals) = (epoch + 1, self.config, progress.totals.clone());
        // The rate of the last step.
        let lr = self
            .schedule
            .lr(number as f64 - (1.0 - config.lr_step_at.fraction()) / self.steps_per_epoch() as f64);
        // A run that was stopped in the selection comes here a second time.
        if let (Some(average), Some(wa), false) = (&self.average, &mut self.wa, progress.averaged) {
            average.after_epoch(wa, &self.net, epoch)?;
            progress.averaged = true;
        }
        self.check_weights(dir, epoch, progress)?;
        let images = totals.images.max(1) as f64;
        let evaluated = Instant::now();
        // Before there is a classifier there is nothing to choose by.
        let chooses = epoch >= (self.method.pretraining)(config);
        let due = chooses && (number % config.eval_every.max(1) == 0 || number == config.epochs);
        let chosen = if due { self.select(dir, observer, stop)? } else { None };
        let test_time = evaluated.elapsed().as_secs_f64();
        let better =
            chosen.is_some_and(|(_, robust)| progress.best.is_none_or(|(_, best)| robust.percent > best));
        if better && let Some((_, robust)) = chosen {
            progress.best = Some((number, robust.percent));
            let selection = format!("best pgd{} on {}", config.select_steps, config.select);
            self.save(number, selection, "best", dir)?;
        }
        self.save(number, "last".into(), "last", dir)?;
        if config.checkpoint_every > 0 && number % config.checkpoint_every == 0 {
            self.save(number, format!("epoch {number}"), &format!("epoch-{number}"), dir)?;
        }
        let accuracy = totals.accuracy();
        let info = EpochInfo {
            epoch: number,
            epochs: config.epochs,
            lr,
            loss: totals.loss / images,
            terms: totals.terms.iter().map(|(name, sum)| (name.clone(), sum / images)).collect(),
            train_acc: accuracy.map(|part| 100.0 * part),
            clean_acc: chosen.map(|(clean, _)| clean.percent),
            robust_acc: chosen.map(|(_, robust)| robust.percent),
            best: better,
            margins: totals.margins.record(),
            images_per_s: images / totals.seconds.max(1e-9),
            seconds: totals.seconds,
        };
        dir.append_metrics(&info.record(test_time))?;
        let attacked = config.method != "standard";
        dir.append_log(&LogRow {
            epoch: number,
            train_time: totals.seconds,
            test_time: chosen.map(|_| test_time),
            lr,
            train_loss: Some(info.loss).filter(|_| !attacked),
            train_acc: accuracy.filter(|_| !attacked),
            train_robust_loss: Some(info.loss).filter(|_| attacked),
            train_robust_acc: accuracy.filter(|_| attacked),
            test_loss: chosen.map(|(clean, _)| clean.loss),
            test_acc: chosen.map(|(clean, _)| clean.percent / 100.0),
            test_robust_loss: chosen.map(|(_, robust)| robust.loss),
            test_robust_acc: chosen.map(|(_, robust)| robust.percent / 100.0),
        })?;
        observer.epoch(&info);
        Ok(())
    }

    /// Clean and robust accuracy on the images that choose the best epoch.
    fn select(
        &mut self,
        dir: &RunDir,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<(Accuracy, Accuracy)>> {
        let Some(data) = &self.selection else { return Ok(None) };
        let attack = Pgd { steps: self.config.select_steps, ..self.judge_attack() };
        let net = self.wa.as_mut().unwrap_or(&mut self.net);
        judge(net, data, &attack, self.config, &mut Watch { what: "selection", dir, observer, stop })
            .map(Some)
    }

    fn test(
        &mut self,
        which: &str,
        dir: &RunDir,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(Accuracy, Accuracy)> {
        let attack = Pgd { steps: EVAL_STEPS, ..self.judge_attack() };
        let what = &format!("{which}, PGD-{EVAL_STEPS}");
        let net = self.wa.as_mut().unwrap_or(&mut self.net);
        judge(net, &self.test, &attack, self.config, &mut Watch { what, dir, observer, stop })
    }

    /// PGD as it judges: the training attack's ball and step, from a random start, with eval-mode batch norm.
    fn judge_attack(&self) -> Pgd {
        Pgd { start: Start::Uniform, bn: BnMode::Eval, ..self.config.pgd(Start::Uniform, BnMode::Eval) }
    }

    /// Errors when the last update ruined the network: its loss on a batch of training images is no number.
    /// Nothing is saved then.
    fn check_weights(&mut self, dir: &RunDir, epoch: usize, progress: &Progress) -> Result<()> {
        let loss = loss_on_first(&mut self.net, &self.train, self.config.batch)?;
        if loss.is_finite() {
            Ok(())
        } else {
            Err(not_finite(loss, dir, epoch, self.steps_per_epoch(), progress))
        }
    }

    /// The final evaluation on the test images, and the summary.
    fn conclude(
        &mut self,
        dir: &RunDir,
        progress: &Progress,
        earlier: f64,
        began: Instant,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Summary> {
        let mut extra = Map::new();
        let last = self.test("last", dir, observer, stop)?;
        extra.insert(
            "last".into(),
            json!({ "clean_acc": last.0.percent, "pgd20_acc": last.1.percent, "epoch": progress.epochs_done }),
        );
        let mut reported = last;
        if let Some((epoch, selected)) = progress.best {
            if epoch != progress.epochs_done {
                let best = WeightFile::read(&dir.checkpoint("best"))?;
                load(self.wa.as_mut().unwrap_or(&mut self.net), &self.device, &best)?;
                reported = self.test("best", dir, observer, stop)?;
            }
            extra.insert(
                "best".into(),
                json!({ "epoch": epoch, "selection_acc": selected, "select": self.config.select.to_string() }),
            );
        }
        let job =
            [("model", &self.config.model), ("method", &self.config.method), ("dataset", &self.dataset)];
        extra.extend(job.map(|(key, name)| (key.to_owned(), json!(name))));
        extra.insert("peak_memory_bytes".into(), json!(self.device.memory_in_use().1));
        let summary = Summary {
            clean_acc: reported.0.percent,
            pgd20_acc: reported.1.percent,
            images_per_s: progress.images_trained as f64 / progress.train_seconds.max(1e-9),
            seconds: earlier + began.elapsed().as_secs_f64(),
            device: self.device.describe(),
            seed: self.config.seed,
            extra,
        };
        dir.write_summary(&summary)?;
        Ok(summary)
    }

    fn save_state(&self, dir: &RunDir, progress: &Progress) -> Result<()> {
        let origin = self.origin(progress.epochs_done, "state".into());
        save_state(&self.net, self.wa.as_ref(), &origin, progress, &super::state_path(dir.root()))
    }

    /// Writes the weights of the network that is judged.
    fn save(&self, epoch: usize, selection: String, name: &str, dir: &RunDir) -> Result<()> {
        save(self.wa.as_ref().unwrap_or(&self.net), &self.origin(epoch, selection), &dir.checkpoint(name))
    }

    fn origin(&self, epoch: usize, selection: String) -> Origin<'_> {
        let Session { config, recipe, shape, image_width, .. } = self;
        Origin { config, recipe, shape, image_width: *image_width, epoch, selection }
    }
}
