//! Batch normalisation over the last axis, optionally with ReLU in the same pass.
//!
//! The source of the statistics is an argument of every call (`BnMode`): which passes use or move the running
//! statistics is part of a training method, never a state of the network.

use super::prelude::*;
use super::relu::relu;
use super::valid::Rows;
use crate::device::Table;
use crate::tape::NodeId;
use kernels::batch_norm;

/// Added to the variance.
pub const EPS: f32 = 1e-5;
/// The share of a batch in the running statistics.
pub const MOMENTUM: f32 = 0.1;

/// Which statistics normalise the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum BnMode {
    /// The batch's own; the running ones move towards them.
    Train,
    /// The batch's own; the running ones stay.
    Batch,
    /// The running ones.
    Eval,
}

/// The parameters of a batch norm.
pub struct Norm<'a> {
    /// `[C]`.
    pub weight: Var,
    /// `[C]`.
    pub bias: Var,
    /// The running mean `[C]`.
    pub mean: &'a mut Tensor,
    /// The running variance `[C]`.
    pub var: &'a mut Tensor,
    pub mode: BnMode,
    /// Which images the statistics are of.
    pub rows: &'a Rows,
}

/// (x - mean) / sqrt(var + EPS) * weight + bias per channel, for x of shape `[..., C]`, then ReLU if asked:
/// in one pass over memory where the channels fill whole vectors.
///
/// In `Train` mode the running statistics are updated in place with the batch mean and the unbiased batch
/// variance; for a batch of one value per channel, whose variance is 0 and has no unbiased estimate, that is
/// 0. Where images do not exist (`norm.rows`), the result is 0.
pub fn batch_norm<T: Real>(tape: &Tape, x: Var<T>, norm: Norm, activate: bool) -> Result<Var<T>> {
    let whole = tape.value(x).shape().last().is_some_and(|c| c % kernels::VEC.on(tape.device()) == 0);
    let out = normalise(tape, x, norm, activate && whole)?;
    if activate && !whole { relu(tape, out) } else { Ok(out) }
}

/// The parameters and running statistics of a batch norm, each `[C]`.
pub struct Running {
    pub weight: Tensor,
    pub bias: Tensor,
    pub mean: Tensor,
    pub var: Tensor,
}

/// Running statistics as (scale, shift) of shape `[C]`: batch norm in `Eval` mode is x * scale + shift.
pub fn fold(device: &Device, norms: &[Running]) -> Result<Vec<(Tensor, Tensor)>> {
    let mut table = Table::new(device);
    let mut folded = Vec::with_capacity(norms.len());
    for Running { weight, bias, mean, var } in norms {
        for other in [bias, mean, var] {
            same_shape("batch_norm fold", weight, other)?;
        }
        let channels = weight.len();
        let mut scale = Tensor::uninit(device, &[channels])?;
        let mut shift = Tensor::uninit(device, &[channels])?;
        let row = table.row(elementwise(device, channels)).value(channels);
        row.read(weight.buffer()).read(bias.buffer()).read(mean.buffer()).read(var.buffer());
        row.write(scale.make_mut()?).write(shift.make_mut()?);
        folded.push((scale, shift));
    }
    batch_norm::fold(device, table.blocks(), &table.buffer()?, EPS, table.rows())?;
    Ok(folded)
}

fn normalise<T: Real>(tape: &Tape, x: Var<T>, norm: Norm, relu: bool) -> Result<Var<T>> {
    let Norm { weight, bias, mean, var, mode, rows } = norm;
    let (input, w, b) = (tape.value(x), tape.value(weight), tape.value(bias));
    let parents = [NodeId::from(x), weight.into(), bias.into()];
    check(&input, [&w, &b, mean, var])?;
    let plan = Plan::new(&input, rows);
    let stats = match mode {
        BnMode::Train => plan.batch_stats(&input, &w, &b, Some((mean, var)))?,
        BnMode::Batch => plan.batch_stats(&input, &w, &b, None)?,
        BnMode::Eval => plan.running_stats(&w, &b, mean, var)?,
    };
    let keep_mask = relu && parents.iter().any(|v| tape.needs(*v));
    let (out, mask) = plan.apply(&input, &stats, relu, keep_mask)?;
    let saved = Saved { plan, input, stats, mask };
    tape.push(out, &parents, move |grad, sink| {
        let wants = Wants {
            through_stats: mode != BnMode::Eval && sink.wants(x),
            weight: sink.wants(weight),
            bias: sink.wants(bias),
        };
        let sums = saved.sums(grad, wants)?;
        if let Some((into, accumulate)) = sink.slot(x)? {
            saved.input_grad(grad, sums.coefficients.as_ref(), into, accumulate)?;
        }
        for (var, gradient) in [(weight, sums.weight), (bias, sums.bias)] {
            if let Some(gradient) = gradient {
                sink.pass(var, &gradient)?;
            }
        }
        Ok(())
    })
}

