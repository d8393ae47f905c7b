//! Cross entropy of logits and class labels.

use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::cross_entropy;

/// The cross entropy of softmax(logits), logits `[N,K]`, and labels in 0..K. A label outside gives NaN.
pub fn cross_entropy(tape: &Tape, logits: Var, labels: &Buffer<i32>, reduction: Reduction) -> Result<Var> {
    let z = tape.value(logits);
    let (device, [n, k]) = (tape.device(), z.matrix("cross_entropy")?);
    labelled("cross_entropy", labels, n)?;
    let grid = n.div_ceil(cross_entropy::ROWS.on(device));
    let mut losses = Tensor::uninit(device, &[n])?;
    cross_entropy::forward(device, grid, &z, labels, &mut losses, n, k)?;
    let saved = tape.needs(logits).then(|| labels.duplicate()).transpose()?;
    per_row(tape, losses, &[logits], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let (Some(labels), Some((grad_in, accumulate))) = (&saved, sink.slot(logits)?) else { return Ok(()) };
        cross_entropy::Backward { grad_out, logits: &z, labels, grad_in, stride, factor, n, k, accumulate }
            .launch(grad_out.device(), grid)
    })
}

/// An error that names `op` unless there is one label a row.
pub(super) fn labelled(op: &'static str, labels: &Buffer<i32>, rows: usize) -> Result<()> {
    if labels.len() == rows {
        Ok(())
    } else {
        Err(Error::Shape { op, expected: format!("{rows} labels"), got: vec![labels.len()] })
    }
}

/// Labels for a test, over all classes.
#[cfg(test)]
pub(super) fn test_labels(n: usize, k: usize) -> Vec<i32> {
    (0..n).map(|i| ((i * 7 + i / k + 1) % k) as i32).collect()
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::reduce::*;
    use super::testing::*;
    let case = |name: String, logits: Input, reduction: Reduction| {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        Case::op(
            format!("{name} {reduction:?}"),
            [logits],
            move |tape, v| {
                cross_entropy(tape, v[0], &Buffer::from_slice(tape.device(), &test_labels(n, k))?, reduction)
            },
            move |x| {
                let losses =
                    x[0].chunks(k).zip(test_labels(n, k)).map(|(row, y)| -log_softmax_wide(row)[y as usize]);
                reduce_wide(losses.collect(), reduction)
            },
        )
    };
    let mut cases = Vec::new();
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::PerSample] {
        cases.extend(ugly_logits(1).into_iter().map(|(name, logits)| case(name, logits, reduction)));
    }
    let outside = |device: &Device, x: &[Tensor]| {
        let tape = Tape::new(device);
        let z = tape.leaf(x[0].clone());
        let loss = cross_entropy(&tape, z, &Buffer::from_slice(device, &[3, -1, 0])?, Reduction::PerSample)?;
        tape.value(loss).to_vec()
    };
    cases.push(Case::kernel("labels outside the classes", [Input::filled(&[3, 3], 0.0)], outside, |_| {
        vec![f64::NAN, f64::NAN, 3f64.ln()]
    }));
    cases.push(Case::kernel(
        "NaN logits",
        [Input::values(&[2, 2], vec![f32::NAN, 1.0, 0.0, 0.0])],
        |device, x| {
            let tape = Tape::new(device);
            let z = tape.constant(x[0].clone());
            let loss = cross_entropy(&tape, z, &Buffer::from_slice(device, &[1, 1])?, Reduction::PerSample)?;
            tape.value(loss).to_vec()
        },
        |_| vec![f64::NAN, 2f64.ln()],
    ));
    cases
}
