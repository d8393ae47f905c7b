//! Rows gathered from a batch and scattered back: the points that no attack has broken so far, and the
//! adversarial images found for them.

use super::prelude::*;
use kernels::gather;

/// The samples `x[rows[m]]` of x `[N,..]`: `[M,..]`. A row outside of 0..N gives NaN.
pub fn gather(x: &Tensor, rows: &Buffer<i32>) -> Result<Tensor> {
    let (known, size) = samples("gather", x)?;
    let mut shape = x.shape().to_vec();
    shape[0] = rows.len();
    let mut out = Tensor::uninit(x.device(), &shape)?;
    gather::rows(x.device(), rows.len(), x, rows, &mut out, known, size)?;
    Ok(out)
}

/// Of clean images x `[N,..]` and candidates, with flags `[N]` whether each is classified correctly: the
/// candidate where it alone is misclassified, else the clean image; and flags `[N]`, 1 where the chosen image
/// is misclassified.
pub fn select_misclassified(
    x: &Tensor,
    candidate: &Tensor,
    clean_correct: &Buffer<i32>,
    adv_correct: &Buffer<i32>,
) -> Result<(Tensor, Buffer<i32>)> {
    same_shape("select_misclassified", x, candidate)?;
    let (n, size) = samples("select_misclassified", x)?;
    flagged("select_misclassified", n, &[clean_correct, adv_correct])?;
    let device = x.device();
    let (mut out, mut success) = (Tensor::uninit(device, x.shape())?, Buffer::uninit(device, n)?);
    gather::select(device, n, x, candidate, clean_correct, adv_correct, &mut out, &mut success, size)?;
    Ok((out, success))
}

/// Masked scatter: where `succeeded[m]`, `found[rows[m]] = x[m]` and `success[rows[m]] = 1`. The rows differ;
/// a row outside is left out.
pub fn scatter(
    found: &mut Tensor,
    success: &mut Buffer<i32>,
    rows: &Buffer<i32>,
    x: &Tensor,
    succeeded: &Buffer<i32>,
) -> Result<()> {
    let ((known, size), (m, other)) = (samples("scatter", found)?, samples("scatter", x)?);
    if size != other {
        return Err(Error::Shape {
            op: "scatter",
            expected: format!("samples of {size} elements"),
            got: x.shape().to_vec(),
        });
    }
    flagged("scatter", m, &[rows, succeeded])?;
    flagged("scatter", known, &[success])?;
    gather::scatter(x.device(), m, x, succeeded, rows, found, success, known, size)
}

/// How many samples there are, and the elements of one.
fn samples(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    let n = x.shape().first().ok_or_else(|| Error::Shape { op, expected: "[N,..]".into(), got: vec![] })?;
    Ok((*n, x.shape()[1..].iter().product()))
}

fn flagged(op: &'static str, n: usize, flags: &[&Buffer<i32>]) -> Result<()> {
    match flags.iter().find(|f| f.len() != n) {
        Some(wrong) => Err(Error::Shape {
            op,
            expected: format!("a flag for each of {n} samples"),
            got: vec![wrong.len()],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    fn outcome(x: Tensor, success: Buffer<i32>) -> Result<Vec<f32>> {
        let mut values = x.to_vec()?;
        values.extend(success.to_vec()?.iter().map(|s| *s as f32));
        Ok(values)
    }
    let shapes: [&[usize]; 5] = [&[4, 1], &[4, 7, 5, 3], &[4, 8, 8, 1], &[4, 32, 32, 3], &[4, 4097]];
    let mut cases = Vec::new();
    for shape in shapes {
        let size: usize = shape[1..].iter().product();
        let row = move |v: &[f64], n: usize| v[n * size..(n + 1) * size].to_vec();
        let taken = |device: &Device, t: &[Tensor]| {
            gather(&t[0], &Buffer::from_slice(device, &[3, 0, 0, 4, -1])?)?.to_vec()
        };
        cases.push(Case::kernel(format!("gather {shape:?}"), [Input::normal(shape)], taken, move |v| {
            [row(&v[0], 3), row(&v[0], 0), row(&v[0], 0), vec![f64::NAN; 2 * size]].concat()
        }));
        let inputs = || [Input::normal(shape), Input::normal_seeded(shape, 1)];
        let settled = |device: &Device, t: &[Tensor]| {
            let of = |flags: [i32; 4]| Buffer::from_slice(device, &flags);
            let (x, success) = select_misclassified(&t[0], &t[1], &of([0, 0, 1, 1])?, &of([0, 1, 0, 1])?)?;
            outcome(x, success)
        };
        cases.push(Case::kernel(format!("select {shape:?}"), inputs(), settled, move |v| {
            [row(&v[0], 0), row(&v[0], 1), row(&v[1], 2), row(&v[0], 3), vec![1.0, 1.0, 1.0, 0.0]].concat()
        }));
        let merged = |device: &Device, t: &[Tensor]| {
            let of = |flags: [i32; 4]| Buffer::from_slice(device, &flags);
            let (mut found, mut success) = (t[0].clone(), of([0, 0, 1, 0])?);
            scatter(&mut found, &mut success, &of([3, 0, 4, 1])?, &t[1], &of([1, 0, 1, 1])?)?;
            outcome(found, success)
        };
        cases.push(Case::kernel(format!("scatter {shape:?}"), inputs(), merged, move |v| {
            [row(&v[0], 0), row(&v[1], 3), row(&v[0], 2), row(&v[1], 0), vec![0.0, 1.0, 1.0, 1.0]].concat()
        }));
    }
    cases
}
