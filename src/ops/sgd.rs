//! The optimiser's step, and the moving average of weights, of all tensors of a network in one launch.

use super::prelude::*;
use crate::device::Table;
use kernels::sgd;

/// The numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    pub momentum: f32,
    pub weight_decay: f32,
    pub nesterov: bool,
}

/// A parameter in a step.
pub struct Update<'a> {
    pub weight: &'a mut Tensor,
    pub grad: &'a Tensor,
    /// None: the weight moves along the gradient.
    pub velocity: Option<&'a mut Tensor>,
    /// The first step of this parameter: its velocity becomes the gradient, whatever it held before.
    pub fresh: bool,
}

/// PyTorch's SGD, in place, with the learning rate `lr` `[1]`: `g = grad + weight_decay * w`, `velocity =
/// momentum * velocity + g`, `w -= lr * velocity` (Nesterov: `w -= lr * (g + momentum * velocity)`).
pub fn sgd(updates: Vec<Update>, lr: &Buffer<f32>, step: SgdStep) -> Result<()> {
    let device = lr.device();
    let mut table = Table::new(device);
    for Update { weight, grad, velocity, fresh } in updates {
        same_shape("sgd", weight, grad)?;
        if let Some(velocity) = &velocity {
            same_shape("sgd", weight, velocity)?;
        }
        let velocity = velocity.map(Tensor::make_mut).transpose()?;
        let row = table.row(elementwise(device, grad.len())).value(grad.len());
        row.change(weight.make_mut()?).read(grad.buffer()).change(velocity).value(fresh.into());
    }
    let (SgdStep { momentum, weight_decay, nesterov }, tensors) = (step, table.rows());
    sgd::step(device, table.blocks(), &table.buffer()?, lr, momentum, weight_decay, nesterov, tensors)
}

/// `average = decay * average + (1 - decay) * value` for each pair (average, value), in place; with decay 0 a
/// copy, whatever the averages held before.
pub fn ema(pairs: Vec<(&mut Tensor, &Tensor)>, decay: f32) -> Result<()> {
    let Some(device) = pairs.first().map(|(_, value)| value.device().clone()) else { return Ok(()) };
    let mut table = Table::new(&device);
    for (average, value) in pairs {
        same_shape("ema", average, value)?;
        let row = table.row(elementwise(&device, value.len())).value(value.len());
        row.change(average.make_mut()?).read(value.buffer());
    }
    // The difference is taken in float64: 1 - 0.999 in float32 is off by 1e-5 of itself.
    let rest = (1.0 - decay as f64) as f32;
    sgd::average(&device, table.blocks(), &table.buffer()?, decay, rest, table.rows())
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    const LR: f32 = 0.1;
    let settings = [(0.9f32, 5e-4f32, false), (0.9, 0.0, true), (0.0, 5e-4, false), (0.5, 0.1, true)];
    // Every shape alone, and all of them in one launch, empty ones and whole chunks among them.
    let mut sets: Vec<Vec<Vec<usize>>> = ugly_shapes().into_iter().map(|shape| vec![shape]).collect();
    let chunks = [vec![0], vec![4096], vec![3, 2048], vec![0, 7], vec![0]];
    sets.push(ugly_shapes().into_iter().chain(chunks).collect());
    let mut cases = Vec::new();
    for shapes in sets {
        let count = shapes.len();
        let name = if count == 1 { format!("{:?}", shapes[0]) } else { format!("{count} tensors") };
        let inputs = |copies: u64| {
            let of = |seed| shapes.iter().map(move |shape| Input::normal_seeded(shape, seed));
            (0..copies).flat_map(of).collect::<Vec<Input>>()
        };
        let flat = |tensors: &[Tensor]| {
            tensors.iter().map(|t| t.to_vec()).collect::<Result<Vec<_>>>().map(|t| t.concat())
        };
        for (momentum, weight_decay, nesterov) in settings {
            let run = move |device: &Device, t: &[Tensor]| {
                let mut weights = t[..count].to_vec();
                let uninit = |w: &Tensor| Tensor::uninit(device, w.shape());
                let mut velocities = weights.iter().map(uninit).collect::<Result<Vec<Tensor>>>()?;
                let lr = Buffer::from_slice(device, &[LR])?;
                for (at, grads) in t[count..].chunks(count).enumerate() {
                    let tensors = weights.iter_mut().zip(grads).zip(&mut velocities);
                    let update = |((weight, grad), velocity)| {
                        let velocity = Some(velocity).filter(|_| momentum != 0.0);
                        Update { weight, grad, velocity, fresh: at == 0 }
                    };
                    let step = SgdStep { momentum, weight_decay, nesterov };
                    sgd(tensors.map(update).collect(), &lr, step)?;
                }
                flat(&weights)
            };
            let want = move |v: &[Vec<f64>]| {
                let (m, wd, lr) = (momentum as f64, weight_decay as f64, LR as f64);
                let trajectory = |tensor: usize, i: usize| {
                    let (mut w, mut buf) = (v[tensor][i], 0.0);
                    for grads in v[count..].chunks(count) {
                        let g = grads[tensor][i] + wd * w;
                        buf = m * buf + g;
                        w -= lr * if nesterov { g + m * buf } else { buf };
                    }
                    w
                };
                (0..count).flat_map(|t| (0..v[t].len()).map(move |i| trajectory(t, i))).collect()
            };
            let name = format!("sgd {name} {momentum} {weight_decay} {nesterov}");
            cases.push(Case::kernel(name, inputs(4), run, want));
        }
        for decay in [0.0f32, 0.999, 0.5] {
            let run = move |_: &Device, t: &[Tensor]| {
                let mut averages = t[..count].to_vec();
                ema(averages.iter_mut().zip(&t[count..]).collect(), decay)?;
                flat(&averages)
            };
            let want = move |v: &[Vec<f64>]| {
                let (averages, values) = (v[..count].concat(), v[count..].concat());
                let mean = |(a, w): (&f64, &f64)| decay as f64 * a + (1.0 - decay as f64) * w;
                averages.iter().zip(&values).map(mean).collect()
            };
            cases.push(Case::kernel(format!("ema {name} {decay}"), inputs(2), run, want));
        }
    }
    // Decay 0 copies: nothing of what the average held is left, and a value is not rounded.
    let copied = |_: &Device, t: &[Tensor]| {
        let mut average = t[0].clone();
        ema(vec![(&mut average, &t[1])], 0.0)?;
        average.to_vec()
    };
    let inputs =
        [Input::filled(&[5], f32::NAN), Input::values(&[5], vec![-0.1, 1e-45, f32::MAX, f32::INFINITY, 3.0])];
    cases.push(Case::kernel("ema over NaN, decay 0", inputs, copied, |v| v[1].clone()).tolerance(0.0, 0.0));
    cases
}
