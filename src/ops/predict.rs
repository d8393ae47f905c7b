//! Predicted classes, which are correct, and how many; nothing here is differentiated or read back.

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
    let [n, k] = classes("correct", logits)?;
    labelled("correct", labels, n)?;
    let mut out = Buffer::uninit(device, n)?;
    predict::correct(device, n.div_ceil(predict::ROWS.on(device)), logits, labels, &mut out, n, k)?;
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

/// The sum of integers, such as the flags of [`correct`], as one integer on the device.
pub fn count(device: &Device, flags: &Buffer<i32>) -> Result<Buffer<i32>> {
    let mut total = Buffer::uninit(device, 1)?;
    predict::count(device, 1, flags, &mut total, flags.len(), false)?;
    Ok(total)
}

/// total += the sum of `flags`: the count of a whole data set, batch by batch, read back once.
pub fn count_into(device: &Device, flags: &Buffer<i32>, total: &mut Buffer<i32>) -> Result<()> {
    if total.len() != 1 {
        return Err(Error::Shape {
            op: "count_into",
            expected: "a total of one element".into(),
            got: vec![total.len()],
        });
    }
    predict::count(device, 1, flags, total, flags.len(), true)
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
        // Classes, flags, their count and a count that goes on.
        let run = move |device: &Device, x: &[Tensor]| {
            let labels = Buffer::from_slice(device, &test_labels(n, k))?;
            let flags = correct(device, &x[0], &labels)?;
            let mut values = floats(&argmax(device, &x[0])?)?;
            values.extend(floats(&flags)?);
            let mut total = count(device, &flags)?;
            values.extend(floats(&total)?);
            count_into(device, &flags, &mut total)?;
            values.extend(floats(&total)?);
            Ok(values)
        };
        cases.push(Case::kernel(name, [logits], run, move |x| {
            let classes: Vec<usize> = x[0].chunks(k).map(first_largest).collect();
            let flags: Vec<f64> =
                classes.iter().zip(test_labels(n, k)).map(|(c, y)| (*c as i32 == y) as i32 as f64).collect();
            let total: f64 = flags.iter().sum();
            classes.iter().map(|c| *c as f64).chain(flags).chain([total, 2.0 * total]).collect()
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
    cases.push(Case::kernel(
        "count of many",
        [Input::filled(&[1], 0.0)],
        |device, _| {
            let flags: Vec<i32> = (0..10_007).map(|i| i % 3).collect();
            floats(&count(device, &Buffer::from_slice(device, &flags)?)?)
        },
        |_| vec![(0..10_007).map(|i| i % 3).sum::<i32>() as f64],
    ));
    cases
}
