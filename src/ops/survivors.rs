//! Points that have withstood an attack so far: taking them out of a batch, and putting back what was found
//! for them.

use super::prelude::*;
use kernels::survivors::*;

/// The samples `x[rows[m]]` of x `[N,..]`: `[M,..]`. A row outside of 0..N gives NaN.
pub fn take(x: &Tensor, rows: &Buffer<i32>) -> Result<Tensor> {
    let (known, size) = samples("take", x)?;
    let mut shape = x.shape().to_vec();
    shape[0] = rows.len();
    int(rows.len() * size)?;
    let mut out = Buffer::uninit(x.device(), rows.len() * size)?;
    survivors_take(x.device(), rows.len(), x.buffer(), rows, &mut out, int(known)?, int(size)?)?;
    Tensor::new(out, &shape)
}

/// From clean images x `[N,..]` and candidates, and whether each of them is classified correctly (`right`,
/// `held`, `[N]`): the candidate where it alone is misclassified, else the clean image, and `[N]` with 1
/// where the image chosen is misclassified.
pub fn settle(
    x: &Tensor,
    candidate: &Tensor,
    right: &Buffer<i32>,
    held: &Buffer<i32>,
) -> Result<(Tensor, Buffer<i32>)> {
    same_shape("settle", x, candidate)?;
    let (n, size) = samples("settle", x)?;
    flagged("settle", n, &[right, held])?;
    let (device, mut out, mut success) =
        (x.device(), Buffer::uninit(x.device(), x.len())?, Buffer::uninit(x.device(), n)?);
    survivors_settle(
        device,
        n,
        x.buffer(),
        candidate.buffer(),
        right,
        held,
        &mut out,
        &mut success,
        int(size)?,
    )?;
    Ok((Tensor::new(out, x.shape())?, success))
}

/// Where `broken[m]`: `found[rows[m]] = x[m]` and `success[rows[m]] = 1`. The rows differ; a row outside is
/// left out.
pub fn merge(
    found: &mut Tensor,
    success: &mut Buffer<i32>,
    rows: &Buffer<i32>,
    x: &Tensor,
    broken: &Buffer<i32>,
) -> Result<()> {
    let ((known, size), (m, other)) = (samples("merge", found)?, samples("merge", x)?);
    if size != other {
        return Err(Error::Shape {
            op: "merge",
            expected: format!("samples of {size} elements"),
            got: x.shape().to_vec(),
        });
    }
    flagged("merge", m, &[rows, broken])?;
    flagged("merge", known, &[success])?;
    survivors_merge(
        x.device(),
        m,
        x.buffer(),
        broken,
        rows,
        found.make_mut()?,
        success,
        int(known)?,
        int(size)?,
    )
}

/// How many samples there are, and the elements of one.
fn samples(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    int(x.len())?;
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
            take(&t[0], &Buffer::from_slice(device, &[3, 0, 0, 4, -1])?)?.to_vec()
        };
        cases.push(Case::kernel(format!("take {shape:?}"), [Input::normal(shape)], taken, move |v| {
            [row(&v[0], 3), row(&v[0], 0), row(&v[0], 0), vec![f64::NAN; 2 * size]].concat()
        }));
        let inputs = || [Input::normal(shape), Input::normal_seeded(shape, 1)];
        let settled = |device: &Device, t: &[Tensor]| {
            let of = |flags: [i32; 4]| Buffer::from_slice(device, &flags);
            let (x, success) = settle(&t[0], &t[1], &of([0, 0, 1, 1])?, &of([0, 1, 0, 1])?)?;
            outcome(x, success)
        };
        cases.push(Case::kernel(format!("settle {shape:?}"), inputs(), settled, move |v| {
            [row(&v[0], 0), row(&v[0], 1), row(&v[1], 2), row(&v[0], 3), vec![1.0, 1.0, 1.0, 0.0]].concat()
        }));
        let merged = |device: &Device, t: &[Tensor]| {
            let of = |flags: [i32; 4]| Buffer::from_slice(device, &flags);
            let (mut found, mut success) = (t[0].clone(), of([0, 0, 1, 0])?);
            merge(&mut found, &mut success, &of([3, 0, 4, 1])?, &t[1], &of([1, 0, 1, 1])?)?;
            outcome(found, success)
        };
        cases.push(Case::kernel(format!("merge {shape:?}"), inputs(), merged, move |v| {
            [row(&v[0], 0), row(&v[1], 3), row(&v[0], 2), row(&v[1], 0), vec![0.0, 1.0, 1.0, 1.0]].concat()
        }));
    }
    cases
}
