//! The moves of the Square attack's random search on a batch: where it starts, what a query changes, and
//! whether that is kept.
//!
//! A query is judged and the next one made by one kernel (`turn`), which in Linf touches nothing but the two
//! windows. Nothing is read back.

use super::cross_entropy::labelled;
use super::prelude::*;
use crate::rng::Key;
use kernels::square;

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Window {
    /// All of an image.
    pub fn whole(height: usize, width: usize) -> Window {
        Window { top: 0, left: 0, height, width }
    }

    /// No pixel.
    const NONE: Window = Window { top: 0, left: 0, height: 0, width: 0 };

    fn inside(self, [_, h, w, _]: [usize; 4]) -> Result<Window> {
        if self.top + self.height > h || self.left + self.width > w {
            return Err(Error::Shape {
                op: "square",
                expected: format!("windows inside [{h},{w}]"),
                got: vec![self.top, self.left],
            });
        }
        Ok(self)
    }
}

/// A change in Linf: a window and a sign per channel, bit c of `signs`.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    pub window: Window,
    pub signs: u32,
}

/// A change in L2: where the pyramid goes and where its mass comes from, both squares of the pyramid's side.
#[derive(Clone, Copy)]
pub struct Transfer<'a> {
    pub pyramid: &'a Pyramid,
    /// Top and left of the square that gets the pyramid.
    pub to: [usize; 2],
    /// Top and left of the square that gives its mass.
    pub from: [usize; 2],
    /// Whether the pyramid's halves lie side by side, not above each other.
    pub transposed: bool,
    /// Of the signs per image and channel.
    pub key: Key,
}

/// The search on a batch.
pub struct Search {
    /// The clean images `[N,H,W,C]`.
    pub x: Tensor,
    /// The images with the smallest margins so far.
    pub best: Tensor,
    /// The images that are asked about.
    pub trial: Tensor,
    /// `[N]`: the smallest margins so far; rows at 0 or below are done and do not change.
    pub best_margin: Buffer<f32>,
}

impl Search {
    /// Keeps, in each row, the trial if its `margin` `[N]` is below the smallest so far or not above 0, and
    /// makes the `next` trial. The last trial may differ from `best` inside the window `before` only.
    pub fn turn_linf(
        &mut self,
        margin: &Tensor,
        eps: f32,
        before: Window,
        next: Option<Patch>,
    ) -> Result<()> {
        let (rows, shape, size) = self.sizes(margin)?;
        let [_, _, image_width, channels] = shape;
        let Patch { window, signs } = next.unwrap_or(Patch { window: Window::NONE, signs: 0 });
        let old = before.inside(shape)?;
        let Window { top, left, height, width } = window.inside(shape)?;
        if channels > 32 {
            return Err(Error::Shape {
                op: "square",
                expected: "at most 32 channels".into(),
                got: shape.to_vec(),
            });
        }
        let Search { x, best, trial, best_margin } = self;
        square::TurnLinf {
            x,
            best,
            trial,
            least: best_margin,
            margin,
            eps,
            signs,
            old_top: old.top,
            old_left: old.left,
            old_height: old.height,
            old_width: old.width,
            top,
            left,
            height,
            width,
            image_width,
            channels,
            size,
        }
        .launch(margin.device(), rows)
    }

    /// The same in L2, where a trial may differ anywhere; `images` `[N]` are the indices in the data set.
    pub fn turn_l2(
        &mut self,
        margin: &Tensor,
        eps: f32,
        images: &Buffer<i32>,
        next: Option<Transfer>,
    ) -> Result<()> {
        let (rows, shape, size) = self.sizes(margin)?;
        labelled("square", images, rows)?;
        let [_, _, image_width, channels] = shape;
        let (side, [top, left], [other_top, other_left]) =
            next.map_or((0, [0, 0], [0, 0]), |next| (next.pyramid.side, next.to, next.from));
        for (top, left) in [(top, left), (other_top, other_left)] {
            Window { top, left, height: side, width: side }.inside(shape)?;
        }
        let Search { x, best, trial, best_margin } = self;
        square::TurnL2 {
            x,
            best,
            trial,
            least: best_margin,
            margin,
            images,
            // Any buffer stands for a pyramid that is not read.
            pyramid: next.map_or(x, |next| &next.pyramid.values),
            key: next.map_or(0, |next| next.key.bits()),
            eps,
            transposed: next.is_some_and(|next| next.transposed),
            side,
            top,
            left,
            other_top,
            other_left,
            image_width,
            channels,
            size,
        }
        .launch(margin.device(), rows)
    }

