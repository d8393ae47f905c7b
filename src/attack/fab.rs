//! FAB, the fast adaptive boundary attack (Croce and Hein: Minimally distorted adversarial examples with a fast adaptive boundary attack,
//! arXiv 1907.02044), as in AutoAttack.
//!
//! ```text
//! x_0 = x (restarts: a random point at distance eps/2);  best <- infinity
//! repeat T times:
//!     h, w <- z_t - z_y and its gradient at x_k;  d1, d2 <- shortest steps within [0,1] from x_k and from x to where h + <w, . - x_k> = 0
//!     al <- min(|d1| / (|d1| + |d2|), alpha_max);  x_{k+1} <- clip01((1 - al)(x_k + eta d1) + al (x + eta d2))
//!     if x_{k+1} is misclassified: keep it if it is the closest to x;  x_{k+1} <- x + beta (x_{k+1} - x)
//! the closest one counts if its distance is at most eps
//! ```
//! The class t is given in FAB-T; in FAB it is the one whose hyperplane is nearest in each step, for which all K gradients are needed. A
//! point's result depends on the point and its target alone, bit for bit, so points and targets can be packed into any batches.

use super::{Attack, Found, Model, Norm};
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::augment::gather_labels;
use crate::ops::difference::difference;
use crate::ops::fab::{self, Nearest, Stride};
use crate::ops::fill::full;
use crate::ops::predict::{correct, top_class};
use crate::ops::random_start::{Noise, surface};
use crate::ops::survivors::{merge, settle, take};
use crate::rng::{Key, Purpose};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// The walk that both forms share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    pub norm: Norm,
    /// Radius of the ball.
    pub eps: f32,
    /// T.
    pub steps: usize,
    pub stride: Stride,
    /// How much of the way from the clean image a misclassified point keeps.
    pub beta: f32,
}

impl Walk {
    /// 100 steps, alpha_max 0.1, eta 1.05, beta 0.9.
    pub fn new(norm: Norm, eps: f32) -> Walk {
        Walk { norm, eps, steps: 100, stride: Stride { alpha_max: 0.1, eta: 1.05 }, beta: 0.9 }
    }

    /// Walks from `walk`; `plane` gives, for images, h `[N]` and w, or `None` when the logits do not depend on the image.
    fn run(
        &self,
        model: &mut dyn Model,
        x: &Tensor,
        y: &Buffer<i32>,
        mut walk: Tensor,
        mut plane: impl FnMut(&mut dyn Model, &Tensor) -> Result<Option<(Tensor, Tensor)>>,
    ) -> Result<Found> {
        let (device, l2) = (x.device(), self.norm == Norm::L2);
        let right = correct(device, &logits(model, x)?, y)?;
        let mut best = Buffer::from_slice(device, &vec![f32::INFINITY; y.len()])?;
        let mut closest = x.clone();
        for _ in 0..self.steps {
            let Some((h, w)) = plane(model, &walk)? else { break };
            fab::step(l2, &mut walk, x, &w, &h, self.stride)?;
            let held = correct(device, &logits(model, &walk)?, y)?;
            fab::keep(l2, &mut walk, x, &held, &mut best, &mut closest, self.beta)?;
        }
        let (x_adv, success) = settle(x, &closest, &right, &fab::beyond(&best, self.eps)?)?;
        Ok(Found { x_adv, success })
    }
}

/// FAB-T: walks towards each of the classes that rank next for the clean image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FabT {
    pub walk: Walk,
    /// The ranks 2 to `targets + 1` are tried.
    pub targets: usize,
}

impl FabT {
    /// Nine targets.
    pub fn new(norm: Norm, eps: f32) -> FabT {
        FabT { walk: Walk::new(norm, eps), targets: 9 }
    }

    /// Walks from each image towards its own target class; `targets` `[N]`. There is nothing random in it.
    pub fn run_target(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, targets: &Buffer<i32>) -> Result<Found> {
        let ones = full(x.device(), &[y.len()], 1.0)?;
        self.walk.run(model, x, y, x.clone(), |model, at| {
            let tape = Tape::new(at.device());
            let leaf = tape.leaf(at.clone());
            let z = model.logits(&tape, leaf)?;
            let h = difference(&tape, z, y, targets)?;
            let w = tape.backward(h, Some(ones.clone()))?.take(leaf);
            Ok(w.map(|w| (tape.value(h), w)))
        })
    }
}

impl Attack for FabT {
    fn name(&self) -> String {
        "fab-t".into()
    }

