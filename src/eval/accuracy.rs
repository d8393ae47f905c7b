//! Accuracy on clean and on attacked images.
//!
//! Two numbers are called robust accuracy. A single attack's is the share of images that are classified
//! correctly on its adversarial images, of all images, as the papers on adversarial training report it. A
//! protocol's (AutoAttack) is the share of images that are right when clean and withstand every attack. The
//! first may be a little higher: an attack can move an image that was wrong to where it is right.

use crate::attack::{Attack, Model, Objective, Pgd, Points};
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::device::trace::Range;
use crate::error::{Error, Result};
use crate::ops::augment::Augmentation;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::predict::correct;
use crate::ops::reduce::Reduction;
use crate::rng::{Key, Purpose};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Accuracy and loss on a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Images classified correctly, in percent.
    pub percent: f64,
    /// Mean cross entropy.
    pub loss: f64,
}

/// The answers of a network on a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Whether each image is classified correctly.
    pub correct: Vec<bool>,
    /// Mean cross entropy.
    pub loss: f64,
}

impl Answers {
    pub fn accuracy(&self) -> Accuracy {
        Accuracy { percent: percentage(&self.correct), loss: self.loss }
    }

    /// The percentage of images that are right here and in the answers `clean` on the clean images.
    pub fn robust_percent(&self, clean: &Answers) -> f64 {
        let both: Vec<bool> =
            self.correct.iter().zip(&clean.correct).map(|(adv, clean)| *adv && *clean).collect();
        percentage(&both)
    }
}

fn percentage(flags: &[bool]) -> f64 {
    100.0 * flags.iter().filter(|flag| **flag).count() as f64 / flags.len().max(1) as f64
}

/// The model's answers in eval mode on the images that `images` makes of clean ones. `progress` gets the
/// number of images done, and may end the evaluation with an error.
///
/// Errors: [`Error::NoAccuracy`] for logits that are not finite numbers.
pub fn answers<M: Model>(
    model: &mut M,
    data: &DeviceDataset,
    batch: usize,
    mut images: impl FnMut(&mut M, Points) -> Result<Tensor>,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Answers> {
    let device = data.device().clone();
    let (mut flags, mut loss, mut unusable) = (Vec::with_capacity(data.len), 0.0, 0);
    for indices in in_order(&device, data.len, batch)? {
        let (x, y) = data.batch(&indices, &Augmentation::none())?;
        let x = images(model, Points { x: &x, y: &y, images: &indices })?;
        let _evaluation = device.scope(Range::Evaluation);
        let tape = Tape::new(&device);
        let x = tape.constant(x);
        let z = model.logits(&tape, x)?;
        unusable += not_finite(&tape.value(z))?;
        let sum = cross_entropy(&tape, z, &y, Reduction::Sum)?;
        flags.extend(correct(&device, &tape.value(z), &y)?.to_vec()?.iter().map(|hit| *hit != 0));
        loss += tape.value(sum).item()? as f64;
        progress(flags.len())?;
    }
    if unusable > 0 {
        return Err(Error::NoAccuracy { unusable, images: data.len });
    }
    let loss = loss / flags.len().max(1) as f64;
    Ok(Answers { correct: flags, loss })
}

/// The number of rows of logits `[N,K]` with a number that is infinite or NaN.
pub(super) fn not_finite(logits: &Tensor) -> Result<usize> {
    let classes = logits.shape().last().copied().unwrap_or(1).max(1);
    Ok(logits.to_vec()?.chunks(classes).filter(|row| row.iter().any(|z| !z.is_finite())).count())
}

/// Accuracy on clean images, or on those that `attack` makes of all of them. Random starts depend on the seed
/// and on each image's index alone, so that the batch size changes nothing. `progress` and errors as in
/// [`answers`].
pub fn accuracy<M: Model>(
    model: &mut M,
    data: &DeviceDataset,
    attack: Option<&Pgd>,
    batch: usize,
    seed: u64,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Accuracy> {
    let key = Key::new(seed, Purpose::EvalStart, 0, 0);
    let images = |model: &mut M, points: Points| match attack {
        Some(attack) => attack.attack(model, Objective::CrossEntropy, points, key),
        None => Ok(points.x.clone()),
    };
    Ok(answers(model, data, batch, images, progress)?.accuracy())
}

/// The answers on clean images, or on those that `attack` makes of all of them. `progress` and errors as in
/// [`answers`].
pub fn attacked<M: Model>(
    model: &mut M,
    data: &DeviceDataset,
    attack: Option<&dyn Attack>,
    batch: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Answers> {
    let images = |model: &mut M, points: Points| match attack {
        Some(attack) => Ok(attack.run(model, points)?.x_adv),
        None => Ok(points.x.clone()),
    };
    answers(model, data, batch, images, progress)
}
