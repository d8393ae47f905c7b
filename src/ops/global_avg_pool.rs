//! Mean over the pixels of each channel: from feature maps to features.

use super::prelude::*;
use kernels::global_avg_pool;

/// `[N,H,W,C]` -> `[N,C]` in float32.
pub fn global_avg_pool<T: Real>(tape: &Tape, x: Var<T>) -> Result<Var> {
    let input = tape.value(x);
    let (device, [n, h, w, c]) = (tape.device(), input.nhwc("global_avg_pool")?);
    if h * w == 0 {
        return Err(Error::Shape {
            op: "global_avg_pool",
            expected: "at least one pixel".into(),
            got: input.shape().to_vec(),
        });
    }
    let (pixels, channels, grid) = (h * w, c, (n, c.div_ceil(global_avg_pool::CHANNELS.on(device))));
    let mut out = Tensor::uninit(device, &[n, c])?;
    global_avg_pool::forward::<T>(device, grid, &input, &mut out, pixels, channels)?;
    tape.push(out, &[x], move |grad, sink| {
        if let Some((into, accumulate)) = sink.slot(x)? {
            global_avg_pool::backward::<T>(grad.device(), grid, grad, into, pixels, channels, accumulate)?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::to_bf16;
    use super::testing::*;
    let shapes = [
        [1, 1, 1, 1],
        [3, 7, 5, 3],
        [2, 1, 3, 33],
        [5, 4, 4, 64],
        [2, 2, 2, 4099],
        [128, 2, 2, 16],
        [1, 32, 32, 10],
    ];
    let mean = |[n, h, w, c]: [usize; 4]| {
        move |x: &[Vec<f64>]| {
            let mean = |i: usize| {
                (0..h * w).map(|p| x[0][(i / c * h * w + p) * c + i % c]).sum::<f64>() / (h * w) as f64
            };
            (0..n * c).map(mean).collect()
        }
    };
    let case = |name: String, x: Input| {
        let shape = x.shape.clone().try_into().unwrap();
        Case::op(name, [x], |tape, v| global_avg_pool(tape, v[0]), mean(shape))
    };
    let mut cases: Vec<Case> = shapes.iter().map(|s| case(format!("pool {s:?}"), Input::normal(s))).collect();
    cases.push(case("+-300".into(), Input::normal(&[3, 4, 4, 17]).scaled(300.0)).tolerance(1e-4, 1e-5));
    for shape in shapes {
        let run = |tape: &Tape, v: &[Var]| {
            let x = to_bf16(tape, v[0])?;
            let half = |y| super::fill::scale(tape, y, 0.5);
            super::add::add(tape, half(global_avg_pool(tape, x)?)?, half(global_avg_pool(tape, x)?)?)
        };
        let input = Input::normal(&shape).in_bf16();
        cases.push(Case::op(format!("pool bf16 {shape:?}"), [input], run, mean(shape)).in_bf16());
    }
    cases
}
