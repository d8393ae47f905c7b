//! Constant tensors, and multiplication with a number.

use super::prelude::*;
use kernels::fill;

/// A tensor of one value.
pub fn full(device: &Device, shape: &[usize], value: f32) -> Result<Tensor> {
    let mut out = Tensor::uninit(device, shape)?;
    let n = out.len();
    fill::value(device, elementwise(device, n), &mut out, value, n)?;
    Ok(out)
}

/// factor * x: the weight of a loss term.
pub fn scale(tape: &Tape, x: Var, factor: f32) -> Result<Var> {
    let input = tape.value(x);
    let (device, n) = (tape.device(), input.len());
    let mut out = Tensor::uninit(device, input.shape())?;
    fill::scaled(device, elementwise(device, n), &input, &mut out, factor, n, false)?;
    tape.push(out, &[x], move |grad, sink| {
        if let Some((into, accumulate)) = sink.slot(x)? {
            fill::scaled(grad.device(), elementwise(grad.device(), n), grad, into, factor, n, accumulate)?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = vec![Case::kernel(
        "full",
        [Input::normal(&[4103])],
        |device, _| full(device, &[4103], -2.5)?.to_vec(),
        |_| vec![-2.5; 4103],
    )];
    cases.extend(ugly_shapes().iter().map(|shape| {
        Case::op(
            format!("scale {shape:?}"),
            [Input::normal(shape)],
            |tape, v| scale(tape, v[0], -0.75),
            |x| x[0].iter().map(|v| -0.75 * v).collect(),
        )
    }));
    cases
}
