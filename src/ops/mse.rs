//! Mean squared difference of two tensors of one shape, in all or row by row.

use super::prelude::*;
use super::reduce::total;
use kernels::mse;

/// The mean of (a - b)^2 over all elements (rows and columns alike), shape `[1]`.
pub fn mse(tape: &Tape, a: Var, b: Var) -> Result<Var> {
    let (left, right) = (tape.value(a), tape.value(b));
    same_shape("mse", &left, &right)?;
    let (device, n) = (tape.device(), left.len());
    let blocks = elementwise(device, n);
    let mut partial = Buffer::uninit(device, blocks)?;
    mse::forward(device, blocks, &left, &right, &mut partial, n)?;
    let out = total(&partial, 1.0 / n as f32)?;
    tape.push(out, &[a, b], move |grad, sink| {
        let (device, factor) = (grad.device(), 2.0 / n as f32);
        for (side, own, other) in [(a, &left, &right), (b, &right, &left)] {
            if let Some((into, accumulate)) = sink.slot(side)? {
                mse::backward(device, blocks, grad, own, other, into, factor, n, accumulate)?;
            }
        }
        Ok(())
    })
}

/// The mean of (a - b)^2 over the columns of each row of a and b `[N,K]`, K >= 1: `[N]`. Not differentiated.
pub fn mse_per_row(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape("mse_per_row", a, b)?;
    let (device, [n, k]) = (a.device(), a.matrix("mse_per_row")?);
    if k == 0 {
        return Err(Error::Shape {
            op: "mse_per_row",
            expected: "at least one column".into(),
            got: vec![n, k],
        });
    }
    let mut out = Tensor::uninit(device, &[n])?;
    mse::rows(device, n.div_ceil(mse::ROWS.on(device)), a, b, &mut out, n, k)?;
    Ok(out)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let oracle = |x: &[Vec<f64>]| {
        vec![x[0].iter().zip(&x[1]).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / x[0].len() as f64]
    };
    let case =
        |name: String, a: Input, b: Input| Case::op(name, [a, b], |tape, v| mse(tape, v[0], v[1]), oracle);
    let mut shapes = ugly_shapes();
    shapes.extend([vec![1, 2], vec![128, 10], vec![300, 200]]);
    let mut cases: Vec<Case> = shapes
        .iter()
        .map(|s| case(format!("mse {s:?}"), Input::normal_seeded(s, 1), Input::normal_seeded(s, 2)))
        .collect();
    let logits = |seed| Input::normal_seeded(&[5, 10], seed);
    cases.push(case("+-300".into(), logits(1).scaled(300.0), logits(2).scaled(300.0)));
    cases.push(case("equal sides".into(), logits(1), logits(1)));
    cases.push(case("first side constant".into(), logits(1).constant(), logits(2)));
    cases.push(case("second side constant".into(), logits(1), logits(2).constant()));
    cases.push(Case::op(
        "one variable on both sides",
        [logits(1)],
        |tape, v| mse(tape, v[0], v[0]),
        |_| vec![0.0],
    ));
    for shape in [[1, 1], [3, 7], [17, 10], [130, 100], [5, 257]] {
        let inputs = [Input::normal_seeded(&shape, 1), Input::normal_seeded(&shape, 2)];
        let rows = move |x: &[Vec<f64>]| {
            let row = |(a, b): (&[f64], &[f64])| {
                a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / shape[1] as f64
            };
            x[0].chunks(shape[1]).zip(x[1].chunks(shape[1])).map(row).collect()
        };
        cases.push(Case::kernel(
            format!("rows {shape:?}"),
            inputs,
            |_, x| mse_per_row(&x[0], &x[1])?.to_vec(),
            rows,
        ));
    }
    cases
}
