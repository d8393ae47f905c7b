//! Small networks of every family against PyTorch (tests/goldens): logits, every gradient by name, running
//! statistics, ten SGD losses.

mod common;

use common::{Golden, Tolerance, assert_close};
use saddle::device::testing::devices_and_cuda_shapes;
use saddle::device::{Buffer, Device};
use saddle::nn::{BnMode, Builder, Net, Role, Shape, Size, families};
use saddle::ops::cross_entropy::cross_entropy;
use saddle::ops::reduce::Reduction;
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use saddle::train::step::Sgd;

/// PyTorch's own float32 error on these nets is about 4e-6 of a tensor's largest entry.
const TOLERANCE: Tolerance = Tolerance { relative: 2e-5, least: 1e-7 };

fn build(device: &Device, golden: &Golden) -> Net {
    let number = |key: &str| golden.metadata[key].parse::<usize>().unwrap();
    let size = Size { width: number("width"), stages: 3, blocks: number("blocks") };
    let shape = Shape { channels: 3, height: 8, classes: 10, mean: vec![], std: vec![] };
    let layers = |builder: &mut Builder| match golden.metadata["arch"].trim_end_matches('2') {
        "basicblock" => families::basic::layers(builder, size),
        "preact" => families::preact::layers(builder, size),
        "bottleneck" => families::bottleneck::layers(builder, size),
        "wide" => families::wide::layers(builder, size.width / 2, size),
        other => panic!("unknown golden {other}"),
    };
    let mut net = Net::of_layers(device, &shape, 0, layers).unwrap();
    for (name, shape) in net.expected() {
        assert_eq!(golden.shape(&format!("param.{name}")), shape, "{name}");
    }
    let known = net.expected().len();
    let stored =
        golden.names().filter(|n| n.starts_with("param.") && !n.ends_with("num_batches_tracked")).count();
    assert_eq!(known, stored, "the golden has other parameters than the net");
    net.import(device, |name| Some(golden.floats(&format!("param.{name}")))).unwrap();
    net
}

/// NCHW to NHWC.
fn image(device: &Device, golden: &Golden, name: &str) -> Tensor {
    let [n, c, h, w] = golden.shape(name).try_into().unwrap();
    let values = golden.floats(name);
    let mut out = Vec::with_capacity(values.len());
    for (i, y, x) in (0..n).flat_map(|i| (0..h).flat_map(move |y| (0..w).map(move |x| (i, y, x)))) {
        out.extend((0..c).map(|k| values[((i * c + k) * h + y) * w + x]));
    }
    Tensor::from_slice(device, &[n, h, w, c], &out).unwrap()
}

/// The values of a device tensor in PyTorch's layout.
fn file_layout(role: Role, tensor: &Tensor) -> Vec<f32> {
    let values = tensor.to_vec().unwrap();
    let Ok([o, h, w, i]) = <[usize; 4]>::try_from(tensor.shape()) else { return values };
    assert_eq!(role, Role::Filter);
    let mut out = Vec::with_capacity(values.len());
    for (a, b) in (0..o).flat_map(|a| (0..i).map(move |b| (a, b))) {
        out.extend((0..h * w).map(|k| values[(a * h * w + k) * i + b]));
    }
    out
}

fn check(name: &str) {
    let golden = Golden::read(name);
    for (label, device) in devices_and_cuda_shapes() {
        let labels: Vec<i32> = golden.integers("y").iter().map(|y| *y as i32).collect();
        let y = Buffer::from_slice(&device, &labels).unwrap();
        let x = image(&device, &golden, "x");
        for (mode_name, mode) in [("eval", BnMode::Eval), ("train", BnMode::Train)] {
            let mut net = build(&device, &golden);
            let at = |what: &str| format!("{label}, {name}, {mode_name}.{what}");
            let want = |what: &str| golden.floats(&format!("{mode_name}.{what}"));
            let tape = Tape::new(&device);
            let leaves = net.leaves(&tape);
            let input = tape.leaf(x.clone());
            let z = net.forward(&tape, input, mode, Some(&leaves)).unwrap();
            assert_close(&at("logits"), &tape.value(z).to_vec().unwrap(), &want("logits"), TOLERANCE);
            let loss = cross_entropy(&tape, z, &y, Reduction::Mean).unwrap();
            let mut gradients = tape.backward(loss, None).unwrap();
            let grad_x = gradients.take(input).unwrap().to_vec().unwrap();
            let want_x = image(&device, &golden, &format!("{mode_name}.grad_x")).to_vec().unwrap();
            assert_close(&at("grad_x"), &grad_x, &want_x, TOLERANCE);
            let gradients = leaves.gradients(&mut gradients);
            for param in net.params.iter().filter(|param| param.role == Role::Buffer) {
                let value = param.value.to_vec().unwrap();
                if mode == BnMode::Train {
                    let want = golden.floats(&format!("train.buffer.{}", param.name));
                    assert_close(&at(&param.name), &value, &want, TOLERANCE);
                } else {
                    let want = golden.floats(&format!("param.{}", param.name));
                    assert_eq!(value, want, "{} moved in eval mode", param.name);
                }
            }
            let trained = net.params.iter().filter(|param| param.role != Role::Buffer).count();
            assert!(gradients.len() == trained && trained > 10, "{} of {trained}", gradients.len());
            for (id, gradient) in &gradients {
                let param = net.params.get(*id);
                let want = want(&format!("grad.{}", param.name));
                assert_close(&at(&param.name), &file_layout(param.role, gradient), &want, TOLERANCE);
            }

            // With frozen weights (and, in eval mode, folded batch norms) logits and input gradient are the
            // same.
            let mut net = build(&device, &golden);
            let tape = Tape::new(&device);
            let input = tape.leaf(x.clone());
            let z = net.forward(&tape, input, mode, None).unwrap();
            assert_close(&at("logits, frozen"), &tape.value(z).to_vec().unwrap(), &want("logits"), TOLERANCE);
            let loss = cross_entropy(&tape, z, &y, Reduction::Mean).unwrap();
            let grad_x = tape.backward(loss, None).unwrap().take(input).unwrap().to_vec().unwrap();
            assert_close(&at("grad_x, frozen"), &grad_x, &want_x, TOLERANCE);
        }

        let number = |key: &str| golden.metadata[key].parse::<f32>().unwrap();
        let lr = Buffer::from_slice(&device, &[number("lr")]).unwrap();
        let sgd = Sgd { lr: &lr, momentum: number("momentum"), weight_decay: number("weight_decay") };
        let mut net = build(&device, &golden);
        let mut losses = Vec::new();
        for _ in 0..10 {
            let tape = Tape::new(&device);
            let leaves = net.leaves(&tape);
            let z = net.forward(&tape, tape.constant(x.clone()), BnMode::Train, Some(&leaves)).unwrap();
            let loss = cross_entropy(&tape, z, &y, Reduction::Mean).unwrap();
            losses.push(tape.value(loss).item().unwrap());
            let gradients = leaves.gradients(&mut tape.backward(loss, None).unwrap());
            drop((tape, leaves));
            sgd.update(&mut net.params, &gradients).unwrap();
        }
        assert_close(&format!("{label}, {name}, losses"), &losses, &golden.floats("losses"), TOLERANCE);
    }
}

#[test]
fn basic_block_net() {
    check("basicblock");
}

#[test]
fn preact_net() {
    check("preact");
}

#[test]
fn bottleneck_nets() {
    check("bottleneck");
    check("bottleneck2");
}

#[test]
fn wide_nets() {
    check("wide");
    check("wide2");
}
