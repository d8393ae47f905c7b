//! The head of a network (global average pooling, linear classifier) and a loss of its logits, in one kernel
//! that gives the gradient of the last feature maps: for passes with frozen weights, such as an attack's.

use super::conv2d::masks_fit;
use super::cross_entropy::{cross_entropy, labelled};
use super::kl::kl;
use super::prelude::*;
use super::reduce::Reduction;
use kernels::head;

/// What a loss compares logits `[N,K]` with.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Class labels `[N]`: the cross entropy.
    Labels(&'a Buffer<i32>),
    /// Other logits u `[N,K]`, as constants: KL(softmax(u) || softmax(z)).
    Logits(&'a Tensor),
}

impl Target<'_> {
    /// The loss of logits z, summed over the images.
    pub fn loss(self, tape: &Tape, z: Var) -> Result<Var> {
        match self {
            Target::Labels(y) => cross_entropy(tape, z, y, Reduction::Sum),
            Target::Logits(u) => kl(tape, tape.constant(u.clone()), z, Reduction::Sum),
        }
    }
}

/// The classifier x W^T + b: W `[K,C]`, b `[K]`.
pub struct Classifier {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Classifier {
    /// Whether [`Classifier::gradient`] has room for so many channels and classes.
    pub fn fits(&self, device: &Device) -> bool {
        let &[classes, channels] = self.weight.shape() else { return false };
        classes <= head::MOST_CLASSES.on(device) && channels <= head::MOST_CHANNELS.on(device)
    }

    /// Whether [`Classifier::gradient`] can read a ReLU mask.
    pub fn can_mask(&self) -> bool {
        self.weight.shape().last().is_some_and(|channels| masks_fit(*channels))
    }

