//! Padded batches: which images are valid, for passes over a set whose size only the device knows.
//!
//! Operations on single images work on all of a batch, padding included. Those that couple images
//! (statistics, weight gradients), and those that cost most (convolutions), get a `Rows`; `cases` below
//! compares them with the plain ones on fewer images.

use super::prelude::*;
use std::rc::Rc;

/// The images of a batch that a pass is over; a count is one integer on the device.
#[derive(Clone, Default)]
pub enum Rows {
    #[default]
    All,
    /// Only the first `count` images are valid: the padding after them is not read, and is zero in results
    /// and gradients.
    First(Rc<Buffer<i32>>),
    /// All images, but running statistics stay where they are when the count is 0.
    AllIf(Rc<Buffer<i32>>),
}

impl Rows {
    /// The arguments of batch norm's kernels: the count, and how many rows each of its images has, or 0 where
    /// the count is only a gate.
    pub(super) fn of_images(&self, rows_per_image: usize) -> Result<(Option<&Buffer<i32>>, usize)> {
        match self {
            Rows::All => Ok((None, 0)),
            Rows::First(count) => Ok((Some(one(count)?), rows_per_image)),
            Rows::AllIf(count) => Ok((Some(one(count)?), 0)),
        }
    }

    /// The number of valid images, for kernels that leave out the others; `None`: all.
    pub(super) fn num_valid(&self) -> Result<Option<&Buffer<i32>>> {
        match self {
            Rows::First(count) => one(count).map(Some),
            Rows::All | Rows::AllIf(_) => Ok(None),
        }
    }
}

