//! Samples gathered from a batch, chosen from two, and scattered back: the points that no attack has broken
//! so far, and the images that attacks make of them.

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

/// The samples of a `[N,..]` where `chosen` `[N]` is not 0, else those of b `[N,..]`.
pub fn select(chosen: &Buffer<i32>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape("select", a, b)?;
    let (n, size) = samples("select", a)?;
    flagged("select", n, &[chosen])?;
    let mut out = Tensor::uninit(a.device(), a.shape())?;
    gather::select(a.device(), n, chosen, a, b, &mut out, size)?;
    Ok(out)
}

/// `out[rows[m]] = x[m]` where `chosen[m]` is not 0. The rows differ; a row outside is left out.
pub fn scatter(out: &mut Tensor, rows: &Buffer<i32>, x: &Tensor, chosen: &Buffer<i32>) -> Result<()> {
    let ((known, size), (m, other)) = (samples("scatter", out)?, samples("scatter", x)?);
    if size != other {
        return Err(Error::Shape {
            op: "scatter",
            expected: format!("samples of {size} elements"),
            got: x.shape().to_vec(),
        });
    }
    flagged("scatter", m, &[rows, chosen])?;
    gather::scatter(x.device(), m, x, chosen, rows, out, known, size)
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
    let shapes: [&[usize]; 7] =
        [&[4, 1], &[4, 12], &[4, 39], &[4, 7, 5, 3], &[4, 8, 8, 1], &[4, 32, 32, 3], &[4, 4097]];
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
        let selected = |device: &Device, t: &[Tensor]| {
            select(&Buffer::from_slice(device, &[0, 1, -1, 0])?, &t[0], &t[1])?.to_vec()
        };
        cases.push(Case::kernel(format!("select {shape:?}"), inputs(), selected, move |v| {
            [row(&v[1], 0), row(&v[0], 1), row(&v[0], 2), row(&v[1], 3)].concat()
        }));
        let scattered = |device: &Device, t: &[Tensor]| {
            let of = |values: [i32; 4]| Buffer::from_slice(device, &values);
            let mut out = t[0].clone();
            scatter(&mut out, &of([3, 0, 4, 1])?, &t[1], &of([1, 0, 1, 1])?)?;
            out.to_vec()
        };
        cases.push(Case::kernel(format!("scatter {shape:?}"), inputs(), scattered, move |v| {
            [row(&v[0], 0), row(&v[1], 3), row(&v[0], 2), row(&v[1], 0)].concat()
        }));
    }
    cases
}
