//! The weight perturbation of AWP (Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust
//! Generalization", NeurIPS 2020).

use super::prelude::*;
use kernels::awp;

/// Added to the norm of the gradient.
const NORM_FLOOR: f32 = 1e-12;

/// `w + gamma * |w| / (|g| + 1e-12) * g` with L2 norms over the whole tensor: one weight tensor moved along
/// its gradient.
pub fn perturb(weight: &Tensor, gradient: &Tensor, gamma: f32) -> Result<Tensor> {
    same_shape("perturb", weight, gradient)?;
    let (device, n) = (weight.device(), weight.len());
    let blocks = elementwise(device, n);
    let (mut parts, mut ratio) = (Buffer::uninit(device, 2 * blocks)?, Buffer::uninit(device, 1)?);
    let mut out = Tensor::uninit(device, weight.shape())?;
    awp::squares(device, blocks, weight, gradient, &mut parts, n)?;
    awp::ratio(device, 1, &parts, &mut ratio, gamma, NORM_FLOOR, blocks)?;
    awp::apply(device, blocks, weight, gradient, &ratio, &mut out, n)?;
    Ok(out)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let case = |name: String, weight: Input, gradient: Input, gamma: f32| {
        let run = move |_: &Device, t: &[Tensor]| perturb(&t[0], &t[1], gamma)?.to_vec();
        Case::kernel(format!("{name}, gamma {gamma}"), [weight, gradient], run, move |x| {
            let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            let ratio = gamma as f64 * norm(&x[0]) / (norm(&x[1]) + NORM_FLOOR as f64);
            x[0].iter().zip(&x[1]).map(|(w, g)| w + ratio * g).collect()
        })
    };
    let mut cases = Vec::new();
    // The last one has more blocks than one vector of partial sums, on either device.
    for shape in ugly_shapes().into_iter().chain([vec![64, 3, 3, 64], vec![14_000], vec![90_001]]) {
        let (w, g) = (Input::normal_seeded(&shape, 1), Input::normal_seeded(&shape, 2));
        cases.push(case(format!("{shape:?}"), w, g, 0.5));
    }
    let pair = || (Input::normal_seeded(&[16, 27], 1).scaled(0.1), Input::normal_seeded(&[16, 27], 2));
    // Gradients around and far below the floor, and none: no step is taken along zero.
    for (size, gamma) in
        [(1.0, 5e-3), (1.0, -5e-3), (1.0, 0.0), (1e-6, 1e-2), (1e-13, 1e-2), (1e-25, 1e-2), (0.0, 1e-2)]
    {
        let (w, g) = pair();
        cases.push(case(format!("gradient of size {size}"), w, g.scaled(size), gamma));
    }
    let (w, g) = pair();
    cases.push(case("weight of zeros".into(), w.scaled(0.0), g, 1e-2));
    cases.push(case(
        "+-300".into(),
        Input::normal(&[5, 33]).scaled(300.0),
        Input::normal(&[5, 33]).scaled(-300.0),
        1e-2,
    ));
    cases
}
