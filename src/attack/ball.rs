//! The ball of allowed perturbations: where an attack starts, how it moves, and how it stays inside.
//!
//! ```text
//! uniform:  x' <- clip01(x + u),  u uniform in the ball
//! surface:  x' <- clip01(x + eps t / |t|),  t random, |t| in the ball's norm
//! step along g, of length alpha:
//!     Linf:  x' <- clip01(clip(x' + alpha sign(g), x - eps, x + eps))
//!     L2:    d <- x' + alpha g / (|g| + 1e-8) - x;  d <- d min(1, eps / |d|);  x' <- clip01(x + d)
//! ```

use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ops::attack_step::{l2_step, linf_step};
use crate::ops::prelude::same_shape;
use crate::ops::random_start::{self, Noise, noisy};
use crate::rng::Key;
use crate::tape::SignStep;
use crate::tensor::Tensor;

/// How a perturbation is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Norm {
    /// The largest change of a pixel channel.
    Linf,
    /// The Euclidean length of the change of an image.
    L2,
}

impl Norm {
    /// The largest radius with a meaning: that of all of `[0,1]`, or more than the diagonal of any image.
    pub const fn largest_radius(self) -> f32 {
        match self {
            Norm::Linf => 1.0,
            Norm::L2 => 1e4,
        }
    }

    /// What is wrong with a radius above [`Norm::largest_radius`], and what to write instead.
    pub const fn too_large(self) -> &'static str {
        match self {
            Norm::Linf => "pixels lie in [0, 1]; write 8/255 or add --pixel-units",
            Norm::L2 => "longer than the diagonal of any image; write 128/255 or add --pixel-units",
        }
    }
}

/// Perturbations of at most this size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ball {
    pub norm: Norm,
    /// Radius, of pixels in `[0,1]`.
    pub eps: f32,
}

/// Where an attack starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At a point drawn uniformly from the ball, clipped to `[0,1]`.
    Uniform,
    /// At the clean image.
    Clean,
    /// At the clean image plus normal noise of this standard deviation, not clipped.
    Gaussian(f32),
}

/// The random numbers of a batch: those of `key` for each image's index in its data set.
#[derive(Clone, Copy)]
pub struct RngKey<'a> {
    pub key: Key,
    /// `[N]`, the images' indices.
    pub images: &'a Buffer<i32>,
}

impl Default for Ball {
    /// Linf 8/255.
    fn default() -> Ball {
        Ball::linf(8.0 / 255.0)
    }
}

impl Ball {
    pub const fn linf(eps: f32) -> Ball {
        Ball { norm: Norm::Linf, eps }
    }

    /// Errors: a radius above [`Norm::largest_radius`].
    pub fn check(self) -> Result<()> {
        if self.eps <= self.norm.largest_radius() {
            return Ok(());
        }
        Err(Error::value("eps", self.eps, self.norm.too_large()))
    }

    /// PGD's step for this radius: a quarter of eps in Linf (2/255 of 8/255), 15/128 of eps in L2 (15/255 of
    /// 128/255).
    pub fn default_step_size(self) -> f32 {
        match self.norm {
            Norm::Linf => self.eps / 4.0,
            Norm::L2 => self.eps * 15.0 / 128.0,
        }
    }

    /// The ball of `factor` times the radius.
    pub fn scaled(self, factor: f32) -> Ball {
        Ball { eps: factor * self.eps, ..self }
    }

    /// Points drawn uniformly from the balls around x `[N,H,W,C]`, clipped to `[0,1]`.
    pub fn uniform(self, x: &Tensor, rng: RngKey) -> Result<Tensor> {
        noisy(x, self.noise(), rng.key, rng.images, true)
    }

    /// Random points of the surfaces of the balls around x, clipped to `[0,1]`; rows of one image and several
    /// `views` `[N]` draw different points.
    pub fn surface(self, x: &Tensor, rng: RngKey, views: &Buffer<i32>) -> Result<Tensor> {
        random_start::surface(x, self.noise(), rng.key, rng.images, views)
    }

    /// Moves `x_adv` by a step of length `alpha` along `direction`, then back into the balls around x and
    /// into `[0,1]`; all `[N,H,W,C]`.
    pub fn step(self, x_adv: &mut Tensor, direction: &Tensor, x: &Tensor, alpha: f32) -> Result<()> {
        match self.norm {
            Norm::Linf => linf_step(x_adv, direction, x, alpha, self.eps),
            Norm::L2 => l2_step(x_adv, direction, x, alpha, self.eps),
        }
    }

    /// [`Ball::step`] as that of a leaf; `None` where it takes more than the sign of the gradient.
    pub fn sign_step(self, x: &Tensor, alpha: f32) -> Option<SignStep> {
        (self.norm == Norm::Linf).then(|| SignStep { x: x.clone(), alpha, eps: self.eps })
    }

    fn noise(self) -> Noise {
        match self.norm {
            Norm::Linf => Noise::Linf(self.eps),
            Norm::L2 => Noise::L2(self.eps),
        }
    }
}

impl Start {
    /// The starting points around x `[N,H,W,C]`.
    pub fn draw(self, ball: Ball, x: &Tensor, rng: RngKey) -> Result<Tensor> {
        match self {
            Start::Clean => Ok(x.clone()),
            Start::Uniform => ball.uniform(x, rng),
            Start::Gaussian(sigma) => random_start::gaussian(x, sigma, rng.key, rng.images),
        }
    }

    /// The starting points x + noise, with noise that is given and not drawn; clipped to `[0,1]` unless this
    /// start is Gaussian. For comparisons with other implementations: the host adds.
    pub fn at(self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        same_shape("start", x, noise)?;
        let clips = !matches!(self, Start::Gaussian(_));
        let mut start = x.to_vec()?;
        for (value, noise) in start.iter_mut().zip(noise.to_vec()?) {
            *value += noise;
            if clips {
                *value = value.clamp(0.0, 1.0);
            }
        }
        Tensor::from_slice(x.device(), x.shape(), &start)
    }

    /// Whether two starts with different keys differ.
    pub fn is_random(self) -> bool {
        self != Start::Clean
    }
}
