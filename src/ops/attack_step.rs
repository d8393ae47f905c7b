//! Steps of projected gradient ascent: the adversarial image moves along the gradient and back into the
//! eps-ball and into `[0, 1]`.

use super::prelude::*;
use kernels::attack_step;

/// `x_adv <- clip01(clip(x_adv + alpha * sign(grad), x - eps, x + eps))`, in place. The sign of 0 is 0; NaN
/// stays NaN, so that a loss shows it.
pub fn linf_step(x_adv: &mut Tensor, grad: &Tensor, x: &Tensor, alpha: f32, eps: f32) -> Result<()> {
    same_shape("linf_step", x_adv, grad)?;
    same_shape("linf_step", x_adv, x)?;
    let (device, n) = (x.device(), x.len());
    attack_step::linf(device, elementwise(device, n), x_adv, grad, x, alpha, eps, n)
}

/// Per sample `d <- x_adv + alpha * grad / (|grad|_2 + 1e-8) - x`, `d <- d * min(1, eps / |d|_2)`, `x_adv <-
/// clip01(x + d)`, in place. A NaN in a sample's gradient makes the sample NaN.
pub fn l2_step(x_adv: &mut Tensor, grad: &Tensor, x: &Tensor, alpha: f32, eps: f32) -> Result<()> {
    same_shape("l2_step", x_adv, grad)?;
    same_shape("l2_step", x_adv, x)?;
    let Some(samples) = x.shape().first().copied().filter(|_| !x.is_empty()) else { return Ok(()) };
    attack_step::l2(x.device(), samples, x_adv, grad, x, alpha, eps, x.len() / samples)
}

/// Per sample `momentum <- mu * momentum + grad / |grad|_1`, in place; a gradient of less than 1e-30 adds
/// nothing.
pub fn add_momentum(momentum: &mut Tensor, grad: &Tensor, mu: f32) -> Result<()> {
    same_shape("add_momentum", momentum, grad)?;
    let Some(samples) = grad.shape().first().copied().filter(|_| !grad.is_empty()) else { return Ok(()) };
    attack_step::momentum(grad.device(), samples, momentum, grad, mu, grad.len() / samples)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    // Radii from nothing to one that never binds; steps that leave the ball and steps that do not.
    let radii = [(0.03f32, 0.01f32), (0.0, 0.01), (0.5, 0.06), (100.0, 2.0)];
    let mut cases = Vec::new();
    for shape in SAMPLES {
        for (eps, alpha) in radii {
            let size: usize = shape[1..].iter().product();
            let clean = Input::uniform(shape, 0.0, 1.0);
            let mut adv = Input::normal_seeded(shape, 9).scaled(0.02);
            adv.values.iter_mut().zip(&clean.values).for_each(|(d, x)| *d = (*d + x).clamp(0.0, 1.0));
            let mut grad = Input::normal(shape);
            grad.values.iter_mut().step_by(5).for_each(|g| *g = 0.0);
            let tiny = Input::normal(shape).scaled(1e-12);
            let none = Input::filled(shape, 0.0);
            for (kind, grad) in [("", grad), (" tiny gradient", tiny), (" no gradient", none)] {
                let inputs = || {
                    [adv.values.clone(), grad.values.clone(), clean.values.clone()]
                        .map(|v| Input::values(shape, v))
                };
                let linf = move |_: &Device, t: &[Tensor]| {
                    let mut adv = t[0].clone();
                    linf_step(&mut adv, &t[1], &t[2], alpha, eps)?;
                    adv.to_vec()
                };
                cases.push(Case::kernel(
                    format!("linf{kind} {shape:?} eps {eps}"),
                    inputs(),
                    linf,
                    move |v| {
                        let step = |((a, g), x): ((&f64, &f64), &f64)| {
                            let sign = if *g == 0.0 { 0.0 } else { g.signum() };
                            (a + alpha as f64 * sign).max(x - eps as f64).min(x + eps as f64).clamp(0.0, 1.0)
                        };
                        v[0].iter().zip(&v[1]).zip(&v[2]).map(step).collect()
                    },
                ));
                let l2 = move |_: &Device, t: &[Tensor]| {
                    let mut adv = t[0].clone();
                    l2_step(&mut adv, &t[1], &t[2], alpha, eps)?;
                    adv.to_vec()
                };
                cases.push(Case::kernel(format!("l2{kind} {shape:?} eps {eps}"), inputs(), l2, move |v| {
                    let norm = |d: &[f64]| d.iter().map(|d| d * d).sum::<f64>().sqrt();
                    let sample = |at: usize| {
                        let part = |i: usize| &v[i][at * size..(at + 1) * size];
                        let scale = alpha as f64 / (norm(part(1)) + 1e-8);
                        let d: Vec<f64> =
                            (0..size).map(|i| part(0)[i] + scale * part(1)[i] - part(2)[i]).collect();
                        let shrink = if norm(&d) > eps as f64 { eps as f64 / norm(&d) } else { 1.0 };
                        (0..size).map(|i| (part(2)[i] + shrink * d[i]).clamp(0.0, 1.0)).collect::<Vec<f64>>()
                    };
                    (0..v[0].len() / size).flat_map(sample).collect()
                }));
            }
        }
    }
    for shape in SAMPLES {
        let size: usize = shape[1..].iter().product();
        for (kind, grad) in [("", Input::normal(shape)), (" without a gradient", Input::filled(shape, 0.0))] {
            let run = |_: &Device, t: &[Tensor]| {
                let mut momentum = t[0].clone();
                add_momentum(&mut momentum, &t[1], 0.75)?;
                momentum.to_vec()
            };
            let inputs = [Input::normal_seeded(shape, 3), grad];
            cases.push(Case::kernel(format!("momentum{kind} {shape:?}"), inputs, run, move |v| {
                let norm = |at: usize| {
                    v[1][at / size * size..][..size].iter().map(|g| g.abs()).sum::<f64>().max(1e-30)
                };
                (0..v[0].len()).map(|at| 0.75 * v[0][at] + v[1][at] / norm(at)).collect()
            }));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_gradients_show() {
        let device = Device::host().unwrap();
        let shape = [2, 3, 3, 1];
        let half = Tensor::from_slice(&device, &shape, &[0.5; 18]).unwrap();
        let mut values = [1.0f32; 18];
        values[4] = f32::NAN;
        let grad = Tensor::from_slice(&device, &shape, &values).unwrap();
        let mut adv = half.clone();
        linf_step(&mut adv, &grad, &half, 0.1, 0.1).unwrap();
        assert!(adv.to_vec().unwrap().iter().enumerate().all(|(i, v)| v.is_nan() == (i == 4)));
        let mut adv = half.clone();
        l2_step(&mut adv, &grad, &half, 0.1, 0.1).unwrap();
        assert!(adv.to_vec().unwrap().iter().enumerate().all(|(i, v)| v.is_nan() == (i < 9)));
    }

    #[test]
    fn radius_zero_gives_the_clean_image() {
        let device = Device::host().unwrap();
        let clean: Vec<f32> = (0..75).map(|i| i as f32 / 74.0).collect();
        let clean = Tensor::from_slice(&device, &[3, 25], &clean).unwrap();
        let grad = Tensor::from_slice(&device, &[3, 25], &[-1.0; 75]).unwrap();
        for step in [linf_step, l2_step] {
            let mut adv = clean.clone();
            step(&mut adv, &grad, &clean, 0.3, 0.0).unwrap();
            assert_eq!(adv.to_vec().unwrap(), clean.to_vec().unwrap());
        }
    }
}
