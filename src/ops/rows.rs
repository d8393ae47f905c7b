//! Rows of a batch picked, put back and judged; nothing here is differentiated.

use super::prelude::*;
use kernels::rows::*;

/// `to[i] = x[rows[i]]` along the first axis. Every row must be one of `x`.
pub fn gather(x: &Tensor, rows: &Buffer<i32>) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    let size = row_size(x)?;
    if let Some(first) = shape.first_mut() {
        *first = rows.len();
    }
    let mut to = Buffer::uninit(x.device(), rows.len() * size)?;
    rows_gather(x.device(), rows.len(), x.buffer(), rows, &mut to, int(size)?)?;
    Tensor::new(to, &shape)
}

/// `to[rows[i]] = from[i]` along the first axis; the other rows stay. The rows must be different ones of `to`.
pub fn scatter(to: &mut Tensor, from: &Tensor, rows: &Buffer<i32>) -> Result<()> {
    let size = row_size(to)?;
    if from.len() != rows.len() * size {
        return Err(Error::Shape { op: "scatter", expected: format!("{} rows of {size}", rows.len()), got: from.shape().to_vec() });
    }
    rows_scatter(from.device(), rows.len(), from.buffer(), rows, to.make_mut()?, int(size)?)
}

/// `to[n] = from[n]` where `keep[n]` is 0.
pub fn restore(to: &mut Tensor, from: &Tensor, keep: &Buffer<i32>) -> Result<()> {
    same_shape("restore", to, from)?;
    let size = row_size(to)?;
    if to.shape().first() != Some(&keep.len()) {
        return Err(Error::Shape { op: "restore", expected: format!("{} rows", keep.len()), got: to.shape().to_vec() });
    }
    rows_restore(from.device(), keep.len(), from.buffer(), keep, to.make_mut()?, int(size)?)
}

/// Infinity where the flag is set, else 0: what an attack has achieved before it begins, 0 where an image is misclassified as it is.
pub fn unbeaten(correct: &Buffer<i32>) -> Result<Buffer<f32>> {
    let (device, n) = (correct.device(), correct.len());
    let mut value = Buffer::uninit(device, n)?;
    rows_unbeaten(device, n.div_ceil(CHUNK.on(device)), correct, &mut value, int(n)?)?;
    Ok(value)
}

/// 1 where the value is at most `limit`, else 0, also for NaN.
pub fn within(value: &Buffer<f32>, limit: f32) -> Result<Buffer<i32>> {
    let (device, n) = (value.device(), value.len());
    let mut flag = Buffer::uninit(device, n)?;
    rows_within(device, n.div_ceil(CHUNK.on(device)), value, &mut flag, limit, int(n)?)?;
    Ok(flag)
}

/// Elements of one row; kernels address a whole batch with 32 bits.
fn row_size(x: &Tensor) -> Result<usize> {
    int(x.len())?;
    Ok(x.shape().iter().skip(1).product())
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    for shape in [vec![5, 1], vec![5, 33], vec![7, 8, 8, 1], vec![6, 32, 32, 3], vec![5, 3, 1, 257]] {
        let size: usize = shape[1..].iter().product();
        let rows = [3, 0, 4];
        cases.push(Case::kernel(
            format!("gather {shape:?}"),
            [Input::normal(&shape)],
            move |device, x| gather(&x[0], &Buffer::from_slice(device, &[3, 0, 4, 3])?)?.to_vec(),
            move |x| [3, 0, 4, 3].iter().flat_map(|row| x[0][row * size..(row + 1) * size].to_vec()).collect(),
        ));
        let some = [&[3], &shape[1..]].concat();
        cases.push(Case::kernel(
            format!("scatter {shape:?}"),
            [Input::normal(&shape), Input::normal_seeded(&some, 3)],
            move |device, x| {
                let mut to = x[0].clone();
                scatter(&mut to, &x[1], &Buffer::from_slice(device, &rows.map(|r| r as i32))?)?;
                to.to_vec()
            },
            move |x| {
                let mut want = x[0].clone();
                rows.iter().enumerate().for_each(|(i, r)| want[r * size..][..size].copy_from_slice(&x[1][i * size..][..size]));
                want
            },
        ));
        let n = shape[0];
        cases.push(Case::kernel(
            format!("restore {shape:?}"),
            [Input::normal(&shape), Input::normal_seeded(&shape, 3)],
            move |device, x| {
                let mut to = x[0].clone();
                let keep: Vec<i32> = (0..n as i32).map(|i| i % 3).collect();
                restore(&mut to, &x[1], &Buffer::from_slice(device, &keep)?)?;
                to.to_vec()
            },
            move |x| (0..n * size).map(|i| x[if (i / size).is_multiple_of(3) { 1 } else { 0 }][i]).collect(),
        ));
    }
    cases.push(Case::kernel(
        "unbeaten and within",
        [Input::normal(&[3001])],
        |device, x| {
            let flags = within(x[0].buffer(), 0.25)?;
            let mut values: Vec<f32> = flags.to_vec()?.iter().map(|f| *f as f32).collect();
            values.extend(unbeaten(&flags)?.to_vec()?);
            let odd = Buffer::from_slice(device, &[f32::NAN, f32::INFINITY, 0.0, 0.25])?;
            values.extend(within(&odd, 0.0)?.to_vec()?.iter().map(|f| *f as f32));
            Ok(values)
        },
        |x| {
            let flags: Vec<bool> = x[0].iter().map(|v| *v <= 0.25).collect();
            let values = flags.iter().map(|f| if *f { f64::INFINITY } else { 0.0 });
            flags.iter().map(|f| *f as i32 as f64).chain(values).chain([0.0, 0.0, 1.0, 0.0]).collect()
        },
    ));
    cases
}
