//! Verification after the last attack: the stored adversarial images lie in the ball and in `[0,1]`, and the
//! network classifies them as reported.

use super::outcome::PointOutcomes;
use super::protocol::AdvImages;
use crate::attack::{Ball, Model, Norm, logits};
use crate::data::device_dataset::DeviceDataset;
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::augment::Augmentation;
use crate::ops::predict::argmax;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The result of the checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether all of them hold.
    pub passed: bool,
    /// The largest distance of an image from its clean one, in the norm; the largest float where one is NaN.
    pub largest_distance: f64,
    /// Images that are farther away than eps and the rounding of one float32 operation per pixel.
    pub outside_ball: usize,
    /// Images with a pixel below 0, above 1 or NaN.
    pub outside_box: usize,
    /// Points whose fresh prediction differs from the reported one.
    pub other_outcome: usize,
    /// Points with a logit that is infinite or NaN: the prediction means nothing.
    #[serde(default)]
    pub no_logits: usize,
}

impl Verification {
    /// Adds the result for other points.
    pub fn join(&mut self, other: &Verification) {
        self.largest_distance = self.largest_distance.max(other.largest_distance);
        self.outside_ball += other.outside_ball;
        self.outside_box += other.outside_box;
        self.other_outcome += other.other_outcome;
        self.no_logits += other.no_logits;
        self.passed = self.outside_ball + self.outside_box + self.other_outcome + self.no_logits == 0;
    }

    /// The result in one line.
    pub fn in_words(&self) -> String {
        let distance = self.largest_distance;
        self.complaint().unwrap_or_else(|| {
            format!(
                "passed: all images in the ball (largest distance {distance:.4}) and in [0,1], predictions \
                 reproduced"
            )
        })
    }

    /// The failures, in one line; `None` where all checks passed.
    pub fn complaint(&self) -> Option<String> {
        let Verification { largest_distance, outside_ball, outside_box, other_outcome, no_logits, .. } = self;
        let largest =
            if *largest_distance == f64::MAX { "not a number".into() } else { largest_distance.to_string() };
        (!self.passed).then(|| {
            format!(
                "verification failed: {outside_ball} images are outside of the ball (largest distance \
                 {largest}), {outside_box} outside of [0,1], {other_outcome} are classified otherwise than \
                 reported, {no_logits} have logits that are not finite numbers"
            )
        })
    }
}

/// Checks all images of `range`: the stored ones, and the clean ones of points without. Also returns the
/// fresh predictions.
pub fn verify(
    model: &mut dyn Model,
    data: &DeviceDataset,
    range: Range<usize>,
    ball: Ball,
    images: &AdvImages,
    outcomes: &PointOutcomes,
    batch: usize,
) -> Result<(Verification, Vec<i32>)> {
    let mut verification = Verification { passed: true, ..Verification::default() };
    let mut predictions = Vec::with_capacity(range.len());
    let points: Vec<usize> = (0..range.len()).collect();
    for points in points.chunks(batch.max(1)) {
        let indices: Vec<i32> = points.iter().map(|point| (range.start + point) as i32).collect();
        let (x, y) = data.batch(&Buffer::from_slice(data.device(), &indices)?, &Augmentation::none())?;
        let clean = x.to_vec()?;
        let size = clean.len() / points.len();
        let mut adv = clean.clone();
        for (row, point) in points.iter().enumerate() {
            if let Some(image) = images.get(point) {
                adv[row * size..][..size].copy_from_slice(image);
            }
        }
        let z = logits(model, &Tensor::from_slice(data.device(), x.shape(), &adv)?)?;
        let fresh = argmax(data.device(), &z)?.to_vec()?;
        let finite: Vec<bool> =
            z.to_vec()?.chunks(z.len() / points.len()).map(|row| row.iter().all(|v| v.is_finite())).collect();
        let rows = clean.chunks(size).zip(adv.chunks(size));
        let answers = fresh.iter().zip(&finite).zip(y.to_vec()?);
        for (((clean, adv), point), ((class, finite), label)) in rows.zip(points).zip(answers) {
            let (distance, allowed) = distance(ball, clean, adv);
            let inside = distance <= allowed;
            verification.join(&Verification {
                passed: true,
                largest_distance: if distance.is_nan() { f64::MAX } else { distance },
                outside_ball: !inside as usize,
                outside_box: !adv.iter().all(|v| (0.0..=1.0).contains(v)) as usize,
                other_outcome: ((*class == label) != outcomes.0[*point].is_none()) as usize,
                no_logits: !finite as usize,
            });
        }
        predictions.extend(fresh);
    }
    Ok((verification, predictions))
}

/// The distance of two images, and the largest that is allowed: eps and one unit in the last place of each
/// pixel; in L2 also the rounding of float32 sums of that length.
fn distance(Ball { norm, eps }: Ball, clean: &[f32], adv: &[f32]) -> (f64, f64) {
    let changes =
        || clean.iter().zip(adv).map(|(a, b)| (*b as f64 - *a as f64, ulp(a.abs().max(b.abs()).max(eps))));
    let eps = eps as f64;
    match norm {
        // The change that exceeds its allowance most decides; f64::max would ignore NaN.
        Norm::Linf => changes().fold((0.0, eps), |(most, allowed), (d, ulp)| match d.abs() {
            d if d.is_nan() => (f64::NAN, allowed),
            d if d - ulp > most - (allowed - eps) => (d, eps + ulp),
            _ => (most, allowed),
        }),
        Norm::L2 => {
            let (squares, ulps) = changes().fold((0.0, 0.0), |(s, u), (d, ulp)| (s + d * d, u + ulp * ulp));
            (squares.sqrt(), eps * (1.0 + 1e-6) + ulps.sqrt())
        }
    }
}

/// The distance from a positive float to the next.
fn ulp(value: f32) -> f64 {
    (f32::from_bits(value.to_bits() + 1) - value) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_know_rounding_from_too_far() {
        let eps = 8.0 / 255.0;
        let within = |norm, clean: &[f32], adv: &[f32]| {
            let (distance, allowed) = distance(Ball { norm, eps }, clean, adv);
            distance <= allowed
        };
        for x in (0..=255).map(|byte| byte as f32 / 255.0) {
            assert!(
                within(Norm::Linf, &[0.5, x], &[0.5, x + eps]) && within(Norm::Linf, &[x], &[x - eps]),
                "{x}"
            );
            assert!(!within(Norm::Linf, &[0.5, x], &[0.5, x + eps + 3e-7]), "{x}");
            assert!(within(Norm::L2, &[0.5, x], &[0.5 - 0.6 * eps, x + 0.8 * eps]), "{x}");
            assert!(!within(Norm::L2, &[0.5, x], &[0.5 - 0.6 * eps, x + 0.8 * eps + 1e-6]), "{x}");
        }
        for norm in [Norm::Linf, Norm::L2] {
            assert!(
                !within(norm, &[0.5, 0.5], &[f32::NAN, 0.5]) && !within(norm, &[0.5, 0.5], &[0.5, f32::NAN])
            );
        }
        assert_eq!(distance(Ball { norm: Norm::Linf, eps }, &[0.0, 0.25], &[0.0, 0.75]).0, 0.5);
    }
}
