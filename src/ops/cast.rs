//! Between float32 and bf16, and rounding to tf32, of any shape. Gradients are cast the other way.

use super::prelude::*;
use half::bf16;
use kernels::cast;

/// x, rounded to bf16.
pub fn to_bf16(tape: &Tape, x: Var) -> Result<Var<bf16>> {
    let out = rounded(&tape.value(x))?;
    tape.push(out, &[x], move |grad: &Tensor<bf16>, sink| match sink.slot(x)? {
        Some((into, accumulate)) => widen_into(grad, into, accumulate),
        None => Ok(()),
    })
}

/// x in float32.
pub fn to_f32(tape: &Tape, x: Var<bf16>) -> Result<Var> {
    let out = widened(&tape.value(x))?;
    tape.push(out, &[x], move |grad, sink| match sink.slot(x)? {
        Some((into, accumulate)) => round_into(grad, into, accumulate),
        None => Ok(()),
    })
}

/// A copy in bf16.
pub fn rounded(x: &Tensor) -> Result<Tensor<bf16>> {
    let mut out = Tensor::uninit(x.device(), x.shape())?;
    round_into(x, out.make_mut()?, false)?;
    Ok(out)
}

/// into (+)= x, in bf16.
pub fn round_into(x: &Buffer<f32>, into: &mut Buffer<bf16>, accumulate: bool) -> Result<()> {
    let (device, n) = (x.device(), x.len());
    same_length(n, into.len())?;
    cast::to_bf16(device, elementwise(device, n), x, into, n, accumulate)
}

/// A copy in float32.
pub fn widened(x: &Tensor<bf16>) -> Result<Tensor> {
    let mut out = Tensor::uninit(x.device(), x.shape())?;
    widen_into(x, out.make_mut()?, false)?;
    Ok(out)
}

/// into (+)= x.
pub fn widen_into(x: &Buffer<bf16>, into: &mut Buffer<f32>, accumulate: bool) -> Result<()> {
    let (device, n) = (x.device(), x.len());
    same_length(n, into.len())?;
    cast::to_f32(device, elementwise(device, n), x, into, n, accumulate)
}

/// A copy with every value rounded to tf32.
pub fn rounded_to_tf32(x: &Tensor) -> Result<Tensor> {
    let (device, n) = (x.device(), x.len());
    let mut out = Tensor::uninit(device, x.shape())?;
    cast::to_tf32(device, elementwise(device, n), x, &mut out, n)?;
    Ok(out)
}

fn same_length(from: usize, into: usize) -> Result<()> {
    if from == into {
        Ok(())
    } else {
        Err(Error::Shape { op: "cast", expected: format!("{from} elements"), got: vec![into] })
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let exact =
        |f: fn(f32) -> f32| move |x: &[Vec<f64>]| x[0].iter().map(|v| f64::from(f(*v as f32))).collect();
    let nearest = |v: f32| bf16::from_f32(v).to_f32();
    // Ties, both ways; the largest numbers, which round to infinity; subnormals; what is not finite.
    let hard = [
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        -(1.0 + 1.0 / 2048.0),
        f32::MAX,
        f32::MIN_POSITIVE / 3.0,
        1e-45,
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        2.0 / 255.0,
    ];
    let inputs = || {
        let shapes = ugly_shapes().into_iter().map(|shape| Input::normal(&shape));
        shapes.chain([Input::values(&[hard.len()], hard.to_vec())])
    };
    let mut cases = Vec::new();
    for input in inputs() {
        let name = format!("to bf16 and back {:?}", input.shape);
        let run = |_: &Device, t: &[Tensor]| widened(&rounded(&t[0])?)?.to_vec();
        cases.push(Case::kernel(name, [input], run, exact(nearest)).tolerance(0.0, 0.0));
    }
    for input in inputs() {
        let tf32 = |v: f32| match v.is_finite() {
            true => f32::from_bits((v.to_bits() + 0x1000) & 0xffff_e000),
            false => v,
        };
        let name = format!("to tf32 {:?}", input.shape);
        let run = |_: &Device, t: &[Tensor]| rounded_to_tf32(&t[0])?.to_vec();
        cases.push(Case::kernel(name, [input], run, exact(tf32)).tolerance(0.0, 0.0));
    }
    for shape in [vec![7], vec![3, 7, 5, 3], vec![4103]] {
        let run = |_: &Device, t: &[Tensor]| {
            let mut sum = rounded(&t[0])?;
            round_into(&t[1], sum.make_mut()?, true)?;
            widened(&sum)?.to_vec()
        };
        let sum = move |x: &[Vec<f64>]| {
            let sum = |(a, b): (&f64, &f64)| f64::from(nearest(nearest(*a as f32) + *b as f32));
            x[0].iter().zip(&x[1]).map(sum).collect()
        };
        let inputs = [Input::normal(&shape), Input::normal_seeded(&shape, 5)];
        cases.push(Case::kernel(format!("added to bf16 {shape:?}"), inputs, run, sum).tolerance(0.0, 0.0));
    }
    for shape in [vec![5], vec![3, 7, 5, 3], vec![4097]] {
        let run = |tape: &Tape, v: &[Var]| to_f32(tape, to_bf16(tape, v[0])?);
        let name = format!("on the tape {shape:?}");
        cases.push(Case::op(name, [Input::normal(&shape).in_bf16()], run, |x| x[0].clone()).in_bf16());
    }
    cases
}
