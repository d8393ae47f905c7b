//! Checks before the first attack: signs that a robust accuracy may mean little.

use super::plan::{Plan, Stage};
use crate::attack::{Model, Objective, logits};
use crate::data::device_dataset::DeviceDataset;
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::augment::Augmentation;
use crate::tensor::Tensor;
use std::ops::Range;

/// Images whose logits and gradients are checked: independent of the batch size, so that it changes no
/// warning.
const SAMPLE: usize = 128;
/// Passes whose logits must be equal.
const PASSES: usize = 5;

/// One line for each suspicion.
pub fn warnings(
    model: &mut dyn Model,
    data: &DeviceDataset,
    range: Range<usize>,
    plan: &Plan,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let batch = |range: Range<usize>| {
        let indices: Vec<i32> = range.map(|index| index as i32).collect();
        data.batch(&Buffer::from_slice(data.device(), &indices)?, &Augmentation::none())
    };
    let mut outside = 0;
    for start in range.clone().step_by(SAMPLE) {
        let (x, _) = batch(start..range.end.min(start + SAMPLE))?;
        outside += rows(&x)?.iter().filter(|image| !image.iter().all(|v| (0.0..=1.0).contains(v))).count();
    }
    if outside > 0 {
        lines.push(format!(
            "{outside} of {} images have pixels outside of [0,1]: attacks and radius assume that range",
            range.len()
        ));
    }
    let (x, y) = batch(range.start..range.end.min(range.start + SAMPLE))?;
    let first = rows(&logits(model, &x)?)?;
    let bits = |rows: &[Vec<f32>]| rows.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
    let mut random = false;
    for _ in 1..PASSES {
        random |= bits(&rows(&logits(model, &x)?)?) != bits(&first);
    }
    if random && plan.version != "rand" {
        lines.push(format!(
            "the logits of {PASSES} passes over the same images differ: use autoattack-rand for a \
             randomized defense"
        ));
    }
    let probabilities = |row: &Vec<f32>| {
        row.iter().all(|p| (-1e-3..=1.001).contains(p))
            && (row.iter().map(|p| *p as f64).sum::<f64>() - 1.0).abs() < 1e-3
    };
    if first.iter().all(probabilities) {
        lines.push(
            "the outputs look like probabilities: attacks need logits, without a softmax after them".into(),
        );
    }
    let grad = rows(&Objective::CrossEntropy.evaluate(model, &x, &y)?.grad)?;
    let flat = grad.iter().filter(|image| image.iter().all(|g| *g == 0.0)).count();
    if flat > 0 {
        lines.push(format!(
            "{flat} of {} images have an input gradient of zero at the start: attacks by gradients may \
             fail there",
            grad.len()
        ));
    }
    lines.extend(plan.stages.iter().filter_map(|stage| few_classes(stage, model.classes())));
    Ok(lines)
}

/// The warning about an attack that lacks classes.
fn few_classes(stage: &Stage, classes: usize) -> Option<String> {
    let (name, min) = (&stage.about, stage.attack.min_classes());
    if classes < min {
        return Some(format!("{name} is skipped: its loss needs {min} classes, and there are {classes}"));
    }
    let targeted = stage.attack.targeted()?;
    let (wanted, possible) = (targeted.targets(), targeted.target_ranks(classes).count());
    (possible < wanted)
        .then(|| format!("{name} has {possible} targets instead of {wanted}: there are {classes} classes"))
}

/// The rows of a tensor `[N,..]`.
fn rows(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    let size = x.len() / x.shape()[0].max(1);
    Ok(x.to_vec()?.chunks(size.max(1)).map(<[f32]>::to_vec).collect())
}
