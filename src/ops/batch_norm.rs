//! Batch normalisation over the last axis, optionally with ReLU in the same pass.
//!
//! The source of the statistics is an argument of every call (`BnMode`): which passes use or move the running
//! statistics is part of a training method, never a state of the network.

mod measured;
mod plan;

use super::prelude::*;
use super::relu::relu;
use super::valid::Rows;
use crate::device::Table;
use crate::tape::NodeId;
use kernels::batch_norm;
use plan::Plan;

pub use measured::{ChunkStatistics, Measured};

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
pub fn batch_norm<T: Real>(
    tape: &Tape,
    x: impl Into<Measured<T>>,
    norm: Norm,
    activate: bool,
) -> Result<Var<T>> {
    let x = x.into();
    let whole = tape.value(x.x).shape().last().is_some_and(|c| c % kernels::VEC.on(tape.device()) == 0);
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

fn normalise<T: Real>(tape: &Tape, x: Measured<T>, norm: Norm, relu: bool) -> Result<Var<T>> {
    let Measured { x, statistics } = x;
    let Norm { weight, bias, mean, var, mode, rows } = norm;
    let (input, w, b) = (tape.value(x), tape.value(weight), tape.value(bias));
    let parents = [NodeId::from(x), weight.into(), bias.into()];
    check(&input, [&w, &b, mean, var])?;
    let plan = Plan::new(&input, rows);
    let stats = match mode {
        BnMode::Train => plan.batch_stats(&input, statistics, &w, &b, Some((mean, var)))?,
        BnMode::Batch => plan.batch_stats(&input, statistics, &w, &b, None)?,
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
