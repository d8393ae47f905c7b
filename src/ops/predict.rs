//! Predicted classes, and which are correct; nothing here is differentiated or read back.

use super::cross_entropy::labelled;
use super::prelude::*;
use kernels::predict;

/// The first largest column of each row of the logits `[N,K]`. As in PyTorch, NaN counts as larger than any
/// number.
pub fn argmax(device: &Device, logits: &Tensor) -> Result<Buffer<i32>> {
    let [n, k] = classes("argmax", logits)?;
    let mut out = Buffer::uninit(device, n)?;
    predict::argmax(device, n.div_ceil(predict::ROWS.on(device)), logits, &mut out, n, k)?;
    Ok(out)
}

/// For each row of the logits `[N,K]` 1 where [`argmax`] is the label, else 0.
pub fn correct(device: &Device, logits: &Tensor, labels: &Buffer<i32>) -> Result<Buffer<i32>> {
    compared(device, logits, labels, false)
}

/// The opposite of [`correct`].
pub fn misclassified(device: &Device, logits: &Tensor, labels: &Buffer<i32>) -> Result<Buffer<i32>> {
    compared(device, logits, labels, true)
}

fn compared(device: &Device, logits: &Tensor, labels: &Buffer<i32>, wrong: bool) -> Result<Buffer<i32>> {
    let [n, k] = classes("correct", logits)?;
    labelled("correct", labels, n)?;
    let mut out = Buffer::uninit(device, n)?;
    predict::correct(device, n.div_ceil(predict::ROWS.on(device)), logits, labels, &mut out, n, k, wrong)?;
    Ok(out)
}

/// For each row of the logits `[N,K]` the class of rank `ranks[n]`: 1 is the predicted one, 2 the runner-up.
/// Of equal logits the first ranks first. A rank outside 1..=K gives -1.
pub fn top_class(device: &Device, logits: &Tensor, ranks: &Buffer<i32>) -> Result<Buffer<i32>> {
    let [n, k] = classes("top_class", logits)?;
    labelled("top_class", ranks, n)?;
    let mut out = Buffer::uninit(device, n)?;
    predict::ranked(device, n.div_ceil(predict::ROWS.on(device)), logits, ranks, &mut out, n, k)?;
    Ok(out)
}

fn classes(op: &'static str, logits: &Tensor) -> Result<[usize; 2]> {
    let [n, k] = logits.matrix(op)?;
    if k == 0 {
        Err(Error::Shape { op, expected: "at least one class".into(), got: vec![n, k] })
    } else {
        Ok([n, k])
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::ugly_logits;
    use super::testing::*;
    fn floats(values: &Buffer<i32>) -> Result<Vec<f32>> {
        Ok(values.to_vec()?.iter().map(|v| *v as f32).collect())
    }
    let first_largest =
        |row: &[f64]| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    let mut cases = Vec::new();
    for (name, logits) in ugly_logits(1) {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        // Classes, flags and their opposites.
        let run = move |device: &Device, x: &[Tensor]| {
            let labels = Buffer::from_slice(device, &test_labels(n, k))?;
            let flags = correct(device, &x[0], &labels)?;
            let mut values = floats(&argmax(device, &x[0])?)?;
            values.extend(floats(&flags)?);
            values.extend(floats(&misclassified(device, &x[0], &labels)?)?);
            Ok(values)
        };
        cases.push(Case::kernel(name, [logits], run, move |x| {
            let classes: Vec<usize> = x[0].chunks(k).map(first_largest).collect();
            let flags: Vec<f64> =
                classes.iter().zip(test_labels(n, k)).map(|(c, y)| (*c as i32 == y) as i32 as f64).collect();
            let wrong: Vec<f64> = flags.iter().map(|correct| 1.0 - correct).collect();
            classes.iter().map(|c| *c as f64).chain(flags).chain(wrong).collect()
        }));
    }
    for (name, logits) in ugly_logits(2) {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        // Every rank from 0, which there is not, to one beyond the last.
        let ranks = move || (0..n as i32).map(|i| i % (k as i32 + 2)).collect::<Vec<_>>();
        let run = move |device: &Device, x: &[Tensor]| {
            floats(&top_class(device, &x[0], &Buffer::from_slice(device, &ranks())?)?)
        };
        cases.push(Case::kernel(format!("ranks of {name}"), [logits], run, move |x| {
            let ranked = |(row, rank): (&[f64], i32)| {
                let mut order: Vec<usize> = (0..k).collect();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
                if rank == 0 {
                    -1.0
                } else {
                    order.get(rank as usize - 1).map_or(-1.0, |class| *class as f64)
                }
            };
            x[0].chunks(k).zip(ranks()).map(ranked).collect()
        }));
    }
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    cases.push(Case::kernel(
        "rows with NaN and infinities",
        [Input::values(&[4, 3], vec![1.0, nan, nan, nan, inf, 0.0, -inf, -inf, -inf, 0.0, inf, inf])],
        |device, x| floats(&argmax(device, &x[0])?),
        |_| vec![1.0, 0.0, 0.0, 1.0],
    ));
    cases
}
