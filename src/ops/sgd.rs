//! The optimiser's step, and the moving average of weights.

use super::prelude::*;
use kernels::sgd;

/// The numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    pub lr: f32,
    pub momentum: f32,
    pub weight_decay: f32,
    pub nesterov: bool,
    /// The first step of this parameter: its velocity becomes the gradient, whatever it held before.
    pub first: bool,
}

/// PyTorch's SGD, in place: `g = grad + weight_decay * w`, `velocity = momentum * velocity + g`, `w -= lr *
/// velocity` (Nesterov: `w -= lr * (g + momentum * velocity)`). With momentum 0 the velocity is not touched.
pub fn sgd(weight: &mut Tensor, grad: &Tensor, velocity: &mut Tensor, step: SgdStep) -> Result<()> {
    same_shape("sgd", weight, grad)?;
    same_shape("sgd", weight, velocity)?;
    let (device, n) = (grad.device(), grad.len());
    let SgdStep { lr, momentum, weight_decay, nesterov, first } = step;
    let velocity = if momentum != 0.0 { Some(velocity.make_mut()?) } else { None };
    sgd::Step { w: weight, grad, velocity, lr, momentum, decay: weight_decay, nesterov, first, n }
        .launch(device, elementwise(device, n))
}

/// `average = decay * average + (1 - decay) * value`, in place; with decay 0 a copy, whatever `average` held
/// before.
pub fn ema(average: &mut Tensor, value: &Tensor, decay: f32) -> Result<()> {
    same_shape("ema", average, value)?;
    if decay == 0.0 {
        return average.make_mut()?.copy_from(value);
    }
    let (device, n) = (value.device(), value.len());
    // The difference is taken in float64: 1 - 0.999 in float32 is off by 1e-5 of itself.
    let rest = (1.0 - decay as f64) as f32;
    sgd::average(device, elementwise(device, n), average, value, decay, rest, n)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    let settings = [(0.9f32, 5e-4f32, false), (0.9, 0.0, true), (0.0, 5e-4, false), (0.5, 0.1, true)];
    for shape in ugly_shapes() {
        for (momentum, weight_decay, nesterov) in settings {
            let run = move |device: &Device, t: &[Tensor]| {
                let mut weight = t[0].clone();
                let mut velocity = Tensor::uninit(device, t[0].shape())?;
                for (at, grad) in t[1..].iter().enumerate() {
                    sgd(
                        &mut weight,
                        grad,
                        &mut velocity,
                        SgdStep { lr: 0.1, momentum, weight_decay, nesterov, first: at == 0 },
                    )?;
                }
                weight.to_vec()
            };
            let inputs = [0, 1, 2, 3].map(|seed| Input::normal_seeded(&shape, seed));
            cases.push(Case::kernel(
                format!("sgd {shape:?} {momentum} {weight_decay} {nesterov}"),
                inputs,
                run,
                move |v| {
                    let (m, wd, lr) = (momentum as f64, weight_decay as f64, 0.1f32 as f64);
                    let trajectory = |i: usize| {
                        let (mut w, mut buf) = (v[0][i], 0.0);
                        for grad in &v[1..] {
                            let g = grad[i] + wd * w;
                            buf = m * buf + g;
                            w -= lr * if nesterov { g + m * buf } else { buf };
                        }
                        w
                    };
                    (0..v[0].len()).map(trajectory).collect()
                },
            ));
        }
        for decay in [0.0f32, 0.999, 0.5] {
            let run = move |_: &Device, t: &[Tensor]| {
                let mut average = t[0].clone();
                ema(&mut average, &t[1], decay)?;
                average.to_vec()
            };
            let inputs = [Input::normal_seeded(&shape, 1), Input::normal_seeded(&shape, 2)];
            cases.push(Case::kernel(format!("ema {shape:?} {decay}"), inputs, run, move |v| {
                v[0].iter().zip(&v[1]).map(|(a, w)| decay as f64 * a + (1.0 - decay as f64) * w).collect()
            }));
        }
    }
    // Decay 0 copies: nothing of what the average held is left, and a value is not rounded.
    let copied = |_: &Device, t: &[Tensor]| {
        let mut average = t[0].clone();
        ema(&mut average, &t[1], 0.0)?;
        average.to_vec()
    };
    let inputs =
        [Input::filled(&[5], f32::NAN), Input::values(&[5], vec![-0.1, 1e-45, f32::MAX, f32::INFINITY, 3.0])];
    cases.push(Case::kernel("ema over NaN, decay 0", inputs, copied, |v| v[1].clone()).tolerance(0.0, 0.0));
    cases
}
