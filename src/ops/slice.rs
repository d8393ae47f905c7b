//! Slices of a batch along the leading axis, and concatenation.

use super::prelude::*;
use kernels::{fill, slice};

/// The rows first..first + count of x's leading axis: `[count, ...]`, a copy.
pub fn slice(tape: &Tape, x: Var, first: usize, count: usize) -> Result<Var> {
    let input = tape.value(x);
    let part = slice_tensor(&input, first, count)?;
    let (n, whole, from) = (part.len(), input.len(), first * row_len(&input));
    tape.push(part, &[x], move |grad, sink| {
        if let Some((into, accumulate)) = sink.slot(x)? {
            if !accumulate && n < whole {
                fill::value(grad.device(), elementwise(grad.device(), whole), into, 0.0, whole)?;
            }
            copy(grad, 0, into, from, n, accumulate)?;
        }
        Ok(())
    })
}

/// a `[N, ...]` followed by b `[M, ...]` along the leading axis: `[N + M, ...]`.
pub fn concat(tape: &Tape, a: Var, b: Var) -> Result<Var> {
    let (top, bottom) = (tape.value(a), tape.value(b));
    let (n, m) = (top.len(), bottom.len());
    tape.push(concat_tensor(&top, &bottom)?, &[a, b], move |grad, sink| {
        for (side, from, len) in [(a, 0, n), (b, n, m)] {
            if let Some((into, accumulate)) = sink.slot(side)? {
                copy(grad, from, into, 0, len, accumulate)?;
            }
        }
        Ok(())
    })
}

/// [`slice()`] of a tensor that is not on a tape.
pub fn slice_tensor(x: &Tensor, first: usize, count: usize) -> Result<Tensor> {
    let (last, shape) = (first.saturating_add(count), x.shape());
    if shape.first().is_none_or(|n| last > *n) {
        return Err(Error::Shape {
            op: "slice",
            expected: format!("at least {last} rows"),
            got: shape.to_vec(),
        });
    }
    let len = row_len(x);
    let mut out = Tensor::uninit(x.device(), &[&[count], &shape[1..]].concat())?;
    copy(x, first * len, &mut out, 0, count * len, false)?;
    Ok(out)
}

/// [`concat()`] of tensors that are not on a tape.
pub fn concat_tensor(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shape = match (a.shape(), b.shape()) {
        ([n, own @ ..], [m, other @ ..]) if own == other => [&[n + m], own].concat(),
        (own, other) => {
            let expected = format!("tensors that differ in their leading axis only, beside {own:?}");
            return Err(Error::Shape { op: "concat", expected, got: other.to_vec() });
        }
    };
    let mut out = Tensor::uninit(a.device(), &shape)?;
    copy(a, 0, &mut out, 0, a.len(), false)?;
    copy(b, 0, &mut out, a.len(), b.len(), false)?;
    Ok(out)
}

/// The labels of two views of a batch: `[y; y]`.
pub fn repeat_labels(labels: &Buffer<i32>) -> Result<Buffer<i32>> {
    let (device, n) = (labels.device(), labels.len());
    let mut out = Buffer::uninit(device, 2 * n)?;
    slice::repeat_labels(device, elementwise(device, n), labels, &mut out, n)?;
    Ok(out)
}

/// The elements of one row.
fn row_len(x: &Tensor) -> usize {
    x.shape()[1..].iter().product()
}

/// out[to..to + n] (+)= x[from..from + n]
fn copy(
    x: &Buffer<f32>,
    from: usize,
    out: &mut dyn kernels::Output,
    to: usize,
    n: usize,
    accumulate: bool,
) -> Result<()> {
    let device = x.device();
    slice::copy(device, elementwise(device, n), x, out, from, to, n, accumulate)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    // Rows that start at multiples of four floats and rows that do not; more than one block; the ends; all;
    // none.
    let parts: [(&[usize], usize, usize); 9] = [
        (&[1], 0, 1),
        (&[7], 2, 3),
        (&[5, 3], 1, 4),
        (&[6, 8], 2, 3),
        (&[4, 7, 5, 3], 1, 2),
        (&[3, 32, 32, 3], 1, 2),
        (&[3, 17, 257], 0, 2),
        (&[5, 9], 0, 5),
        (&[5, 9], 3, 0),
    ];
    for (shape, first, count) in parts {
        let len: usize = shape[1..].iter().product();
        let part = move |x: &[Vec<f64>]| x[0][first * len..(first + count) * len].to_vec();
        let name = format!("slice {first}..{} of {shape:?}", first + count);
        let run = move |tape: &Tape, v: &[Var]| slice(tape, v[0], first, count);
        cases.push(Case::op(name, [Input::normal(shape)], run, part));
    }
    let pairs: [(&[usize], &[usize]); 5] = [
        (&[1], &[2]),
        (&[3, 7], &[2, 7]),
        (&[2, 8], &[4, 8]),
        (&[2, 32, 32, 3], &[2, 32, 32, 3]),
        (&[1, 4099], &[2, 4099]),
    ];
    for (a, b) in pairs {
        let both = |x: &[Vec<f64>]| x.concat();
        let inputs = || [Input::normal_seeded(a, 1), Input::normal_seeded(b, 2)];
        cases.push(Case::op(
            format!("concat {a:?} {b:?}"),
            inputs(),
            |tape, v| concat(tape, v[0], v[1]),
            both,
        ));
        let [left, right] = inputs();
        let run = |tape: &Tape, v: &[Var]| concat(tape, v[0], v[1]);
        cases.push(Case::op(
            format!("concat {a:?} {b:?}, second constant"),
            [left, right.constant()],
            run,
            both,
        ));
    }
    cases.push(Case::op(
        "x with itself",
        [Input::normal(&[3, 5])],
        |tape, v| concat(tape, v[0], v[0]),
        |x| [&x[0][..], &x[0]].concat(),
    ));
    // Two overlapping parts: the second contribution is added to a part of the first one's gradient.
    cases.push(Case::op(
        "overlapping slices",
        [Input::normal(&[6, 5])],
        |tape, v| super::add::add(tape, slice(tape, v[0], 0, 4)?, slice(tape, v[0], 1, 4)?),
        |x| (0..20).map(|i| x[0][i] + x[0][i + 5]).collect(),
    ));
    for n in [0, 1, 7, 5000] {
        let labels = move || (0..n).map(|i| i * 31 % 101);
        let run = move |device: &Device, _: &[Tensor]| {
            let repeated = repeat_labels(&Buffer::from_slice(device, &labels().collect::<Vec<i32>>())?)?;
            Ok(repeated.to_vec()?.into_iter().map(|label| label as f32).collect())
        };
        let twice = move |_: &[Vec<f64>]| labels().chain(labels()).map(f64::from).collect();
        cases.push(Case::kernel(format!("{n} labels repeated"), [], run, twice));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let device = Device::host().unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(&device, shape).unwrap();
        let line = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert_eq!(
            line(slice_tensor(&zeros(&[3, 2]), 2, 2)),
            "slice: expected at least 4 rows, got shape [3, 2]"
        );
        assert!(line(slice_tensor(&zeros(&[3, 2]), usize::MAX, 2)).starts_with("slice: expected at least"));
        assert!(line(slice_tensor(&zeros(&[]), 0, 0)).starts_with("slice: expected at least 0 rows"));
        let unlike = "concat: expected tensors that differ in their leading axis only, beside [3, 2], got shape [3, 3]";
        assert_eq!(line(concat_tensor(&zeros(&[3, 2]), &zeros(&[3, 3]))), unlike);
        assert!(concat_tensor(&zeros(&[]), &zeros(&[])).is_err());
    }
}