    /// The search from where `trial` is, which every image takes that `correct` says is classified correctly;
    /// the others are done.
    pub fn begin(x: Tensor, trial: Tensor, correct: &Buffer<i32>) -> Result<Search> {
        let (device, n) = (x.device(), correct.len());
        let mut best_margin = Buffer::uninit(device, n)?;
        square::begin(device, elementwise(device, n), correct, &mut best_margin, n)?;
        Ok(Search { best: x.clone(), x, trial, best_margin })
    }

    fn sizes(&self, margin: &Tensor) -> Result<(usize, [usize; 4], usize)> {
        let shape = self.x.nhwc("square")?;
        same_shape("square", &self.x, &self.best)?;
        same_shape("square", &self.x, &self.trial)?;
        if margin.len() != shape[0] || self.best_margin.len() != shape[0] {
            return Err(Error::Shape {
                op: "square",
                expected: format!("{} margins", shape[0]),
                got: margin.shape().to_vec(),
            });
        }
        Ok((shape[0], shape, shape[1..].iter().product()))
    }
}

/// clip01(x + eps s) with a random sign s for each image, column and channel.
pub fn start_linf(x: &Tensor, eps: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> {
    let [n, h, w, c] = x.nhwc("square")?;
    labelled("square", images, n)?;
    let mut trial = Tensor::uninit(x.device(), x.shape())?;
    square::start_linf(x.device(), n, x, images, &mut trial, key.bits(), eps, w * c, h * w * c)?;
    Ok(trial)
}

/// clip01(x + eps d / |d|) with d five by five pyramids (more where tiles of a fifth of the height fit more
/// often), each with a random direction and sign for each image and channel.
pub fn start_l2(x: &Tensor, eps: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> {
    let [n, image_height, image_width, channels] = x.nhwc("square")?;
    labelled("square", images, n)?;
    let (device, side) = (x.device(), (image_height / 5).max(1));
    let (pyramid, origin) = (Pyramid::new(device, side)?, image_height.saturating_sub(5 * side) / 2);
    let mut trial = Tensor::uninit(device, x.shape())?;
    square::StartL2 {
        x,
        images,
        trial: &mut trial,
        pyramid: &pyramid.values,
        key: key.bits(),
        eps,
        side,
        origin,
        image_height,
        image_width,
        channels,
    }
    .launch(device, n)?;
    Ok(trial)
}

/// The L2 attack's pattern on a square: a hill above a hole, of length 1.
pub struct Pyramid {
    pub side: usize,
    values: Buffer<f32>,
}

impl Pyramid {
    pub fn new(device: &Device, side: usize) -> Result<Pyramid> {
        let values: Vec<f32> = pyramid(side).iter().map(|v| *v as f32).collect();
        Ok(Pyramid { side, values: Buffer::from_slice(device, &values)? })
    }
}

/// The upper half, of `side / 2` rows, is a hill of length 1, the rest the hole; their union has length 1.
fn pyramid(side: usize) -> Vec<f64> {
    let (hill, hole) = (hill(side / 2, side), hill(side - side / 2, side));
    let both: Vec<f64> = hill.into_iter().chain(hole.into_iter().map(|v| -v)).collect();
    unit(both)
}

/// Nested rectangles around the middle: the j-th, of half width j - 1, adds 1 / j^2.
fn hill(height: usize, width: usize) -> Vec<f64> {
    let (middle, layers) = ([height / 2, width / 2], (height / 2 + 1).max(width / 2 + 1));
    let layer = |row: usize, column: usize| row.abs_diff(middle[0]).max(column.abs_diff(middle[1]));
    let value = |row, column| (layer(row, column)..layers).map(|j| 1.0 / ((j + 1) * (j + 1)) as f64).sum();
    unit((0..height * width).map(|i| value(i / width, i % width)).collect())
}

fn unit(values: Vec<f64>) -> Vec<f64> {
    let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.into_iter().map(|v| v / length).collect()
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub use testing::cases;
