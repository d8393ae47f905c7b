//! Weighted sums of tensors: the terms of a loss, mixtures of images or logits.

use super::prelude::*;
use kernels::{axpby, fill};

/// alpha * a + beta * b, both of one shape. With alpha 1 and beta 0 it is a bit for bit where b is finite.
pub fn axpby(tape: &Tape, a: Var, alpha: f32, b: Var, beta: f32) -> Result<Var> {
    let (left, right) = (tape.value(a), tape.value(b));
    same_shape("axpby", &left, &right)?;
    let (device, n) = (tape.device(), left.len());
    let mut out = Tensor::uninit(device, left.shape())?;
    axpby::forward(device, elementwise(device, n), &left, &right, &mut out, alpha, beta, n)?;
    tape.push(out, &[a, b], move |grad, sink| {
        for (side, weight) in [(a, alpha), (b, beta)] {
            if weight == 1.0 {
                sink.pass(side, grad)?;
            } else if let Some((into, accumulate)) = sink.slot(side)? {
                let grid = elementwise(grad.device(), n);
                fill::scaled(grad.device(), grid, grad, into, weight, n, accumulate)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let case = |name: String, a: Input, alpha: f32, b: Input, beta: f32| {
        Case::op(
            format!("{name}, {alpha} and {beta}"),
            [a, b],
            move |tape, v| axpby(tape, v[0], alpha, v[1], beta),
            move |x| x[0].iter().zip(&x[1]).map(|(a, b)| alpha as f64 * a + beta as f64 * b).collect(),
        )
    };
    let mut cases: Vec<Case> = ugly_shapes()
        .iter()
        .map(|s| {
            case(format!("axpby {s:?}"), Input::normal_seeded(s, 1), -0.7, Input::normal_seeded(s, 2), 2.5)
        })
        .collect();
    let pair = || (Input::normal_seeded(&[3, 7], 1), Input::normal_seeded(&[3, 7], 2));
    for (alpha, beta) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 6.0), (0.0, 0.0)] {
        let (a, b) = pair();
        cases.push(case("weights".into(), a, alpha, b, beta));
    }
    let (a, b) = pair();
    cases.push(case("first side constant".into(), a.constant(), 1.0, b, 0.3));
    let (a, b) = pair();
    cases.push(case("second side constant".into(), a, 0.3, b.constant(), 1.0));
    cases.push(Case::op(
        "one variable on both sides",
        [pair().0],
        |tape, v| axpby(tape, v[0], 1.0, v[0], -0.25),
        |x| x[0].iter().map(|v| 0.75 * v).collect(),
    ));
    // Every bit of the first side, as integers of 16 bits, which float32 holds exactly: zeros of both signs,
    // subnormal numbers, infinity.
    let bits = |v: f32| [v.to_bits() >> 16, v.to_bits() & 0xffff].map(|half| half as f32);
    let ends = [0.0f32, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE, -1.5, f32::MAX, f32::INFINITY, 0.1];
    let one = move |device: &Device, x: &[Tensor]| {
        let tape = Tape::new(device);
        let (a, b) = (tape.constant(x[0].clone()), tape.constant(x[1].clone()));
        let out = axpby(&tape, a, 1.0, b, 0.0)?;
        Ok(tape.value(out).to_vec()?.into_iter().flat_map(bits).collect())
    };
    for other in [3.0, -3.0] {
        let inputs = [Input::values(&[9], ends.to_vec()), Input::filled(&[9], other)];
        let same = move |_: &[Vec<f64>]| ends.into_iter().flat_map(bits).map(f64::from).collect();
        cases.push(Case::kernel(format!("1 and 0 beside {other}"), inputs, one, same).tolerance(0.0, 0.0));
    }
    cases
}
