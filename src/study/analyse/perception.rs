//! RPAT's motivation (arXiv 2508.02186): how far the logits move on the way from the clean image to the
//! adversarial one.
//!
//! ```text
//! x_t = x + t (x' - x);  the mean over images of 1/K |z(x_t) - z(x)|^2,  t = 0, 0.1 .. 1
//! ```
//!
//! For all images, and for those that are classified correctly when clean: where the attack succeeds (x' is
//! wrong), and where it fails.

use super::{Attacked, Figure, Made, Subject, logits};
use crate::error::Result;
use crate::method::common::perturbation::reduced;
use crate::ops::mse::mse_per_row;
use crate::ops::predict::correct;
use crate::report::plot::{Axes, PlotKind, Series, draw};

pub const FIGURE: Figure = Figure {
    name: "perception",
    about: "logit MSE between clean and perturbed images, on the way to the attack's result",
    make,
};

/// Parts of the way from x to x'.
const STEPS: usize = 10;

/// Images and the means over them at every step of the way.
struct Group {
    name: &'static str,
    images: usize,
    mse: Vec<f64>,
}

fn curves(subject: &mut Subject) -> Result<[Group; 3]> {
    let mut groups =
        ["all", "success", "failure"].map(|name| Group { name, images: 0, mse: vec![0.0; STEPS + 1] });
    let Subject { net, batches, .. } = subject;
    for Attacked { x, x_adv, y } in batches.iter() {
        let (z, z_adv) = (logits(net, x)?, logits(net, x_adv)?);
        let right = correct(x.device(), &z, y)?.to_vec()?.into_iter().map(|hit| hit != 0);
        let still = correct(x.device(), &z_adv, y)?.to_vec()?.into_iter().map(|hit| hit != 0);
        let belongs: Vec<[bool; 3]> =
            right.zip(still).map(|(right, still)| [true, right && !still, right && still]).collect();
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

fn make(subject: &mut Subject) -> Result<Made> {
    let groups = curves(subject)?;
    let part = |step: usize| step as f64 / STEPS as f64;
    let mut csv = "t,all,success,failure\n".to_owned();
    for step in 0..=STEPS {
        // A group without images has no mean.
        let cell = |group: &Group| if group.images > 0 { group.mse[step].to_string() } else { String::new() };
        csv += &format!("{},{}\n", part(step), groups.each_ref().map(cell).join(","));
    }
    let some = || groups.iter().filter(|group| group.images > 0);
    let line = |group: &Group| {
        let points = group.mse.iter().enumerate().map(|(step, mse)| (part(step), *mse)).collect();
        Series { name: format!("{} ({})", group.name, group.images), points }
    };
    let axes = Axes {
        title: "Perception of a growing perturbation",
        x: "t: part of the perturbation, x + t (x' - x)",
        y: "logit MSE to the clean image",
        ..Axes::default()
    };
    let svg = draw(&axes, PlotKind::Lines, &some().map(line).collect::<Vec<_>>())?;
    let fact = |group: &Group| {
        (format!("logit MSE of x and x', {} ({} images)", group.name, group.images), group.mse[STEPS])
    };
    Ok(Made { csv, svg, facts: some().map(fact).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::untrained;
    use super::*;

    #[test]
    fn the_curve_runs_from_nothing_to_the_adversarial_image() {
        let mut subject = untrained(50);
        let [all, success, failure] = curves(&mut subject).unwrap();
        assert_eq!([all.mse[0], success.mse[0], failure.mse[0]], [0.0; 3]);
        let Subject { net, batches, .. } = &mut subject;
        let (mut sum, mut right) = (0.0, 0);
        for Attacked { x, x_adv, y } in batches.iter() {
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
