//! PGD (Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv 1706.06083).
//!
//! ```text
//! x' <- clip01(x + u),  u uniform in the eps-ball
//! repeat K times:  g <- gradient of loss(z(x')) with respect to x'
//!     Linf:  x' <- clip01(clip(x' + alpha sign(g), x - eps, x + eps))
//!     L2:    d <- x' + alpha g / (|g| + 1e-8) - x;  d <- d min(1, eps / |d|);  x' <- clip01(x + d)
//! ```

use super::Norm;
use crate::device::Buffer;
use crate::error::Result;
use crate::nn::{BnMode, Net};
use crate::ops::add::add;
use crate::ops::attack_step::{l2_step, linf_step};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::random_start::{gaussian, uniform_l2, uniform_linf};
use crate::ops::reduce::Reduction;
use crate::rng::Key;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Where an attack starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At a point drawn uniformly from the eps-ball, clipped to `[0,1]`.
    Uniform,
    /// At the clean image.
    Clean,
    /// At the clean image plus normal noise of this standard deviation, not clipped.
    Gaussian(f32),
}

/// Projected gradient ascent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pgd {
    pub norm: Norm,
    /// Radius of the ball, of pixels in `[0,1]`.
    pub eps: f32,
    /// alpha, the length of a step.
    pub step: f32,
    /// K.
    pub steps: usize,
    pub start: Start,
    /// Batch norm inside the attack.
    pub bn: BnMode,
}

impl Default for Pgd {
    /// Linf 8/255, step 2/255, ten steps, uniform start, eval-mode batch norm.
    fn default() -> Pgd {
        Pgd {
            norm: Norm::Linf,
            eps: 8.0 / 255.0,
            step: 2.0 / 255.0,
            steps: 10,
            start: Start::Uniform,
            bn: BnMode::Eval,
        }
    }
}

/// Which random numbers an attack uses: those of `key` for each image's index in its data set.
#[derive(Clone, Copy)]
pub struct Draws<'a> {
    pub key: Key,
    /// `[N]`, the images' indices.
    pub images: &'a Buffer<i32>,
}

impl Pgd {
    /// Adversarial images `[N,H,W,C]` that raise the cross entropy of `labels`.
    pub fn cross_entropy(
        &self,
        net: &mut Net,
        x: &Tensor,
        labels: &Buffer<i32>,
        draws: Draws,
    ) -> Result<Tensor> {
        let start = self.start(x, draws)?;
        self.ascend(net, x, start, |tape, z| cross_entropy(tape, z, labels, Reduction::Sum))
    }

    /// The point where the attack starts.
    pub fn start(&self, x: &Tensor, draws: Draws) -> Result<Tensor> {
        match (self.start, self.norm) {
            (Start::Clean, _) => Ok(x.clone()),
            (Start::Uniform, Norm::Linf) => uniform_linf(x, self.eps, draws.key, draws.images),
            (Start::Uniform, Norm::L2) => uniform_l2(x, self.eps, draws.key, draws.images),
            (Start::Gaussian(sigma), _) => gaussian(x, sigma, draws.key, draws.images),
        }
    }

    /// The start at `x + noise`, clipped to `[0,1]` where this attack's start is clipped.
    pub fn start_at(&self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let tape = Tape::new(x.device());
        let start = tape.value(add(&tape, tape.constant(x.clone()), tape.constant(noise.clone()))?);
        match self.start {
            Start::Gaussian(_) => Ok(start),
            // A step of length 0 in a ball that holds all images only clips.
            Start::Uniform | Start::Clean => {
                let (mut start, still) = (start.clone(), Tensor::zeros(x.device(), x.shape())?);
                linf_step(&mut start, &still, x, 0.0, f32::INFINITY)?;
                Ok(start)
            }
        }
    }

    /// Ascends `loss(logits)` from `x_adv`. No weight gradient is computed.
    pub fn ascend(
        &self,
        net: &mut Net,
        x: &Tensor,
        x_adv: Tensor,
        loss: impl Fn(&Tape, Var) -> Result<Var>,
    ) -> Result<Tensor> {
        self.climb(x, x_adv, |tape, image| {
            let z = net.forward(tape, image, self.bn, None)?;
            loss(tape, z)
        })
    }

    /// Ascends any `loss(images)` from `x_adv`.
    pub fn climb(
        &self,
        x: &Tensor,
        mut x_adv: Tensor,
        mut loss: impl FnMut(&Tape, Var) -> Result<Var>,
    ) -> Result<Tensor> {
        for _ in 0..self.steps {
            let g = {
                let tape = Tape::new(x.device());
                let leaf = tape.leaf(x_adv.clone());
                let ascended = loss(&tape, leaf)?;
                tape.backward(ascended, None)?.take(leaf)
            };
            // A loss that does not depend on the image has no gradient: there is nothing to climb.
            let Some(g) = g else { break };
            match self.norm {
                Norm::Linf => linf_step(&mut x_adv, &g, x, self.step, self.eps)?,
                Norm::L2 => l2_step(&mut x_adv, &g, x, self.step, self.eps)?,
            }
        }
        Ok(x_adv)
    }
}
