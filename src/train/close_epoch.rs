//! The end of an epoch: averaging, validation, checkpoints, records; and the end of a run.

use super::run::Run;
use super::trainer::Trainer;
use super::validate::{Validation, loss_on_first, validate};
use crate::config::Select;
use crate::error::{Error, Result, ensure};
use crate::files::weights::WeightFile;
use crate::run::dir::Summary;
use crate::run::network::load;
use crate::run::observer::EpochInfo;
use serde_json::{Map, json};
use std::time::Instant;

/// Steps of the final attack: `pgd20_acc` is measured with it.
const EVAL_STEPS: usize = 20;

impl Trainer<'_> {
    /// Everything between the last step of an epoch, counted from 0, and the next epoch.
    pub(super) fn close_epoch(&mut self, run: &mut Run, epoch: usize) -> Result<()> {
        self.average_epoch(epoch)?;
        self.check_weights(run, epoch)?;
        let began = Instant::now();
        let validation = self.validate_epoch(run, epoch)?;
        let eval_seconds = began.elapsed().as_secs_f64();
        let best = self.save_checkpoints(run, epoch + 1, validation)?;
        self.record_epoch(run, epoch + 1, validation, best, eval_seconds)
    }

    /// Adds the network to its average. A run that was stopped in the validation comes here a second time.
    fn average_epoch(&mut self, epoch: usize) -> Result<()> {
        if let (Some(average), Some(wa), false) = (&self.average, &mut self.wa, self.progress.averaged) {
            average.after_epoch(wa, &self.net, epoch)?;
            self.progress.averaged = true;
        }
        Ok(())
    }

    /// Errors when the last update ruined the network: its loss on a batch of training images is not a
    /// number. Nothing is saved then.
    fn check_weights(&mut self, run: &Run, epoch: usize) -> Result<()> {
        let loss = loss_on_first(&mut self.net, &self.train, self.config.batch)?;
        ensure(loss.is_finite(), || run.not_finite(loss, epoch, self.steps_per_epoch(), &self.progress))
    }

    /// Accuracy on the images that choose the best epoch; `None` in epochs that are not validated.
    fn validate_epoch(&mut self, run: &mut Run, epoch: usize) -> Result<Option<Validation>> {
        let (config, number) = (self.config, epoch + 1);
        // Before there is a classifier there is nothing to choose by.
        let chooses = epoch >= (self.method.pretraining)(self.config);
        let due = number % config.eval_every.max(1) == 0 || number == config.epochs;
        let (Some(data), true) = (&self.selection, chooses && due) else { return Ok(None) };
        let attack = self.config.evaluation_pgd(config.select_steps);
        let net = self.wa.as_mut().unwrap_or(&mut self.net);
        validate(net, data, &attack, config, "selection", run).map(Some)
    }

    /// Writes the checkpoints of an epoch counted from 1; returns whether it is the best so far.
    fn save_checkpoints(&mut self, run: &Run, epoch: usize, validation: Option<Validation>) -> Result<bool> {
        let config = self.config;
        let robust = validation.map(|validation| validation.robust.percent);
        let better = robust.filter(|robust| self.progress.best.is_none_or(|(_, best)| *robust > best));
        if let Some(robust) = better {
            self.progress.best = Some((epoch, robust));
            let selection = format!("best pgd{} on {}", config.select_steps, config.select);
            self.save(run, epoch, &selection, "best")?;
        }
        self.save(run, epoch, "last", "last")?;
        if config.checkpoint_every > 0 && epoch.is_multiple_of(config.checkpoint_every) {
            self.save(run, epoch, &format!("epoch {epoch}"), &format!("epoch-{epoch}"))?;
        }
        Ok(better.is_some())
    }

    /// Writes the records of an epoch counted from 1, and reports it.
    fn record_epoch(
        &self,
        run: &mut Run,
        epoch: usize,
        validation: Option<Validation>,
        best: bool,
        eval_seconds: f64,
    ) -> Result<()> {
        let (config, stats) = (self.config, &self.progress.stats);
        // The rate of the last step.
        let steps = self.steps_per_epoch() as f64;
        let lr = self.lr(epoch as f64 - (1.0 - config.lr_step_at.fraction()) / steps);
        let (clean, robust) = (validation.map(|v| v.clean), validation.map(|v| v.robust));
        let info = EpochInfo {
            epoch,
            epochs: config.epochs,
            lr,
            loss: stats.mean_loss(),
            terms: stats.mean_terms(),
            train_acc: stats.accuracy().map(|part| 100.0 * part),
            clean_acc: clean.map(|clean| clean.percent),
            robust_acc: robust.map(|robust| robust.percent),
            best,
            log: stats.log.record(),
            images_per_s: stats.images.max(1) as f64 / stats.seconds.max(1e-9),
            seconds: stats.seconds,
        };
        run.dir.append_metrics(&info.record(eval_seconds))?;
        let (standard, loss, accuracy) = (config.method == "standard", Some(info.loss), stats.accuracy());
        let [seconds, clean_loss, clean_acc, robust_loss, robust_acc] = match config.select {
            Select::Test => ["Test Time", "Test Loss", "Test Acc", "Test Robust Loss", "Test Robust Acc"],
            Select::Heldout | Select::Last => [
                "Held-out Time",
                "Held-out Loss",
                "Held-out Acc",
                "Held-out Robust Loss",
                "Held-out Robust Acc",
            ],
        };
        let columns = [
            ("Train Time", Some(stats.seconds)),
            (seconds, validation.map(|_| eval_seconds)),
            ("LR", Some(lr)),
            ("Train Loss", loss.filter(|_| standard)),
            ("Train Acc", accuracy.filter(|_| standard)),
            ("Train Robust Loss", loss.filter(|_| !standard)),
            ("Train Robust Acc", accuracy.filter(|_| !standard)),
            (clean_loss, clean.map(|clean| clean.loss)),
            (clean_acc, clean.map(|clean| clean.percent / 100.0)),
            (robust_loss, robust.map(|robust| robust.loss)),
            (robust_acc, robust.map(|robust| robust.percent / 100.0)),
        ];
        run.dir.append_log(epoch, &columns)?;
        run.observer.epoch(&info);
        Ok(())
    }

    /// Accuracy of checkpoint `which` on the test images.
    fn test(&mut self, run: &mut Run, which: &str) -> Result<Validation> {
        let attack = self.config.evaluation_pgd(EVAL_STEPS);
        let net = self.wa.as_mut().unwrap_or(&mut self.net);
        validate(net, &self.test, &attack, self.config, &format!("{which}, PGD-{EVAL_STEPS}"), run)
    }

    /// The result of checkpoint `best`, which is of this epoch and may be `last`, too.
    ///
    /// Errors: as [`Trainer::test`]; a checkpoint that cannot be read, or is not the one that was written.
    fn test_best(&mut self, run: &mut Run, epoch: usize, last: Validation) -> Result<Validation> {
        self.check_checkpoint(&run.dir, "best")?;
        if epoch == self.progress.epochs_done {
            return Ok(last);
        }
        let best = WeightFile::read(&run.dir.checkpoint("best"))?;
        load(self.wa.as_mut().unwrap_or(&mut self.net), &self.device, &best)?;
        self.test(run, "best")
    }

    /// The final evaluation on the test images, and the summary.
    ///
    /// Errors: among others that `best` cannot be evaluated; the summary then has the result of `last`.
    pub(super) fn conclude(&mut self, run: &mut Run) -> Result<Summary> {
        let mut extra = Map::new();
        let last = self.test(run, "last")?;
        let epochs_done = self.progress.epochs_done;
        let (clean, robust) = (last.clean.percent, last.robust.percent);
        extra.insert("last".into(), json!({ "clean_acc": clean, "pgd20_acc": robust, "epoch": epochs_done }));
        let (mut reported, mut broken) = (last, None);
        if let Some((epoch, selected)) = self.progress.best {
            let select = self.config.select.to_string();
            let mut best = json!({ "epoch": epoch, "selection_acc": selected, "select": select });
            match self.test_best(run, epoch, last) {
                Ok(result) => reported = result,
                Err(error @ Error::Interrupted { .. }) => return Err(error),
                Err(error) => {
                    best["error"] = json!(error.to_string());
                    broken = Some(error);
                }
            }
            extra.insert("best".into(), best);
        }
        let job =
            [("model", &self.config.model), ("method", &self.config.method), ("dataset", &self.dataset)];
        extra.extend(job.map(|(key, name)| (key.to_owned(), json!(name))));
        extra.insert("peak_memory_bytes".into(), json!(self.device.memory_in_use().1));
        let summary = Summary {
            clean_acc: reported.clean.percent,
            pgd20_acc: reported.robust.percent,
            images_per_s: self.progress.images_per_s(),
            seconds: run.seconds(),
            device: self.device.describe(),
            seed: self.config.seed,
            extra,
        };
        run.dir.write_summary(&summary)?;
        let instead =
            format!("summary.json has the last epoch's result: clean {clean:.2} %, PGD-20 {robust:.2} %");
        broken.map_or(Ok(summary), |error| Err(Error::file(run.dir.root(), format!("{error}; {instead}"))))
    }
}
