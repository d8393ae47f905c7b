//! Accuracy on clean and on attacked images.

use crate::attack::{Attack, Objective, Pgd, Points, logits};
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::error::Result;
use crate::nn::Net;
use crate::ops::augment::Augmentation;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::predict::correct;
use crate::ops::reduce::Reduction;
use crate::rng::{Key, Purpose};
use crate::tape::Tape;

/// Accuracy and loss on a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Images classified correctly, in percent.
    pub percent: f64,
    /// Mean cross entropy.
    pub loss: f64,
}

/// Accuracy in eval mode, on clean images or on those that `attack` makes of them. Random starts depend on
/// the seed and on each image's index alone, so that the batch size changes nothing. `progress` gets the
/// number of images done, and may end the evaluation with an error.
pub fn accuracy(
    net: &mut Net,
    data: &DeviceDataset,
    attack: Option<&Pgd>,
    batch: usize,
    seed: u64,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Accuracy> {
    let device = data.device().clone();
    let (mut hits, mut loss, mut done) = (0, 0.0, 0);
    for indices in in_order(&device, data.len, batch)? {
        let (mut x, y) = data.batch(&indices, &Augmentation::none())?;
        if let Some(attack) = attack {
            let points = Points { x: &x, y: &y, images: &indices };
            let key = Key::new(seed, Purpose::EvalStart, 0, 0);
            x = attack.attack(net, Objective::CrossEntropy, points, key)?;
        }
        let tape = Tape::new(&device);
        let z = logits(net, &x)?;
        let sum = cross_entropy(&tape, tape.constant(z.clone()), &y, Reduction::Sum)?;
        hits += correct(&device, &z, &y)?.to_vec()?.iter().filter(|hit| **hit != 0).count();
        loss += tape.value(sum).item()? as f64;
        done += indices.len();
        progress(done)?;
    }
    let images = data.len.max(1) as f64;
    Ok(Accuracy { percent: 100.0 * hits as f64 / images, loss: loss / images })
}

/// The percentage of images that are classified correctly and withstand `attack`; `progress` as in
/// [`accuracy`].
pub fn robust(
    net: &mut Net,
    data: &DeviceDataset,
    attack: &dyn Attack,
    batch: usize,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<f64> {
    let (mut robust, mut done) = (0, 0);
    for indices in in_order(data.device(), data.len, batch)? {
        let (x, y) = data.batch(&indices, &Augmentation::none())?;
        let result = attack.run(net, Points { x: &x, y: &y, images: &indices })?;
        robust += result.success.to_vec()?.iter().filter(|success| **success == 0).count();
        done += indices.len();
        progress(done)?;
    }
    Ok(100.0 * robust as f64 / data.len.max(1) as f64)
}
