//! Restarts, and targets one after the other: attempts on the points that have withstood the earlier ones.

use super::objective::logits;
use super::{AttackResult, Model};
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ops::augment::gather_i32;
use crate::ops::gather::{gather, scatter};
use crate::ops::predict::misclassified;
use crate::tensor::Tensor;

/// A batch of images x `[N,H,W,C]` in `[0,1]` with labels `[N]` and their indices in the data set `[N]`.
#[derive(Clone, Copy)]
pub struct Points<'a> {
    pub x: &'a Tensor,
    pub y: &'a Buffer<i32>,
    pub images: &'a Buffer<i32>,
}

impl Points<'_> {
    /// Errors: not one label and one index for each image.
    pub fn checked(self) -> Result<Self> {
        let [n, ..] = self.x.nhwc("attack")?;
        if self.y.len() == n && self.images.len() == n {
            return Ok(self);
        }
        let expected = format!("images for {} labels and {} indices", self.y.len(), self.images.len());
        Err(Error::Shape { op: "attack", expected, got: self.x.shape().to_vec() })
    }
}

/// Attempts with these numbers (of restarts, of target classes), in order, each on the points that are left:
/// a point keeps the image of the first attempt that succeeds, or else of the last. The host reads once per
/// attempt which points are left.
///
/// Errors: no attempt at all.
pub fn attempts<T>(
    points: Points,
    numbers: impl IntoIterator<Item = T>,
    mut attempt: impl FnMut(T, Points) -> Result<AttackResult>,
) -> Result<AttackResult> {
    let (points, mut numbers) = (points.checked()?, numbers.into_iter());
    let first = numbers
        .next()
        .ok_or_else(|| Error::value("restarts and targets", 0, "an attack needs at least one"))?;
    let device = points.x.device();
    if points.y.is_empty() {
        return Ok(AttackResult { x_adv: points.x.clone(), success: Buffer::zeros(device, 0)? });
    }
    let mut result = attempt(first, points)?;
    let mut success = result.success.to_vec()?;
    for number in numbers {
        let left: Vec<i32> = (0..).zip(&success).filter(|(_, s)| **s == 0).map(|(row, _)| row).collect();
        if left.is_empty() {
            break;
        }
        if left.len() == success.len() {
            result = attempt(number, points)?;
            success = result.success.to_vec()?;
            continue;
        }
        let rows = Buffer::from_slice(device, &left)?;
        let (x, y, images) =
            (gather(points.x, &rows)?, gather_i32(points.y, &rows)?, gather_i32(points.images, &rows)?);
        let more = attempt(number, Points { x: &x, y: &y, images: &images })?;
        scatter(&mut result.x_adv, &rows, &more.x_adv, &Buffer::from_slice(device, &vec![1; left.len()])?)?;
        for (row, succeeded) in left.iter().zip(more.success.to_vec()?) {
            success[*row as usize] = succeeded;
        }
    }
    Ok(AttackResult { success: Buffer::from_slice(device, &success)?, ..result })
}

/// Attempts at the classes of these ranks, one after the other, each `restarts` times: `attempt` gets the
/// points, their target ranks `[N]`, which are all equal, and the number of the restart.
pub fn at_target_ranks(
    points: Points,
    target_ranks: impl IntoIterator<Item = usize>,
    restarts: usize,
    mut attempt: impl FnMut(Points, &Buffer<i32>, usize) -> Result<AttackResult>,
) -> Result<AttackResult> {
    let runs = target_ranks.into_iter().flat_map(|rank| (0..restarts).map(move |restart| (rank, restart)));
    attempts(points, runs, |(rank, restart), points| {
        let ranks = Buffer::from_slice(points.x.device(), &vec![rank as i32; points.y.len()])?;
        attempt(points, &ranks, restart)
    })
}

impl AttackResult {
    /// These images, and the model's answer on which of them fool it.
    pub fn of(model: &mut dyn Model, y: &Buffer<i32>, x_adv: Tensor) -> Result<AttackResult> {
        let success = misclassified(x_adv.device(), &logits(model, &x_adv)?, y)?;
        Ok(AttackResult { x_adv, success })
    }
}
