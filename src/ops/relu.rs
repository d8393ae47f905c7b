//! ReLU, max(x, 0), of any shape; backward reads one bit per element.

use super::prelude::*;
use kernels::relu;

/// max(x, 0). NaN stays NaN; the gradient at 0 is 0.
pub fn relu<T: Real>(tape: &Tape, x: Var<T>) -> Result<Var<T>> {
    let input = tape.value(x);
    let device = tape.device();
    let n = input.len();
    let mut out = Tensor::<T>::uninit(device, input.shape())?;
    let mut mask = tape.needs(x).then(|| Buffer::<u8>::uninit(device, mask_bytes(n))).transpose()?;
    relu::forward::<T>(device, elementwise(device, n), &input, &mut out, mask.as_mut(), n)?;
    tape.push_masked(out, mask, &[x], move |grad, sink| sink.pass(x, grad))
}

/// The gradient through a ReLU whose mask is given, as a new tensor.
pub fn mask_gradient<T: Real>(grad: &Tensor<T>, mask: &Buffer<u8>) -> Result<Tensor<T>> {
    let (device, n) = (grad.device(), grad.len());
    let mut out = Tensor::<T>::uninit(device, grad.shape())?;
    relu::backward::<T>(device, elementwise(device, n), grad, mask, &mut out, n)?;
    Ok(out)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::{to_bf16, to_f32};
    use super::testing::*;
    let oracle = |x: &[Vec<f64>]| x[0].iter().map(|v| v.max(0.0)).collect();
    let mut cases: Vec<Case> = ugly_shapes()
        .iter()
        .map(|shape| {
            Case::op(
                format!("relu {shape:?}"),
                [Input::normal(shape).away_from(0.0)],
                |tape, v| relu(tape, v[0]),
                oracle,
            )
        })
        .collect();
    cases.push(Case::op(
        "relu of zeros",
        [Input::filled(&[39], 0.0).constant()],
        |tape, v| relu(tape, v[0]),
        oracle,
    ));
    cases.push(Case::op(
        "relu of +-300",
        [Input::normal(&[5, 77]).scaled(300.0)],
        |tape, v| relu(tape, v[0]),
        oracle,
    ));
    for shape in [vec![33], vec![3, 7, 5, 3], vec![4103]] {
        let input = Input::normal(&shape).away_from(0.0).in_bf16();
        let run = |tape: &Tape, v: &[Var]| to_f32(tape, relu(tape, to_bf16(tape, v[0])?)?);
        cases.push(Case::op(format!("relu bf16 {shape:?}"), [input], run, oracle).in_bf16());
    }
    cases
}
