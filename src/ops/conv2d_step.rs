//! The gradient of the first convolution in its images, and their step along its sign, in one kernel: the end
//! of a step of projected gradient ascent.

use super::conv2d::{Conv, Filter};
use super::prelude::*;
use crate::tape::StepSlot;
use kernels::conv2d_step;

/// Moves the images x of a convolution, whose output has the gradient `grad`, where they are a
/// [`Tape::stepping_leaf`] that nothing else reads, normalised or not, of few channels. Returns whether it
/// did; else x wants a gradient like any other value.
pub(super) fn step_images<X: Real, Y: Real>(
    conv: &Conv,
    grad: &Tensor<Y>,
    filter: &Filter,
    x: Var<X>,
    sink: &mut Sink,
) -> Result<bool> {
    let device = grad.device();
    if !conv.narrow(device) {
        return Ok(false);
    }
    let Some(StepSlot { step, x_adv, factor, moved }) = sink.step_slot(x)? else { return Ok(false) };
    same_shape("conv2d_step", x_adv, &step.x)?;
    conv2d_step::Linf {
        grad_out: grad,
        panels: filter.panels(false)?,
        factor,
        adv: x_adv,
        x: &step.x,
        moved,
        alpha: step.alpha,
        eps: step.eps,
        images: conv.images,
        height: conv.height,
        width: conv.width,
        channels: conv.in_channels,
        out_height: conv.out_height,
        out_width: conv.out_width,
        out_channels: conv.out_channels,
        kernel_h: conv.kernel_height,
        kernel_w: conv.kernel_width,
        stride: conv.stride,
        pad: conv.pad,
    }
    .launch(
        device,
        (conv.images * conv.height * conv.width).div_ceil(conv2d_step::NARROW_PIXELS.on(device)),
    )?;
    Ok(true)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::to_bf16;
    use super::conv2d::{Precision, conv2d_prepared, input_oracle};
    use super::normalize::Normalize;
    use super::testing::*;
    use super::valid::Rows;
    use crate::tape::SignStep;
    use std::rc::Rc;
    // [N,H,W,Cin], Cout, kernel (height, width), stride, pad.
    type Sizes = ([usize; 4], usize, (usize, usize), usize, usize);
    let mut sizes: Vec<Sizes> = vec![
        ([1, 1, 1, 1], 1, (1, 1), 1, 0),
        ([3, 8, 8, 1], 16, (3, 3), 1, 1),
        ([2, 32, 32, 3], 64, (3, 3), 1, 1),
        ([2, 10, 7, 3], 70, (3, 2), 3, 1),
        ([2, 7, 5, 4], 5, (2, 3), 2, 1),
        ([1, 11, 9, 2], 4, (4, 6), 2, 3),
    ];
    // Output channels that end with seven of a vector, and of two panels.
    for channels in 1..=4 {
        sizes.extend([23, 72, 70].map(|co| ([2, 5, 3, channels], co, (3, 3), 1, 1)));
    }
    let mut cases = Vec::new();
    for (shape, co, (kh, kw), stride, pad) in sizes {
        for (normalized, bf16) in [(false, false), (true, false), (true, true)] {
            let (w, channels) = ([co, kh, kw, shape[3]], shape[3]);
            let conv = Conv::new(&shape, &w, stride, pad).unwrap();
            let (mean, std) = (vec![0.5; channels], vec![0.25, 0.5, 2.0, 4.0][..channels].to_vec());
            let (eps, alpha) = (8.0 / 255.0, 2.0 / 255.0);
            // The gradient comes in as a product with `dy`, of whole numbers, as are the weights: all sums
            // are exact, so that the sign of none is left to rounding, and some are 0.
            let whole = |shape: &[usize], seed| {
                let mut input = Input::normal_seeded(shape, seed);
                input.values.iter_mut().for_each(|v| *v = v.round());
                input
            };
            let x = Input::uniform(&shape, 0.0, 1.0);
            let mut adv = Input::normal_seeded(&shape, 9).scaled(0.02);
            adv.values.iter_mut().zip(&x.values).for_each(|(d, x)| *d = (*d + x).clamp(0.0, 1.0));
            let run = move |device: &Device, t: &[Tensor]| {
                let tape = Tape::new(device);
                let leaf = tape.stepping_leaf(t[0].clone(), SignStep { x: t[1].clone(), alpha, eps });
                let images = match normalized {
                    true => Normalize::new(device, &mean, &std, channels)?.forward(&tape, leaf)?,
                    false => leaf,
                };
                let weight = tape.constant(t[2].clone());
                let filter = Rc::new(Filter::new(t[2].clone(), Precision::F32));
                let mut gradients = if bf16 {
                    let y = conv2d_prepared(&tape, images, weight, &filter, stride, pad, &Rows::All)?;
                    let dy = tape.constant(t[3].clone());
                    let dy = tape.value(to_bf16(&tape, dy)?);
                    tape.backward_from::<half::bf16>(y, false, |_, _| Ok(dy))?
                } else {
                    let y: Var = conv2d_prepared(&tape, images, weight, &filter, stride, pad, &Rows::All)?;
                    tape.backward(y, Some(t[3].clone()))?
                };
                assert!(gradients.get(leaf).is_none(), "the gradient of images that moved");
                gradients.take_moved(leaf).expect("the images moved").to_vec()
            };
            let oracle = move |v: &[Vec<f64>]| {
                let gradient = input_oracle(&conv, &v[3], &v[2]);
                let step = |((a, g), x): ((&f64, &f64), &f64)| {
                    let sign = if *g == 0.0 { 0.0 } else { g.signum() };
                    (a + alpha as f64 * sign).max(x - eps as f64).min(x + eps as f64).clamp(0.0, 1.0)
                };
                v[0].iter().zip(&gradient).zip(&v[1]).map(step).collect()
            };
            let out = conv.out_shape();
            cases.push(Case::kernel(
                format!(
                    "step of {shape:?} by {w:?} stride {stride} pad {pad}, normalized {normalized}, \
                     bf16 {bf16}"
                ),
                [adv, x, whole(&w, 1), whole(&out, 2)],
                run,
                oracle,
            ));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::super::add::add;
    use super::super::attack_step::linf_step;
    use super::super::conv2d::conv2d;
    use super::super::testing::Input;
    use super::*;
    use crate::tape::SignStep;

    fn tensor(device: &Device, input: Input) -> Tensor {
        Tensor::from_slice(device, &input.shape, &input.values).unwrap()
    }

    /// The images after a step, and whether a kernel of its own made it.
    fn stepped(
        device: &Device,
        grad: &[f32],
        through: impl Fn(&Tape, Var, Var) -> Result<Var>,
    ) -> (Vec<f32>, bool) {
        let shape = [3, 8, 8, 3];
        let x = tensor(device, Input::uniform(&shape, 0.0, 1.0));
        let w = tensor(device, Input::normal(&[16, 3, 3, 3]));
        let (alpha, eps) = (0.01, 0.03);
        let tape = Tape::new(device);
        let leaf = tape.stepping_leaf(x.clone(), SignStep { x: x.clone(), alpha, eps });
        let y = through(&tape, leaf, tape.constant(w)).unwrap();
        let upstream = Tensor::from_slice(device, tape.value(y).shape(), grad).unwrap();
        let mut gradients = tape.backward(y, Some(upstream)).unwrap();
        if let Some(moved) = gradients.take_moved(leaf) {
            return (moved.to_vec().unwrap(), true);
        }
        let mut x_adv = x.clone();
        linf_step(&mut x_adv, &gradients.take(leaf).unwrap(), &x, alpha, eps).unwrap();
        (x_adv.to_vec().unwrap(), false)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn the_step_is_that_of_separate_kernels_for_zero_and_nan_gradients_too() {
        let device = Device::host().unwrap();
        let mut grad = Input::normal(&[3, 8, 8, 16]).values;
        grad[..1024].fill(0.0);
        grad[2500] = f32::NAN;
        let once = |tape: &Tape, x: Var, w: Var| conv2d(tape, x, w, 1, 1);
        // A multiple of 1 is another reader of x: nothing is fused.
        let twice = |tape: &Tape, x: Var, w: Var| {
            let none = super::super::fill::scale(tape, x, 0.0)?;
            add(tape, conv2d(tape, x, w, 1, 1)?, conv2d(tape, none, w, 1, 1)?)
        };
        let (fused, separate) = (stepped(&device, &grad, once), stepped(&device, &grad, twice));
        assert_eq!((fused.1, separate.1), (true, false));
        assert_eq!(fused.0.iter().filter(|v| v.is_nan()).count(), 9 * 3);
        assert_eq!(bits(&fused.0), bits(&separate.0));
    }

    #[test]
    fn wide_images_keep_their_gradient() {
        let device = Device::host().unwrap();
        let tape = Tape::new(&device);
        let x = tensor(&device, Input::normal(&[1, 4, 4, 5]));
        let leaf = tape.stepping_leaf(x.clone(), SignStep { x, alpha: 0.1, eps: 0.1 });
        let w = tape.constant(tensor(&device, Input::normal(&[2, 3, 3, 5])));
        let y = conv2d(&tape, leaf, w, 1, 1).unwrap();
        let mut gradients = tape.backward(y, Some(tape.value(y))).unwrap();
        assert!(gradients.take_moved(leaf).is_none() && gradients.take(leaf).is_some());
    }
}
