//! The sum of two tensors of one shape; both parents get the gradient unchanged.

use super::prelude::*;
use kernels::add;

/// a + b.
pub fn add(tape: &Tape, a: Var, b: Var) -> Result<Var> {
    let (left, right) = (tape.value(a), tape.value(b));
    same_shape("add", &left, &right)?;
    let (device, n) = (tape.device(), left.len());
    let mut out = Tensor::uninit(device, left.shape())?;
    add::forward(device, elementwise(device, n), &left, &right, &mut out, n)?;
    tape.push(out, &[a, b], move |grad, sink| {
        sink.pass(a, grad)?;
        sink.pass(b, grad)
    })
}

/// sum += a, in place.
pub fn accumulate(sum: &mut Tensor, a: &Tensor) -> Result<()> {
    same_shape("accumulate", sum, a)?;
    let n = a.len();
    add::into(a.device(), elementwise(a.device(), n), a, sum, n)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let both = |x: &[Vec<f64>]| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect();
    let mut cases: Vec<Case> = ugly_shapes()
        .iter()
        .map(|shape| {
            Case::op(
                format!("add {shape:?}"),
                [Input::normal(shape), Input::normal(shape)],
                |tape, v| add(tape, v[0], v[1]),
                both,
            )
        })
        .collect();
    cases.push(Case::op(
        "add x to itself",
        [Input::normal(&[3, 7])],
        |tape, v| add(tape, v[0], v[0]),
        |x| x[0].iter().map(|v| v + v).collect(),
    ));
    cases
}
