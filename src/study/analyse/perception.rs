//! RPAT's motivation (arXiv 2508.02186): how far the logits move on the way from the clean image to the
//! adversarial one.
//!
//! ```text
//! x_t = x + t (x' - x);  the mean over images of 1/K |z(x_t) - z(x)|^2,  t = 0, 0.1 .. 1
//! ```
//!
//! For all images and, of those classified correctly when clean, for those where the attack succeeds (x' is
//! misclassified) and those where it fails.

use super::{AttackedBatch, Figure, FigureOutput, TrainedModel};
use crate::attack::logits;
use crate::error::Result;
use crate::method::common::perturbation::reduced;
use crate::ops::mse::mse_per_row;
use crate::ops::predict::correct;
use crate::report::plot::{Axes, PlotKind, Series, draw};

pub const FIGURE: Figure = Figure {
    name: "perception",
    about: "logit MSE between x and x + t (x' - x), x' after PGD-20 at the run's eps: for all images and, of \
            those right when clean, where the attack succeeds or fails",
    make,
};

/// The number of points after x on the way to x'.
const STEPS: usize = 10;

/// A group of images, and their mean logit MSE at each step of the way.
struct Group {
    name: &'static str,
    images: usize,
    mse: Vec<f64>,
}

fn curves(model: &mut TrainedModel) -> Result<[Group; 3]> {
    let mut groups =
        ["all", "success", "failure"].map(|name| Group { name, images: 0, mse: vec![0.0; STEPS + 1] });
    let TrainedModel { net, batches, .. } = model;
    for AttackedBatch { x, x_adv, y } in batches.iter() {
        let (z, z_adv) = (logits(net, x)?, logits(net, x_adv)?);
        let right = correct(x.device(), &z, y)?.to_vec()?.into_iter().map(|hit| hit != 0);
        let right_adv = correct(x.device(), &z_adv, y)?.to_vec()?.into_iter().map(|hit| hit != 0);
        let belongs: Vec<[bool; 3]> =
            right.zip(right_adv).map(|(right, adv)| [true, right && !adv, right && adv]).collect();
        for (i, group) in groups.iter_mut().enumerate() {
            group.images += belongs.iter().filter(|belongs| belongs[i]).count();
        }
        for step in 0..=STEPS {
            let x_t = reduced(x, x_adv, step as f32 / STEPS as f32)?;
            let distances = mse_per_row(&z, &logits(net, &x_t)?)?.to_vec()?;
            for (i, group) in groups.iter_mut().enumerate() {
                let own = distances.iter().zip(&belongs).filter(|(_, belongs)| belongs[i]);
                group.mse[step] += own.map(|(distance, _)| *distance as f64).sum::<f64>();
            }
        }
    }
    for group in &mut groups {
        group.mse.iter_mut().for_each(|sum| *sum /= group.images.max(1) as f64);
    }
    Ok(groups)
}

fn make(model: &mut TrainedModel) -> Result<FigureOutput> {
    let groups = curves(model)?;
    let part = |step: usize| step as f64 / STEPS as f64;
    let mut csv = "t,all,success,failure\n".to_owned();
    for step in 0..=STEPS {
        // A group without images has no mean.
        let cell = |group: &Group| if group.images > 0 { group.mse[step].to_string() } else { String::new() };
        csv += &format!("{},{}\n", part(step), groups.each_ref().map(cell).join(","));
    }
    let some = || groups.iter().filter(|group| group.images > 0);
    let line = |group: &Group| {
        let points = group.mse.iter().enumerate().map(|(step, mse)| (part(step), *mse));
        Series::new(format!("{} ({})", group.name, group.images), points)
    };
    let x = "t: part of the perturbation, x + t (x' - x)";
    let axes = Axes::new("Perception of a growing perturbation", x, "logit MSE to the clean image");
    let svg = draw(&axes, PlotKind::Lines, &some().map(line).collect::<Vec<_>>())?;
    let metric = |group: &Group| {
        let name = format!("logit MSE of x and x', {} ({} images)", group.name, group.images);
        (name, group.mse[STEPS])
    };
    Ok(FigureOutput { name: FIGURE.name, csv, svg, metrics: some().map(metric).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::untrained_model;
    use super::*;

    #[test]
    fn the_curve_runs_from_nothing_to_the_adversarial_image() {
        let mut model = untrained_model(50);
        let [all, success, failure] = curves(&mut model).unwrap();
        assert_eq!([all.mse[0], success.mse[0], failure.mse[0]], [0.0; 3]);
        let TrainedModel { net, batches, .. } = &mut model;
        let (mut sum, mut right) = (0.0, 0);
        for AttackedBatch { x, x_adv, y } in batches.iter() {
            let (z, z_adv) =
                (logits(net, x).unwrap().to_vec().unwrap(), logits(net, x_adv).unwrap().to_vec().unwrap());
            sum += z.iter().zip(z_adv).map(|(a, b)| (*a as f64 - b as f64).powi(2)).sum::<f64>() / 10.0;
            right += correct(x.device(), &logits(net, x).unwrap(), y)
                .unwrap()
                .to_vec()
                .unwrap()
                .iter()
                .sum::<i32>();
        }
        assert!(sum > 0.0 && (all.mse[STEPS] / (sum / 50.0) - 1.0).abs() < 1e-5, "{} {sum}", all.mse[STEPS]);
        assert_eq!((all.images, success.images + failure.images), (50, right as usize));
        let both = success.images as f64 * success.mse[5] + failure.images as f64 * failure.mse[5];
        assert!(both > 0.0 && both <= 50.0 * all.mse[5] * (1.0 + 1e-9));
    }
}
