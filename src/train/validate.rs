//! Evaluation inside a run.

use super::run::Run;
use crate::attack::{Pgd, logits};
use crate::config::Config;
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::error::Result;
use crate::eval::accuracy::{Accuracy, accuracy};
use crate::nn::{Net, Precision};
use crate::ops::augment::Augmentation;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::tape::Tape;

/// Accuracy on clean images and on the same images under attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validation {
    pub clean: Accuracy,
    pub robust: Accuracy,
}

/// Accuracy on clean images and under `attack`, in float32, reported as `what`. Errors: the run was asked
/// to stop.
pub(super) fn validate(
    net: &mut Net,
    data: &DeviceDataset,
    attack: &Pgd,
    config: &Config,
    what: &str,
    run: &mut Run,
) -> Result<Validation> {
    let &Config { batch, seed, .. } = config;
    net.with_precision(Precision::F32, |net| {
        let clean = accuracy(net, data, None, batch, seed, |_| Ok(()))?;
        let evaluating = |done| run.evaluating(what, done, data.len);
        let robust = accuracy(net, data, Some(attack), batch, seed, evaluating)?;
        Ok(Validation { clean, robust })
    })
}

/// The loss of a network on the first batch of images, without augmentation; 0 where there are none.
pub(super) fn loss_on_first(net: &mut Net, data: &DeviceDataset, batch: usize) -> Result<f32> {
    let few = in_order(data.device(), data.len.min(batch), batch)?;
    let Some(indices) = few.first() else { return Ok(0.0) };
    let (x, y) = data.batch(indices, &Augmentation::none())?;
    let tape = Tape::new(x.device());
    let z = tape.constant(logits(net, &x)?);
    tape.value(cross_entropy(&tape, z, &y, Reduction::Mean)?).item()
}