    fn run(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, images: &Buffer<i32>) -> Result<Found> {
        let clean = logits(model, x)?;
        let ranks = 2..=(self.targets + 1).min(model.classes());
        rounds(model, x, y, images, ranks, |model, x, y, _, rows, rank| {
            let ranks = Buffer::from_slice(x.device(), &vec![rank as i32; y.len()])?;
            let targets = top_class(x.device(), &take(&clean, rows)?, &ranks)?;
            self.run_target(model, x, y, &targets)
        })
    }
}

/// FAB without targets, several times: first from the image, then from random points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fab {
    pub walk: Walk,
    /// How often it walks.
    pub restarts: usize,
    pub seed: u64,
}

impl Fab {
    /// Five walks.
    pub fn new(norm: Norm, eps: f32, seed: u64) -> Fab {
        Fab { walk: Walk::new(norm, eps), restarts: 5, seed }
    }

    /// One walk; all but the first begin at a random point at half the radius.
    pub fn run_once(
        &self,
        model: &mut dyn Model,
        x: &Tensor,
        y: &Buffer<i32>,
        images: &Buffer<i32>,
        restart: usize,
    ) -> Result<Found> {
        let (device, l2) = (x.device(), self.walk.norm == Norm::L2);
        let start = match restart {
            0 => x.clone(),
            _ => {
                let key = Key::new(self.seed, Purpose::Fab, 0, restart as u32);
                let radius = 0.5 * self.walk.eps;
                let noise = if l2 { Noise::L2(radius) } else { Noise::Linf(radius) };
                surface(x, noise, key, images, &Buffer::zeros(device, images.len())?)?
            }
        };
        let ones = full(device, &[y.len()], 1.0)?;
        let every = |k: usize| Buffer::from_slice(device, &vec![k as i32; y.len()]);
        let rivals = (0..model.classes()).map(every).collect::<Result<Vec<_>>>()?;
        self.walk.run(model, x, y, start, |model, at| {
            let tape = Tape::new(device);
            let leaf = tape.leaf(at.clone());
            let z = model.logits(&tape, leaf)?;
            let mut nearest = Nearest::new(at)?;
            for (k, rival) in rivals.iter().enumerate() {
                let h = difference(&tape, z, y, rival)?;
                let Some(w) = tape.backward(h, Some(ones.clone()))?.take(leaf) else { return Ok(None) };
                nearest.offer(l2, k, &tape.value(h), &w, y)?;
            }
            Ok(Some((nearest.h, nearest.w)))
        })
    }
}

impl Attack for Fab {
    fn name(&self) -> String {
        "fab".into()
    }

    fn run(&self, model: &mut dyn Model, x: &Tensor, y: &Buffer<i32>, images: &Buffer<i32>) -> Result<Found> {
        rounds(model, x, y, images, 0..self.restarts, |model, x, y, images, _, restart| {
            self.run_once(model, x, y, images, restart)
        })
    }
}

/// Logits of images, not differentiated.
pub(super) fn logits(model: &mut dyn Model, x: &Tensor) -> Result<Tensor> {
    let tape = Tape::new(x.device());
    let x = tape.constant(x.clone());
    let z = model.logits(&tape, x)?;
    Ok(tape.value(z))
}

/// Runs the rounds of an attack one after the other, each on the images that those before have left: `round` gets their images, labels and
/// indices, their rows in x, and its number.
fn rounds(
    model: &mut dyn Model,
    x: &Tensor,
    y: &Buffer<i32>,
    images: &Buffer<i32>,
    numbers: impl IntoIterator<Item = usize>,
    mut round: impl FnMut(&mut dyn Model, &Tensor, &Buffer<i32>, &Buffer<i32>, &Buffer<i32>, usize) -> Result<Found>,
) -> Result<Found> {
    let device = x.device();
    let right = correct(device, &logits(model, x)?, y)?;
    let (mut x_adv, mut success) = settle(x, x, &right, &right)?;
    for number in numbers {
        let left: Vec<i32> = (0..).zip(success.to_vec()?).filter(|(_, done)| *done == 0).map(|(row, _)| row).collect();
        if left.is_empty() {
            break;
        }
        let rows = Buffer::from_slice(device, &left)?;
        let (labels, indices) = (gather_labels(y, &rows)?, gather_labels(images, &rows)?);
        let found = round(model, &take(x, &rows)?, &labels, &indices, &rows, number)?;
        merge(&mut x_adv, &mut success, &rows, &found.x_adv, &found.success)?;
    }
    Ok(Found { x_adv, success })
}
