//! Sum and mean of all values, and how losses per row become one number.

use super::prelude::*;
use kernels::reduce::*;

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
    pub(super) fn apply(self, rows: Buffer<f32>) -> Result<Tensor> {
        match self {
            Reduction::PerSample => {
                let n = rows.len();
                Tensor::new(rows, &[n])
            }
            _ => total(&rows, self.upstream(rows.len()).factor),
        }
    }

    /// How a backward kernel reads the gradient of a result of `rows` rows.
    pub(super) fn upstream(self, rows: usize) -> Upstream {
        match self {
            Reduction::Mean => Upstream { stride: 0, factor: 1.0 / rows as f32 },
            Reduction::Sum => Upstream { stride: 0, factor: 1.0 },
            Reduction::PerSample => Upstream { stride: 1, factor: 1.0 },
        }
    }
}

/// The gradient of row n's loss is `factor * grad[n * stride]`, with the gradient `grad` of the reduced loss.
#[derive(Clone, Copy)]
pub(super) struct Upstream {
    pub stride: i32,
    pub factor: f32,
}

/// factor * the sum of `values`, shape `[1]`.
pub(super) fn total(values: &Buffer<f32>, factor: f32) -> Result<Tensor> {
    let mut out = Buffer::uninit(values.device(), 1)?;
    reduce_forward(values.device(), 1, values, &mut out, factor, int(values.len())?)?;
    Tensor::new(out, &[1])
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
    let out = total(tape.value(x).buffer(), factor)?;
    tape.push(out, &[x], move |grad, sink| {
        if let Some((into, accumulate)) = sink.slot(x)? {
            reduce_backward(
                grad.device(),
                elementwise(grad.device(), n),
                grad.buffer(),
                into,
                factor,
                int(n)?,
                accumulate,
            )?;
        }
        Ok(())
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
