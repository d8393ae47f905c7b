//! Evaluation inside a run, and the ways in which a run ends early.

use super::checkpoint::Progress;
use crate::attack::Pgd;
use crate::config::Config;
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::error::{Error, Result};
use crate::eval::accuracy::{Accuracy, accuracy};
use crate::nn::{BnMode, Net};
use crate::ops::augment::Augmentation;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::run::dir::RunDir;
use crate::run::observer::Observer;
use crate::tape::Tape;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who watches an evaluation, and may stop it.
pub(super) struct Watch<'a> {
    pub what: &'a str,
    pub dir: &'a RunDir,
    pub observer: &'a mut dyn Observer,
    pub stop: &'a AtomicBool,
}

impl Watch<'_> {
    /// Tells the observer. Errors: the run was asked to stop.
    fn progress(&mut self, done: usize, of: usize) -> Result<()> {
        self.observer.evaluating(self.what, done, of);
        if self.stop.load(Ordering::Relaxed) {
            Err(interrupted(self.dir, "all training so far"))
        } else {
            Ok(())
        }
    }
}

/// Accuracy on clean images and under `attack`.
pub(super) fn judge(
    net: &mut Net,
    data: &DeviceDataset,
    attack: &Pgd,
    config: &Config,
    watch: &mut Watch,
) -> Result<(Accuracy, Accuracy)> {
    let clean = accuracy(net, data, None, config.batch, config.seed, |_| Ok(()))?;
    let robust =
        accuracy(net, data, Some(attack), config.batch, config.seed, |done| watch.progress(done, data.len))?;
    Ok((clean, robust))
}

/// The loss of a network on the first batch of images, as they are; 0 where there are none.
pub(super) fn loss_on_first(net: &mut Net, data: &DeviceDataset, batch: usize) -> Result<f32> {
    let few = in_order(data.device(), data.len.min(batch), batch)?;
    let Some(indices) = few.first() else { return Ok(0.0) };
    let (x, y) = data.batch(indices, &Augmentation::none())?;
    let tape = Tape::new(x.device());
    let z = net.forward(&tape, tape.constant(x.clone()), BnMode::Eval, None)?;
    tape.value(cross_entropy(&tape, z, &y, Reduction::Mean)?).item()
}

/// The error of a run that was asked to stop.
pub(super) fn interrupted(dir: &RunDir, what: &str) -> Error {
    let root = dir.root().display();
    Error::Interrupted {
        saved: format!("{what} is saved in {root}"),
        resume: format!("saddle train --resume {root}"),
    }
}

/// The error of a loss that is no number.
pub(super) fn not_finite(loss: f32, dir: &RunDir, epoch: usize, step: usize, progress: &Progress) -> Error {
    let kept = match progress.epochs_done {
        0 => "no epoch was finished before".to_owned(),
        n => format!("the checkpoints of epoch {n} are kept in {}", dir.root().join("checkpoints").display()),
    };
    Error::NotFinite { loss, epoch: epoch + 1, step, kept }
}
