//! The sum of two tensors of one shape; both parents get the gradient unchanged.

use super::prelude::*;
use kernels::add;

/// a + b.
pub fn add<T: Real>(tape: &Tape, a: Var<T>, b: Var<T>) -> Result<Var<T>> {
    let (left, right) = (tape.value(a), tape.value(b));
    same_shape("add", &left, &right)?;
    let (device, n) = (tape.device(), left.len());
    let mut out = Tensor::<T>::uninit(device, left.shape())?;
    add::forward::<T>(device, elementwise(device, n), &left, &right, &mut out, n)?;
    tape.push(out, &[a, b], move |grad, sink| {
        sink.pass(a, grad)?;
        sink.pass(b, grad)
    })
}

/// sum += a, in place.
pub fn accumulate<T: Real>(sum: &mut Tensor<T>, a: &Tensor<T>) -> Result<()> {
    same_shape("accumulate", sum, a)?;
    let n = a.len();
    add::into::<T>(a.device(), elementwise(a.device(), n), a, sum, n)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::{to_bf16, to_f32};
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
    for shape in [vec![7], vec![3, 7, 5, 3], vec![4103]] {
        let run = |tape: &Tape, v: &[Var]| {
            let a = to_bf16(tape, v[0])?;
            to_f32(tape, add(tape, a, a)?)
        };
        let (input, twice) =
            (Input::normal(&shape).in_bf16(), |x: &[Vec<f64>]| x[0].iter().map(|v| 2.0 * v).collect());
        cases.push(Case::op(format!("add bf16 {shape:?} to itself"), [input], run, twice).in_bf16());
        let input = |seed| Input::normal_seeded(&shape, seed).in_bf16();
        let run =
            |tape: &Tape, v: &[Var]| to_f32(tape, add(tape, to_bf16(tape, v[0])?, to_bf16(tape, v[1])?)?);
        cases.push(Case::op(format!("add bf16 {shape:?}"), [input(1), input(2)], run, both).in_bf16());
    }
    cases
}
