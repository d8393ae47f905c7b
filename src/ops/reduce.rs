//! Sum and mean of all values, and how losses per row become one number.

use super::prelude::*;
use kernels::reduce;

/// How the losses of the rows of a batch are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean, shape `[1]`.
    Mean,
    /// Their sum, shape `[1]`.
    Sum,
    /// As they are, shape `[N]`.
    PerSample,
}

impl Reduction {
    /// The result of a loss, from its losses per row.
    fn apply(self, rows: Tensor) -> Result<Tensor> {
        match self {
            Reduction::PerSample => Ok(rows),
            _ => total(&rows, self.factor(rows.len())),
        }
    }

    fn factor(self, rows: usize) -> f32 {
        match self {
            Reduction::Mean => 1.0 / rows as f32,
            Reduction::Sum | Reduction::PerSample => 1.0,
        }
    }
}

/// The gradient of the loss of row n: `factor * grad_out[n * stride]`, with the gradient `grad_out` of the
/// reduced loss.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub grad_out: &'a Tensor,
    pub stride: usize,
    pub factor: f32,
}

/// Reduces `losses` `[N]`, one per row of the parents; `backward` gets the gradient of each row's loss.
pub(super) fn per_row(
    tape: &Tape,
    losses: Tensor,
    parents: &[Var],
    reduction: Reduction,
    backward: impl Fn(Upstream, &mut Sink) -> Result<()> + 'static,
) -> Result<Var> {
    let (stride, factor) = ((reduction == Reduction::PerSample) as usize, reduction.factor(losses.len()));
    tape.push(reduction.apply(losses)?, parents, move |grad_out, sink| {
        backward(Upstream { grad_out, stride, factor }, sink)
    })
}

/// factor * the sum of `values`, shape `[1]`.
pub(super) fn total(values: &Buffer<f32>, factor: f32) -> Result<Tensor> {
    let mut out = Tensor::uninit(values.device(), &[1])?;
    reduce::forward(values.device(), 1, values, &mut out, factor, values.len())?;
    Ok(out)
}

/// The sum of all elements, shape `[1]`.
pub fn sum(tape: &Tape, x: Var) -> Result<Var> {
    scaled_sum(tape, x, 1.0)
}

/// The mean of all elements, shape `[1]`; NaN when there are none.
pub fn mean(tape: &Tape, x: Var) -> Result<Var> {
    scaled_sum(tape, x, 1.0 / tape.value(x).len() as f32)
}

fn scaled_sum(tape: &Tape, x: Var, factor: f32) -> Result<Var> {
    let n = tape.value(x).len();
    let out = total(&tape.value(x), factor)?;
    tape.push(out, &[x], move |grad, sink| {
        let Some((into, accumulate)) = sink.slot(x)? else { return Ok(()) };
        let (device, grid) = (grad.device(), elementwise(grad.device(), n));
        reduce::backward(device, grid, grad, into, factor, n, accumulate)
    })
}

/// Logits that losses are tried with: many shapes, extreme values, ties.
#[cfg(test)]
pub(super) fn ugly_logits(seed: u64) -> Vec<(String, super::testing::Input)> {
    use super::testing::Input;
    let shapes = [[1, 2], [3, 3], [300, 2], [128, 10], [37, 100], [3, 200]];
    let mut logits: Vec<(String, Input)> = shapes
        .iter()
        .map(|shape| (format!("{shape:?}"), Input::normal_seeded(shape, seed).scaled(2.0)))
        .collect();
    logits.push(("+-300".into(), Input::normal_seeded(&[5, 10], seed).scaled(300.0)));
    logits.push(("zeros".into(), Input::filled(&[3, 10], 0.0)));
    logits.push(("constant -300".into(), Input::filled(&[2, 33], -300.0)));
    let ties = (0..40).map(|i| if (i * 7 + seed as usize).is_multiple_of(3) { 2.5 } else { -1.0 }).collect();
    logits.push(("ties".into(), Input::values(&[4, 10], ties)));
    logits
}

/// The oracle's reduction.
#[cfg(test)]
pub(super) fn reduce_wide(rows: Vec<f64>, reduction: Reduction) -> Vec<f64> {
    let sum: f64 = rows.iter().sum();
    match reduction {
        Reduction::Mean => vec![sum / rows.len() as f64],
        Reduction::Sum => vec![sum],
        Reduction::PerSample => rows,
    }
}

/// The oracle's log-softmax of one row.
#[cfg(test)]
pub(super) fn log_softmax_wide(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    row.iter().map(|z| z - log_sum).collect()
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut shapes = ugly_shapes();
    shapes.push(vec![30_001]);
    let mut cases = Vec::new();
    for shape in &shapes {
        // The rounding error of a sum grows with the size of what is added, not with the result.
        let n = shape.iter().product::<usize>() as f64;
        cases.push(
            Case::op(
                format!("sum {shape:?}"),
                [Input::normal(shape)],
                |tape, v| sum(tape, v[0]),
                |x| vec![x[0].iter().sum()],
            )
            .tolerance(1e-5 + 1e-7 * n, 1e-5),
        );
        cases.push(Case::op(
            format!("mean {shape:?}"),
            [Input::normal(shape)],
            |tape, v| mean(tape, v[0]),
            |x| vec![x[0].iter().sum::<f64>() / x[0].len() as f64],
        ));
    }
    cases
}