    /// The gradient of [`Target::loss`] in the last feature maps `[N,H,W,C]`; with `relu_mask`, zero where a
    /// bit is 0, which is the gradient through the ReLU that made them.
    pub fn gradient<T: Real>(
        &self,
        maps: &Tensor<T>,
        target: Target,
        relu_mask: Option<&Buffer<u8>>,
    ) -> Result<Tensor<T>> {
        let (device, [n, h, w, channels]) = (maps.device(), maps.nhwc("head")?);
        let [classes, inputs] = self.weight.matrix("head weight")?;
        let wrong =
            |expected: String, got: &[usize]| Err(Error::Shape { op: "head", expected, got: got.to_vec() });
        if inputs != channels || !self.fits(device) {
            return wrong(format!("a weight [classes, {channels}] that fits"), self.weight.shape());
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.shape() != [classes]) {
            return wrong(format!("a bias [{classes}]"), bias.shape());
        }
        if let Some(mask) = relu_mask.filter(|mask| !self.can_mask() || mask.len() != mask_bytes(maps.len()))
        {
            return wrong("bits of the maps, channels a multiple of 16".into(), &[mask.len()]);
        }
        if h * w == 0 {
            return wrong("at least one pixel".into(), maps.shape());
        }
        let (weight, bias) = (self.weight.buffer(), self.bias.as_ref().map(Tensor::buffer));
        let (mut grad_maps, pixels) = (Tensor::<T>::uninit(device, maps.shape())?, h * w);
        match target {
            Target::Labels(labels) => {
                labelled("head", labels, n)?;
                let grad_maps = &mut grad_maps;
                head::CrossEntropy {
                    maps,
                    weight,
                    bias,
                    labels,
                    relu_mask,
                    grad_maps,
                    pixels,
                    channels,
                    classes,
                }
                .launch(device, n)?;
            }
            Target::Logits(logits) if logits.shape() == [n, classes] => {
                let (target, grad_maps) = (logits.buffer(), &mut grad_maps);
                head::Kl { maps, weight, bias, target, relu_mask, grad_maps, pixels, channels, classes }
                    .launch(device, n)?;
            }
            Target::Logits(logits) => return wrong(format!("logits [{n}, {classes}]"), logits.shape()),
        }
        Ok(grad_maps)
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::{rounded, widened};
    use super::cross_entropy::test_labels;
    use super::reduce::log_softmax_wide;
    use super::testing::*;
    // [N,H,W,C], classes, and a factor of the maps.
    let sizes = [
        ([1, 1, 1, 1], 2, 1.0f32),
        ([3, 7, 5, 3], 3, 1.0),
        ([2, 1, 3, 33], 10, 1.0),
        ([5, 4, 4, 64], 10, 1.0),
        ([3, 2, 2, 640], 9, 1.0),
        ([2, 3, 4, 2064], 21, 1.0),
        ([2, 1, 2, 1040], 5, 1.0),
        ([2, 3, 3, 48], 200, 1.0),
        ([3, 4, 4, 32], 10, 300.0),
    ];
    let mut cases = Vec::new();
    for (shape, classes, scale) in sizes {
        let [n, h, w, c] = shape;
        for (with_labels, with_bias, with_mask, bf16) in [
            (true, true, true, false),
            (true, false, false, false),
            (false, true, true, false),
            (true, true, true, true),
            (false, true, false, true),
            (false, false, false, false),
            (true, false, false, true),
            (false, false, true, true),
        ] {
            let with_mask = with_mask && masks_fit(c);
            let kept = move |at: usize| !with_mask || !(at * 7).is_multiple_of(3);
            let run = move |device: &Device, t: &[Tensor]| {
                let y = Buffer::from_slice(device, &test_labels(n, classes))?;
                let target = if with_labels { Target::Labels(&y) } else { Target::Logits(&t[3]) };
                let bits = (0..mask_bytes(n * h * w * c))
                    .map(|byte| (0..8).map(|j| (kept(byte * 8 + j) as u8) << j).sum())
                    .collect::<Vec<u8>>();
                let mask = with_mask.then(|| Buffer::from_slice(device, &bits)).transpose()?;
                let bias = with_bias.then(|| t[2].clone());
                let classifier = Classifier { weight: t[1].clone(), bias };
                if bf16 {
                    let gradient = classifier.gradient(&rounded(&t[0])?, target, mask.as_ref())?;
                    return widened(&gradient)?.to_vec();
                }
                classifier.gradient(&t[0], target, mask.as_ref())?.to_vec()
            };
            let oracle = move |v: &[Vec<f64>]| {
                let pixels = h * w;
                let image = |i: usize| {
                    let x = &v[0][i * pixels * c..][..pixels * c];
                    let feature = |j: usize| x.iter().skip(j).step_by(c).sum::<f64>() / pixels as f64;
                    let features: Vec<f64> = (0..c).map(feature).collect();
                    let logit = |k: usize| {
                        let dot = features.iter().zip(&v[1][k * c..]).map(|(f, w)| f * w).sum::<f64>();
                        dot + if with_bias { v[2][k] } else { 0.0 }
                    };
                    let log_q = log_softmax_wide(&(0..classes).map(logit).collect::<Vec<f64>>());
                    let log_p = log_softmax_wide(&v[3][i * classes..][..classes]);
                    let label = test_labels(n, classes)[i] as usize;
                    let p = |k: usize| if with_labels { f64::from(k == label) } else { log_p[k].exp() };
                    let dz: Vec<f64> = (0..classes).map(|k| log_q[k].exp() - p(k)).collect();
                    let of = |j: usize| (0..classes).map(|k| dz[k] * v[1][k * c + j]).sum::<f64>();
                    let df: Vec<f64> = (0..c).map(of).collect();
                    let at = move |e: usize| {
                        if kept(i * pixels * c + e) { df[e % c] / pixels as f64 } else { 0.0 }
                    };
                    (0..pixels * c).map(at).collect::<Vec<f64>>()
                };
                (0..n).flat_map(image).collect()
            };
            let maps = Input::normal(&shape).scaled(scale);
            let inputs = [
                if bf16 { maps.in_bf16() } else { maps },
                Input::normal_seeded(&[classes, c], 1).scaled((c as f32).powf(-0.5)),
                Input::normal_seeded(&[classes], 2),
                Input::normal_seeded(&[n, classes], 3),
            ];
            let name = format!(
                "head of {shape:?} to {classes}, labels {with_labels}, bias {with_bias}, mask {with_mask}, \
                 bf16 {bf16}, times {scale}"
            );
            let case = Case::kernel(name, inputs, run, oracle);
            // Large maps have large logits, whose rounding errors the softmax keeps.
            let absolute = if scale > 1.0 { 1e-4 } else { 1e-5 };
            cases.push(case.tolerance(absolute, if bf16 { 1.01 / 256.0 } else { 1e-5 }));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::super::global_avg_pool::global_avg_pool;
    use super::super::linear::linear;
    use super::super::testing::Input;
    use super::*;

    fn tensor(device: &Device, input: Input) -> Tensor {
        Tensor::from_slice(device, &input.shape, &input.values).unwrap()
    }

    #[test]
    fn the_bits_are_those_of_separate_kernels() {
        for (_, device) in super::super::testing::devices() {
            for (shape, classes) in [([3, 4, 4, 64], 10), ([2, 3, 3, 640], 21), ([3, 7, 5, 3], 2)] {
                let maps = tensor(&device, Input::normal(&shape));
                let weight = tensor(&device, Input::normal_seeded(&[classes, shape[3]], 1).scaled(0.1));
                let bias = tensor(&device, Input::normal_seeded(&[classes], 2));
                let logits = tensor(&device, Input::normal_seeded(&[shape[0], classes], 3));
                // One label is no class.
                let labels: Vec<i32> = (0..shape[0] as i32).map(|i| 2 * i - 1).collect();
                let labels = Buffer::from_slice(&device, &labels).unwrap();
                for target in [Target::Labels(&labels), Target::Logits(&logits)] {
                    let tape = Tape::new(&device);
                    let leaf = tape.leaf(maps.clone());
                    let pooled = global_avg_pool(&tape, leaf).unwrap();
                    let (w, b) = (tape.constant(weight.clone()), tape.constant(bias.clone()));
                    let z = linear(&tape, pooled, w, Some(b)).unwrap();
                    let loss = target.loss(&tape, z).unwrap();
                    let want = tape.backward(loss, None).unwrap().take(leaf).unwrap().to_vec().unwrap();
                    let classifier = Classifier { weight: weight.clone(), bias: Some(bias.clone()) };
                    let got = classifier.gradient(&maps, target, None).unwrap().to_vec().unwrap();
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                    assert_eq!(bits(&got), bits(&want), "{shape:?} on {device:?}");
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let device = Device::host().unwrap();
        let maps = tensor(&device, Input::normal(&[2, 3, 3, 4]));
        let labels = Buffer::from_slice(&device, &[0, 1]).unwrap();
        let of = |weight: [usize; 2], bias: usize| Classifier {
            weight: tensor(&device, Input::normal(&weight)),
            bias: Some(tensor(&device, Input::normal(&[bias]))),
        };
        assert!(of([5, 4], 5).gradient(&maps, Target::Labels(&labels), None).is_ok());
        assert!(of([5, 3], 5).gradient(&maps, Target::Labels(&labels), None).is_err());
        assert!(of([5, 4], 4).gradient(&maps, Target::Labels(&labels), None).is_err());
        let few = Buffer::from_slice(&device, &[0]).unwrap();
        assert!(of([5, 4], 5).gradient(&maps, Target::Labels(&few), None).is_err());
        let logits = tensor(&device, Input::normal(&[2, 4]));
        assert!(of([5, 4], 5).gradient(&maps, Target::Logits(&logits), None).is_err());
        assert!(!of([2000, 4], 2000).fits(&device));
    }
}