fn check<T: Real>(x: &Tensor<T>, per_channel: [&Tensor; 4]) -> Result<()> {
    let wrong =
        |expected: String, got: &[usize]| Err(Error::Shape { op: "batch_norm", expected, got: got.to_vec() });
    if x.is_empty() {
        return wrong("at least one element".into(), x.shape());
    }
    let channels = x.shape().last().copied().unwrap_or(0);
    match per_channel.into_iter().find(|tensor| tensor.shape() != [channels]) {
        Some(tensor) => wrong(format!("[{channels}] per channel"), tensor.shape()),
        None => Ok(()),
    }
}

/// How the kernels share the work; it depends on the sizes and the kind of device alone, so that results do
/// not depend on its cores.
struct Plan {
    device: Device,
    /// Which images the statistics are of, and the rows of each.
    images: Rows,
    rows_per_image: usize,
    /// Pixels of all images.
    rows: usize,
    channels: usize,
    /// Vectors of channels.
    groups: usize,
    /// Groups side by side in a block.
    side: usize,
    rows_per_block: usize,
}

impl Plan {
    fn new<T: Real>(x: &Tensor<T>, images: &Rows) -> Plan {
        let (device, channels) = (x.device(), x.shape().last().copied().unwrap_or(1));
        let rows = x.len() / channels;
        let rows_per_image = rows / if x.shape().len() > 1 { x.shape()[0] } else { 1 };
        let groups = channels.div_ceil(kernels::VEC.on(device));
        let (tile, threads) = (batch_norm::TILE.on(device), batch_norm::THREADS.on(device));
        let side = groups.next_power_of_two().min(tile).min(threads);
        // As many rows as a block's threads hold at once are the least; beyond that, enough blocks for a
        // large GPU, or chunks that stay in a core's first-level cache.
        let least = threads / side * batch_norm::BATCH.on(device);
        let rows_per_block = if device.has_one_thread_blocks() {
            (8192 / channels).max(rows.div_ceil(1024))
        } else {
            rows.div_ceil(1024usize.div_ceil(groups.div_ceil(tile)))
        };
        Plan {
            device: device.clone(),
            images: images.clone(),
            rows_per_image,
            rows,
            channels,
            groups,
            side,
            rows_per_block: rows_per_block.max(1).next_multiple_of(least),
        }
    }

    /// `[4,C]` of the running statistics.
    fn running_stats(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
    ) -> Result<Buffer<f32>> {
        let mut stats = self.stats()?;
        let (device, grid) = (&self.device, self.groups.div_ceil(32));
        batch_norm::running(device, grid, mean, var, weight, bias, &mut stats, self.channels, EPS)?;
        Ok(stats)
    }

    /// `[4,C]` of the batch; the running mean and variance move towards it.
    fn batch_stats<T: Real>(
        &self,
        x: &Tensor<T>,
        weight: &Tensor,
        bias: &Tensor,
        running: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Result<Buffer<f32>> {
        let Plan { rows, channels, side, rows_per_block, .. } = *self;
        let (mut stats, mut partial) = (self.stats()?, self.partial()?);
        let (num_valid, per_image) = self.images.of_images(self.rows_per_image)?;
        let device = &self.device;
        batch_norm::statistics::<T>(
            device,
            self.columns(),
            x,
            &mut partial,
            num_valid,
            per_image,
            rows,
            channels,
            side,
            rows_per_block,
        )?;
        let (running_mean, running_var) = match running {
            Some((mean, var)) => (Some(mean.make_mut()?), Some(var.make_mut()?)),
            None => (None, None),
        };
        batch_norm::Finish {
            partial: &partial,
            weight,
            bias,
            running_mean,
            running_var,
            stats: &mut stats,
            num_valid,
            per_image,
            rows,
            channels,
            rows_per_block,
            eps: EPS,
            momentum: MOMENTUM,
        }
        .launch(device, self.groups)?;
        Ok(stats)
    }

    /// x normalised, and the bits of the ReLU where they are to be kept.
    fn apply<T: Real>(
        &self,
        x: &Tensor<T>,
        stats: &Buffer<f32>,
        relu: bool,
        keep_mask: bool,
    ) -> Result<(Tensor<T>, Option<Buffer<u8>>)> {
        let mut y = Tensor::<T>::uninit(&self.device, x.shape())?;
        let mut mask =
            keep_mask.then(|| Buffer::<u8>::uninit(&self.device, mask_bytes(x.len()))).transpose()?;
        let (num_valid, per_image) = self.images.of_images(self.rows_per_image)?;
        let Plan { rows, channels, .. } = *self;
        batch_norm::Apply {
            x,
            stats,
            y: &mut y,
            mask: mask.as_mut(),
            num_valid,
            per_image,
            rows,
            channels,
            relu,
        }
        .launch(&self.device, self.elements())?;
        Ok((y, mask))
    }

    /// The grid of a kernel that walks down columns.
    fn columns(&self) -> (usize, usize) {
        (self.chunks(), self.groups.div_ceil(batch_norm::TILE.on(&self.device)))
    }

    /// The grid of a kernel that works on single elements.
    fn elements(&self) -> usize {
        (self.rows * self.groups).div_ceil(batch_norm::PAIRS.on(&self.device))
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block)
    }

