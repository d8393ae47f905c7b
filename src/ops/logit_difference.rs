//! The difference of two logits of each row: how far a target class is from the labelled one.

use super::cross_entropy::labelled;
use super::prelude::*;
use kernels::logit_difference;

/// z_t - z_y for each row of the logits `[N,K]`, with classes y and t `[N]`; shape `[N]`. Negative where y is
/// ahead. A class outside 0..K gives NaN.
pub fn logit_difference(tape: &Tape, logits: Var, y: &Buffer<i32>, t: &Buffer<i32>) -> Result<Var> {
    let z = tape.value(logits);
    let (device, [n, k]) = (tape.device(), z.matrix("logit_difference")?);
    labelled("logit_difference", y, n)?;
    labelled("logit_difference", t, n)?;
    let mut out = Tensor::uninit(device, &[n])?;
    let blocks = |device: &Device, count: usize| count.div_ceil(logit_difference::CHUNK.on(device));
    logit_difference::forward(device, blocks(device, n), &z, y, t, &mut out, n, k)?;
    let saved = tape.needs(logits).then(|| Ok::<_, Error>((y.duplicate()?, t.duplicate()?))).transpose()?;
    tape.push(out, &[logits], move |grad, sink| {
        let (Some((y, t)), Some((into, accumulate))) = (&saved, sink.slot(logits)?) else { return Ok(()) };
        let device = grad.device();
        logit_difference::backward(device, blocks(device, n * k), grad, y, t, into, n, k, accumulate)
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::ugly_logits;
    use super::testing::*;
    let targets = |n: usize, k: usize| -> Vec<i32> { (0..n).map(|i| ((i * 5 + 1) % k) as i32).collect() };
    let mut cases: Vec<Case> = ugly_logits(3)
        .into_iter()
        .map(|(name, logits)| {
            let (n, k) = (logits.shape[0], logits.shape[1]);
            Case::op(
                name,
                [logits],
                move |tape, v| {
                    let classes = |list: &[i32]| Buffer::from_slice(tape.device(), list);
                    logit_difference(tape, v[0], &classes(&test_labels(n, k))?, &classes(&targets(n, k))?)
                },
                move |x| {
                    let pairs = test_labels(n, k).into_iter().zip(targets(n, k));
                    x[0].chunks(k).zip(pairs).map(|(row, (y, t))| row[t as usize] - row[y as usize]).collect()
                },
            )
        })
        .collect();
    cases.push(Case::kernel(
        "a class outside",
        [Input::values(&[3, 2], vec![1.0, 3.0, 1.0, 2.0, 1.0, 2.0])],
        |device, x| {
            let tape = Tape::new(device);
            let z = tape.leaf(x[0].clone());
            let classes = |list: &[i32]| Buffer::from_slice(device, list);
            let d = logit_difference(&tape, z, &classes(&[0, -1, 0])?, &classes(&[1, 0, 2])?)?;
            let grads = tape.backward(d, Some(super::fill::full(device, &[3], f32::INFINITY)?))?;
            let mut values = tape.value(d).to_vec()?;
            values.extend(grads.get(z).map(Tensor::to_vec).transpose()?.unwrap_or_default());
            Ok(values)
        },
        |_| {
            let (inf, nan) = (f64::INFINITY, f64::NAN);
            vec![2.0, nan, nan, -inf, inf, nan, nan, nan, nan]
        },
    ));
    cases
}
