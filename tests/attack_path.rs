//! A step of an attack as few kernels: the head of the network in one, and the first convolution's gradient
//! with the step of the images in another. The images are those of separate kernels, bit for bit.

mod common;

use saddle::attack::{Pgd, Start, gradients};
use saddle::device::testing::device;
use saddle::device::trace::{Event, Listener, Range};
use saddle::device::{Buffer, Device};
use saddle::nn::{Arch, BnMode, Net, Shape};
use saddle::ops::attack_step::linf_step;
use saddle::ops::conv2d::Precision;
use saddle::ops::head::Target;
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use std::sync::{Arc, Mutex};

const CLASSES: usize = 10;

fn net(device: &Device, arch: &str, channels: usize, normalized: bool) -> Net {
    let numbers = |values: &[f32]| if normalized { values[..channels].to_vec() } else { vec![] };
    let (mean, std) = (numbers(&[0.5, 0.4, 0.3, 0.2, 0.1]), numbers(&[0.2, 0.3, 0.25, 0.5, 0.1]));
    let shape = Shape { channels, height: 8, classes: CLASSES, mean, std };
    Net::new(device, Arch::find(arch).unwrap(), &shape, 3).unwrap()
}

fn images(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i + seed) * 7919 % 997) as f32 / 996.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_slice(device, shape, &values).unwrap()
}

fn labels(device: &Device, n: usize) -> Buffer<i32> {
    Buffer::from_slice(device, &(0..n as i32).map(|i| i * 3 % CLASSES as i32).collect::<Vec<_>>()).unwrap()
}

/// The images after each step, by kernels that do one thing each.
fn separate(net: &mut Net, pgd: &Pgd, x: &Tensor, bn: BnMode, target: Target) -> Tensor {
    let mut x_adv = x.clone();
    for _ in 0..pgd.steps {
        let tape = Tape::new(x.device());
        let leaf = tape.leaf(x_adv.clone());
        let mut gradients = gradients(&tape, leaf, |tape, x| {
            let z = net.forward(tape, x, bn, None)?;
            target.loss(tape, z)
        });
        let grad = gradients.as_mut().unwrap().take(leaf).unwrap();
        linf_step(&mut x_adv, &grad, x, pgd.step_size, pgd.ball.eps).unwrap();
    }
    x_adv
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn images_are_those_of_separate_kernels() {
    let device = device();
    let pgd = Pgd { steps: 3, start: Start::Clean, ..Pgd::default() };
    for (arch, channels, normalized) in [
        ("resnet-mini", 1, false),
        ("resnet-mini", 3, true),
        ("preact-resnet18", 3, true),
        // The image is too wide for the kernel that steps.
        ("resnet-mini", 5, true),
    ] {
        for (precision, bn) in [
            (Precision::F32, BnMode::Eval),
            (Precision::F32, BnMode::Train),
            (Precision::Bf16, BnMode::Eval),
            (Precision::Bf16, BnMode::Train),
        ] {
            let x = images(&device, &[5, 8, 8, channels], 1);
            let (y, logits) = (labels(&device, 5), images(&device, &[5, CLASSES], 2));
            for target in [Target::Labels(&y), Target::Logits(&logits)] {
                let mut nets = [(); 2].map(|()| {
                    let mut net = net(&device, arch, channels, normalized);
                    net.set_precision(precision);
                    net
                });
                let want = separate(&mut nets[0], &pgd, &x, bn, target);
                let net = &mut nets[1];
                let got = pgd.ascend(&x, x.clone(), |tape, x| net.gradients(tape, x, bn, target)).unwrap();
                assert_ne!(bits(&got), bits(&x));
                assert_eq!(bits(&got), bits(&want), "{arch}, {channels} channels, {precision} {bn:?}");
                let [a, b] = &nets;
                for (a, b) in a.params.iter().zip(b.params.iter()) {
                    assert_eq!(bits(&a.value), bits(&b.value), "{}: {precision} {bn:?}", a.name);
                }
            }
        }
    }
}

/// The kernels of each step of an attack.
#[derive(Default)]
struct Kernels(Vec<(usize, &'static str)>);

impl Listener for Kernels {
    fn hear(&mut self, event: Event) {
        let Event::Launched(launch) = event else { return };
        let step = launch.path.ranges().find_map(|range| match range {
            Range::AttackStep(step) => Some(step),
            _ => None,
        });
        self.0.extend(step.map(|step| (step, launch.kernel)));
    }
}

/// The kernels of the second step of PGD.
fn second_step(arch: &str, pgd: Pgd, normalized: bool) -> Vec<&'static str> {
    let device = Device::host().unwrap();
    let (x, y) = (images(&device, &[2, 8, 8, 3], 1), labels(&device, 2));
    let mut net = net(&device, arch, 3, normalized);
    let heard = Arc::new(Mutex::new(Kernels::default()));
    device.listen(heard.clone());
    let target = Target::Labels(&y);
    let ascent = |tape: &Tape, x| net.gradients(tape, x, BnMode::Eval, target);
    pgd.ascend(&x, x.clone(), ascent).unwrap();
    let heard = heard.lock().unwrap();
    heard.0.iter().filter(|(step, _)| *step == 2).map(|(_, kernel)| *kernel).collect()
}

/// Nine convolutions, forward and backward; everything else is two launches, with normalisation three. By
/// separate kernels it was 28 and 30.
#[test]
fn a_step_of_pgd_has_two_launches_for_each_convolution_and_one_for_the_head() {
    let pgd = Pgd { steps: 2, start: Start::Clean, ..Pgd::default() };
    let mut want = vec!["conv2d_forward"; 9];
    want.push("head_cross_entropy");
    want.extend(["conv2d_input_grad"; 8]);
    want.push("conv2d_step_linf");
    assert_eq!(second_step("resnet-mini", pgd, false), want);
    want.insert(0, "normalize_forward");
    assert_eq!(second_step("resnet-mini", pgd, true), want);
    let accumulated = second_step("resnet-mini", Pgd { momentum: Some(1.0), ..pgd }, false);
    assert_eq!(
        accumulated[18..],
        ["conv2d_input_grad_narrow", "attack_step_momentum", "attack_step_linf"],
        "a step along an accumulated gradient"
    );
}
