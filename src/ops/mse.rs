//! Mean squared difference of two tensors of one shape.

use super::prelude::*;
use super::reduce::total;
use kernels::mse::*;

/// The mean of (a - b)^2 over all elements (rows and columns alike), shape `[1]`.
pub fn mse(tape: &Tape, a: Var, b: Var) -> Result<Var> {
    let (left, right) = (tape.value(a), tape.value(b));
    same_shape("mse", &left, &right)?;
    let (device, n) = (tape.device(), left.len());
    let blocks = elementwise(device, n);
    let mut partial = Buffer::uninit(device, blocks)?;
    mse_forward(device, blocks, left.buffer(), right.buffer(), &mut partial, int(n)?)?;
    let out = total(&partial, 1.0 / n as f32)?;
    tape.push(out, &[a, b], move |grad, sink| {
        for (side, own, other) in [(a, &left, &right), (b, &right, &left)] {
            if let Some((into, accumulate)) = sink.slot(side)? {
                let factor = 2.0 / n as f32;
                mse_backward(
                    grad.device(),
                    blocks,
                    grad.buffer(),
                    own.buffer(),
                    other.buffer(),
                    into,
                    factor,
                    int(n)?,
                    accumulate,
                )?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let oracle = |x: &[Vec<f64>]| vec![x[0].iter().zip(&x[1]).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / x[0].len() as f64];
    let case = |name: String, a: Input, b: Input| Case::op(name, [a, b], |tape, v| mse(tape, v[0], v[1]), oracle);
    let mut shapes = ugly_shapes();
    shapes.extend([vec![1, 2], vec![128, 10], vec![300, 200]]);
    let mut cases: Vec<Case> =
        shapes.iter().map(|s| case(format!("mse {s:?}"), Input::normal_seeded(s, 1), Input::normal_seeded(s, 2))).collect();
    let logits = |seed| Input::normal_seeded(&[5, 10], seed);
    cases.push(case("+-300".into(), logits(1).scaled(300.0), logits(2).scaled(300.0)));
    cases.push(case("equal sides".into(), logits(1), logits(1)));
    cases.push(case("first side constant".into(), logits(1).constant(), logits(2)));
    cases.push(case("second side constant".into(), logits(1), logits(2).constant()));
    cases.push(Case::op("one variable on both sides", [logits(1)], |tape, v| mse(tape, v[0], v[0]), |_| vec![0.0]));
    cases
}