    fn padded(&self) -> usize {
        self.groups * kernels::VEC.on(&self.device)
    }

    fn stats(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, 4 * self.padded())
    }

    fn partial(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, self.chunks() * 2 * self.padded())
    }
}

/// Values of the forward pass that the backward pass reads.
struct Saved<T: Real> {
    plan: Plan,
    input: Tensor<T>,
    stats: Buffer<f32>,
    mask: Option<Buffer<u8>>,
}

/// The sums over rows that are wanted.
struct Wants {
    /// The gradient of x through the batch's statistics.
    through_stats: bool,
    weight: bool,
    bias: bool,
}

struct Sums {
    /// `[2,C]`: the mean of the gradient, and its covariance with the normalised x.
    coefficients: Option<Buffer<f32>>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl<T: Real> Saved<T> {
    fn sums(&self, grad_out: &Tensor<T>, wants: Wants) -> Result<Sums> {
        let Saved { plan, input: x, stats, mask } = self;
        let Plan { device, rows, channels, side, rows_per_block, .. } = plan;
        let coefficients = || Buffer::uninit(device, 2 * plan.padded());
        let gradient = |wanted: bool| wanted.then(|| Tensor::uninit(device, &[*channels])).transpose();
        let mut sums = Sums {
            coefficients: wants.through_stats.then(coefficients).transpose()?,
            weight: gradient(wants.weight)?,
            bias: gradient(wants.bias)?,
        };
        if !(wants.through_stats || wants.weight || wants.bias) {
            return Ok(sums);
        }
        let (mask, mut partial) = (mask.as_ref(), plan.partial()?);
        let (num_valid, per_image) = plan.images.of_images(plan.rows_per_image)?;
        let (rows, channels, side, rows_per_block) = (*rows, *channels, *side, *rows_per_block);
        batch_norm::Sums {
            grad_out,
            mask,
            x,
            stats,
            partial: &mut partial,
            num_valid,
            per_image,
            rows,
            channels,
            side,
            rows_per_block,
        }
        .launch(device, plan.columns())?;
        batch_norm::SumsFinish {
            partial: &partial,
            stats,
            grad_weight: sums.weight.as_mut().map(Tensor::make_mut).transpose()?,
            grad_bias: sums.bias.as_mut().map(Tensor::make_mut).transpose()?,
            coefficients: sums.coefficients.as_mut(),
            num_valid,
            per_image,
            rows,
            channels,
            rows_per_block,
        }
        .launch(device, plan.groups)?;
        Ok(sums)
    }

    fn input_grad(
        &self,
        grad_out: &Tensor<T>,
        coefficients: Option<&Buffer<f32>>,
        grad_in: &mut Buffer<T>,
        accumulate: bool,
    ) -> Result<()> {
        let Saved { plan, input: x, stats, mask } = self;
        let Plan { rows, channels, .. } = *plan;
        let (num_valid, per_image) = plan.images.of_images(plan.rows_per_image)?;
        batch_norm::Backward {
            grad_out,
            mask: mask.as_ref(),
            x,
            stats,
            coefficients,
            grad_in,
            num_valid,
            per_image,
            rows,
            channels,
            accumulate,
        }
        .launch(&plan.device, plan.elements())
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub use testing::cases;
#[cfg(test)]
pub(super) use testing::oracle;
