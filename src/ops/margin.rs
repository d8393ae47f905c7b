//! The margin of the labelled class over its strongest rival.

use super::cross_entropy::labelled;
use super::prelude::*;
use kernels::margin;

/// z_y - max over k != y of z_k for each row of the logits `[N,K]`, K >= 2; shape `[N]`. Positive where the
/// label is predicted. Among tied rivals the first gets the gradient. A label outside 0..K gives NaN.
pub fn margin(tape: &Tape, logits: Var, labels: &Buffer<i32>) -> Result<Var> {
    margin_above(tape, logits, labels, f32::NEG_INFINITY)
}

/// max(margin, floor), which has no gradient below the floor: with floor = -kappa what the attack of Carlini
/// and Wagner makes small.
pub fn margin_above(tape: &Tape, logits: Var, labels: &Buffer<i32>, floor: f32) -> Result<Var> {
    let z = tape.value(logits);
    let (device, [n, k]) = (tape.device(), z.matrix("margin")?);
    if k < 2 {
        return Err(Error::Shape { op: "margin", expected: "at least two classes".into(), got: vec![n, k] });
    }
    labelled("margin", labels, n)?;
    let grid = n.div_ceil(margin::ROWS.on(device));
    let mut out = Tensor::uninit(device, &[n])?;
    margin::forward(device, grid, &z, labels, &mut out, floor, n, k)?;
    let saved = tape.needs(logits).then(|| labels.duplicate()).transpose()?;
    tape.push(out, &[logits], move |grad, sink| {
        let (Some(labels), Some((into, accumulate))) = (&saved, sink.slot(logits)?) else { return Ok(()) };
        margin::backward(grad.device(), grid, grad, &z, labels, into, floor, n, k, accumulate)
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::ugly_logits;
    use super::testing::*;
    let rival = |row: &[f64], y: usize| {
        row.iter().enumerate().filter(|(i, _)| *i != y).fold(f64::NEG_INFINITY, |m, (_, z)| m.max(*z))
    };
    let case = |name: String, logits: Input| {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        Case::op(
            name,
            [logits],
            move |tape, v| margin(tape, v[0], &Buffer::from_slice(tape.device(), &test_labels(n, k))?),
            move |x| {
                x[0].chunks(k)
                    .zip(test_labels(n, k))
                    .map(|(row, y)| row[y as usize] - rival(row, y as usize))
                    .collect()
            },
        )
    };
    // Where rivals tie there is no derivative to compare with: those cases are checked forward only.
    let kink = |name: &str| ["zeros", "constant -300", "ties"].contains(&name);
    let mut cases: Vec<Case> = ugly_logits(1)
        .into_iter()
        .map(|(name, logits)| if kink(&name) { case(name, logits.constant()) } else { case(name, logits) })
        .collect();
    // Floors above, among and below the margins.
    for floor in [-0.5f32, 3.0, -100.0] {
        cases.push(Case::op(
            format!("floor {floor}"),
            [Input::normal(&[37, 10])],
            move |tape, v| {
                margin_above(tape, v[0], &Buffer::from_slice(tape.device(), &test_labels(37, 10))?, floor)
            },
            move |x| {
                let rows = x[0].chunks(10).zip(test_labels(37, 10));
                rows.map(|(row, y)| (row[y as usize] - rival(row, y as usize)).max(floor as f64)).collect()
            },
        ));
    }
    cases.push(Case::kernel(
        "gradient at ties, a NaN and a label outside",
        [Input::values(&[4, 3], vec![1.0, 1.0, 1.0, 5.0, 2.0, 5.0, 0.0, f32::NAN, 1.0, 0.0, 0.0, 0.0])],
        |device, x| {
            let tape = Tape::new(device);
            let z = tape.leaf(x[0].clone());
            let m = margin(&tape, z, &Buffer::from_slice(device, &[0, 1, 0, 3])?)?;
            let grads = tape.backward(m, Some(super::fill::full(device, &[4], 1.0)?))?;
            let mut values = tape.value(m).to_vec()?;
            values.extend(grads.get(z).map(Tensor::to_vec).transpose()?.unwrap_or_default());
            Ok(values)
        },
        |_| {
            let mut want = vec![0.0, -3.0, f64::NAN, f64::NAN];
            want.extend([1.0, -1.0, 0.0, -1.0, 1.0, 0.0, 1.0, -1.0, 0.0, f64::NAN, f64::NAN, f64::NAN]);
            want
        },
    ));
    cases
}