fn one(count: &Buffer<i32>) -> Result<&Buffer<i32>> {
    if count.len() == 1 {
        Ok(count)
    } else {
        Err(Error::Shape { op: "Rows", expected: "a count of one element".into(), got: vec![count.len()] })
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::add::add;
    use super::batch_norm::{BnMode, Norm, batch_norm, oracle};
    use super::cast::{to_bf16, to_f32};
    use super::conv2d::{self, Conv, Convolve, Epilogue, Filter, Precision, conv2d_prepared};
    use super::testing::*;
    let first = |device: &Device, count: usize| {
        Ok::<_, Error>(Rows::First(Rc::new(Buffer::from_slice(device, &[count as i32])?)))
    };
    let counts =
        |images: usize| [0, 1, images - 1, images].into_iter().collect::<std::collections::BTreeSet<_>>();
    // Everything past the first `count` images is NaN.
    let poisoned = |shape: &[usize], count: usize, seed: u64| {
        let mut input = Input::normal_seeded(shape, seed);
        let exist = count * shape[1..].iter().product::<usize>();
        input.values[exist..].fill(f32::NAN);
        input
    };
    let padded = |mut values: Vec<f64>, len: usize| {
        values.resize(len, 0.0);
        values
    };
    let mut cases = Vec::new();
    // Convolutions: [N,H,W,Cin], Cout, kernel, stride, pad. Capacities of less and of more than a block, flat
    // and narrow ways, many splits; 127 of [128,1,3,16] need more of CUDA's blocks than 128.
    let sizes: &[([usize; 4], usize, usize, usize, usize)] = &[
        ([1, 3, 2, 3], 5, 3, 1, 1),
        ([3, 7, 5, 3], 33, 3, 1, 1),
        ([5, 5, 5, 32], 64, 1, 2, 0),
        ([6, 7, 5, 16], 32, 3, 2, 1),
        ([130, 2, 2, 16], 16, 3, 1, 1),
        ([9, 3, 3, 33], 17, 3, 1, 1),
        ([128, 1, 3, 16], 16, 3, 1, 1),
        ([17, 1, 2, 64], 64, 3, 1, 1),
    ];
    for &(x, co, kernel, stride, pad) in sizes {
        for count in counts(x[0]) {
            let w = [co, kernel, kernel, x[3]];
            let (conv, counted) = (Conv::new(&x, &w, stride, pad).unwrap(), [count, x[1], x[2], x[3]]);
            let counted = Conv::new(&counted, &w, stride, pad).unwrap();
            let run = move |tape: &Tape, v: &[Var]| {
                let filter = Rc::new(Filter::new(tape.value(v[1]), Precision::F32));
                conv2d_prepared(tape, v[0], v[1], &filter, stride, pad, &first(tape.device(), count)?)
            };
            let want = move |v: &[Vec<f64>]| -> Vec<f64> {
                padded(
                    conv2d::oracle(&counted, &v[0][..counted.in_shape().iter().product()], &v[1]),
                    conv.out_shape().iter().product(),
                )
            };
            let to_bf16 = move |tape: &Tape, v: &[Var]| {
                let (filter, rows) = (tape.value(v[1]), first(tape.device(), count)?);
                let filter = Rc::new(Filter::new(filter, Precision::F32));
                // Twice, so that gradients are added.
                let conv = || conv2d_prepared(tape, v[0], v[1], &filter, stride, pad, &rows);
                to_f32(tape, add(tape, conv()?, conv()?)?)
            };
            let twice = move |v: &[Vec<f64>]| want(v).into_iter().map(|y| 2.0 * y).collect();
            let name = format!("conv2d to bf16, {count} of {x:?} w {w:?} stride {stride}, twice");
            let case = Case::op(name, [poisoned(&x, count, 0), Input::normal(&w)], to_bf16, twice);
            cases.push(case.in_bf16().tolerance(1e-4, 1.01 / 256.0));
            let name = format!("conv2d {count} of {x:?} w {w:?} stride {stride}");
            cases.push(
                Case::op(name, [poisoned(&x, count, 0), Input::normal(&w)], run, want).tolerance(1e-4, 1e-5),
            );
        }
    }
    // The epilogue past the valid images, and an input gradient that is added, for few and for many
    // channels.
    for (x, co) in [([4, 3, 3, 16], 16), ([4, 3, 3, 3], 7)] {
        let conv = Conv::new(&x, &[co, 3, 3, x[3]], 1, 1).unwrap();
        let out = conv.out_shape();
        let inputs = [
            poisoned(&x, 2, 0),
            Input::normal(&[co, 3, 3, x[3]]),
            Input::normal(&[co]),
            Input::normal(&out),
            poisoned(&out, 2, 1),
            Input::normal(&x),
        ];
        let run = move |device: &Device, t: &[Tensor]| {
            let (filter, count) =
                (Filter::new(t[1].clone(), Precision::F32), Buffer::from_slice(device, &[2])?);
            let epilogue =
                Epilogue { shift: Some(&t[2]), residual: Some(&t[3]), relu: true, relu_mask: None };
            let y = <f32 as Convolve>::forward(&conv, &t[0], &filter, epilogue, Some(&count))?;
            let mut dx = t[5].buffer().duplicate()?;
            <f32 as Convolve>::input_grad(&conv, &t[4], &filter, None, Some(&count), &mut dx, true)?;
            Ok([y.to_vec()?, dx.to_vec()?].concat())
        };
        let want = move |v: &[Vec<f64>]| {
            let half = Conv::new(&[2, 3, 3, x[3]], &[co, 3, 3, x[3]], 1, 1).unwrap();
            let plain = padded(conv2d::oracle(&half, &v[0][..v[0].len() / 2], &v[1]), v[3].len());
            let y = plain.iter().enumerate().map(|(i, y)| (y + v[2][i % co] + v[3][i]).max(0.0));
            let dx = padded(conv2d::input_oracle(&half, &v[4][..v[4].len() / 2], &v[1]), v[5].len());
            y.chain(dx.iter().zip(&v[5]).map(|(a, b)| a + b)).collect()
        };
        cases.push(
            Case::kernel(format!("conv2d 2 of {x:?} with an epilogue, added"), inputs, run, want)
                .tolerance(1e-4, 1e-4),
        );
    }
    // Batch norm, where count images of the oracle are all there are.
    let shapes: [&[usize]; 6] =
        [&[1, 2, 3, 5], &[5, 1], &[3, 7, 5, 3], &[4, 4, 3, 16], &[300, 64], &[41, 2, 3, 40]];
    for (shape, mode, fused) in shapes
        .iter()
        .flat_map(|s| [(*s, BnMode::Train, false), (*s, BnMode::Batch, true), (*s, BnMode::Eval, true)])
    {
        let channels = shape[shape.len() - 1];
        let of = |seed| Input::normal_seeded(&[channels], seed);
        let running = || [of(4), Input::uniform(&[channels], 0.1, 2.0)];
        for count in counts(shape[0]) {
            let exist = count * shape[1..].iter().product::<usize>();
            let len = shape.iter().product();
            let run = move |tape: &Tape, v: &[Var]| {
                let [mut mean, mut var] = [3, 4].map(|i| tape.value(v[i]));
                let rows = &first(tape.device(), count)?;
                let norm = Norm { weight: v[1], bias: v[2], mean: &mut mean, var: &mut var, mode, rows };
                batch_norm(tape, v[0], norm, fused)
            };
            let want = move |v: &[Vec<f64>]| -> Vec<f64> {
                let values = [vec![v[0][..exist].to_vec()], v[1..].to_vec()].concat();
                let (y, _) = oracle(&values, mode);
                padded(y.into_iter().map(|y| if fused { y.max(0.0) } else { y }).collect(), len)
            };
            // With this seed no value lies so near to the kink of ReLU that central differences step over it.
            let [mean, var] = running().map(Input::constant);
            let inputs = [poisoned(shape, count, 11), of(2), of(3), mean, var];
            let name = format!("batch norm {mode:?} relu {fused}, {count} of {shape:?}");
            cases.push(Case::op(name, inputs, run, want).tolerance(2e-5, 2e-5));

            let run = move |tape: &Tape, v: &[Var]| {
                let [mut mean, mut var] = [3, 4].map(|i| tape.value(v[i]));
                let (rows, x) = (&first(tape.device(), count)?, to_bf16(tape, v[0])?);
                let mut norm = || {
                    let norm = Norm { weight: v[1], bias: v[2], mean: &mut mean, var: &mut var, mode, rows };
                    batch_norm(tape, x, norm, fused)
                };
                to_f32(tape, add(tape, norm()?, norm()?)?)
            };
            let twice = move |v: &[Vec<f64>]| want(v).into_iter().map(|y| 2.0 * y).collect();
            let [mean, var] = running().map(Input::constant);
            let inputs = [poisoned(shape, count, 11).in_bf16(), of(2), of(3), mean, var];
            let name = format!("batch norm bf16 {mode:?} relu {fused}, {count} of {shape:?}, twice");
            // A weight's gradient is a sum of products of either sign, each with roundings of its own.
            let case = Case::op(name, inputs, run, twice).in_bf16().tolerance(1e-4, 1.01 / 256.0);
            cases.push(case.gradient_tolerance(2e-2, 3.0 / 256.0));

            for gate in [false, true] {
                let run = move |device: &Device, t: &[Tensor]| {
                    let rows = match first(device, count)? {
                        Rows::First(count) if gate => Rows::AllIf(count),
                        rows => rows,
                    };
                    let tape = Tape::new(device);
                    let [x, weight, bias] = [0, 1, 2].map(|i| tape.constant(t[i].clone()));
                    let (mut mean, mut var) = (t[3].clone(), t[4].clone());
                    let norm = Norm { weight, bias, mean: &mut mean, var: &mut var, mode, rows: &rows };
                    let y = batch_norm(&tape, x, norm, false)?;
                    // A gate says nothing about the values.
                    let y = if gate { tape.value(y).to_vec()? } else { vec![] };
                    Ok([mean.to_vec()?, var.to_vec()?, y].concat())
                };
                let want = move |v: &[Vec<f64>]| {
                    let values =
                        [vec![v[0][..if gate { len } else { exist }].to_vec()], v[1..].to_vec()].concat();
                    let (y, moved) = oracle(&values, mode);
                    let running = if count == 0 { v[3..].concat() } else { moved.concat() };
                    [running, if gate { y } else { vec![] }].concat()
                };
                let [mean, var] = running();
                let x = if gate { Input::normal_seeded(shape, 3) } else { poisoned(shape, count, 3) };
                let name = format!("running statistics {mode:?}, {count} of {shape:?}, gate {gate}");
                cases.push(Case::kernel(name, [x, of(2), of(3), mean, var], run, want).tolerance(2e-5, 2e-5));
            }
        }
    }
    cases
}
