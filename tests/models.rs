//! Parameter counts and names of the named architectures, against the published ones.

use saddle::device::testing::device;
use saddle::nn::{Arch, BnMode, Net, Role, Shape, architectures};
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use std::collections::BTreeSet;

fn net(name: &str, classes: usize, height: usize) -> Net {
    let device = device();
    let shape = Shape { channels: 3, height, classes, mean: vec![], std: vec![] };
    Net::new(&device, Arch::find(name).unwrap(), &shape, 0).unwrap()
}

/// Parameters with 10 classes, and tensors of a PyTorch state dict (with one `num_batches_tracked` a batch
/// norm).
#[test]
fn parameter_counts_are_the_published_ones() {
    for (name, parameters, tensors) in [
        ("resnet18", 11_173_962, 122),
        ("preact-resnet18", 11_172_170, 107),
        ("wrn-28-10", 36_479_194, 155),
        ("wrn-34-10", 46_160_474, 191),
    ] {
        let net = net(name, 10, 32);
        assert_eq!(net.params.count(), parameters, "{name}");
        let batch_norms = net.params.iter().filter(|p| p.name.ends_with("running_mean")).count();
        assert_eq!(net.params.iter().count() + batch_norms, tensors, "{name}");
    }
    // The benchmark code's "ResNet-18" of bottleneck blocks is known to have 13.96 million.
    let millions = net("resnet18-bottleneck", 10, 32).params.count() as f64 / 1e6;
    assert!((millions - 13.96).abs() < 0.005, "{millions}");
}

#[test]
fn stages_end_where_the_classifier_begins() {
    for (name, widths) in [
        ("resnet-mini", &[16, 32, 64, 64][..]),
        ("resnet18-bottleneck", &[256, 512, 1024, 2048, 2048]),
        ("preact-resnet18", &[64, 128, 256, 512, 512]),
    ] {
        let (mut net, device) = (net(name, 10, 8), device());
        let pixels: Vec<f32> = (0..2 * 8 * 8 * 3).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let tape = Tape::new(&device);
        let x = tape.constant(Tensor::from_slice(&device, &[2, 8, 8, 3], &pixels).unwrap());
        let value = |var| tape.value(var).to_vec().unwrap();
        let features = value(net.features(&tape, x, BnMode::Eval, None).unwrap());
        let stages = net.stages(&tape, x, BnMode::Eval).unwrap();
        assert_eq!(stages.iter().map(|s| tape.value(*s).shape()[1]).collect::<Vec<_>>(), widths, "{name}");
        let [.., stage, last] = stages.as_slice() else { panic!("{name} has no stages") };
        assert_eq!(value(*last), features, "{name}");
        // After the last stage of a pre-activation network come a batch norm and a ReLU.
        assert_eq!(value(*stage) == features, !name.starts_with("preact"), "{name}");
    }
}

#[test]
fn more_classes_only_widen_the_classifier() {
    for classes in [100, 200] {
        assert_eq!(net("resnet18", classes, 32).params.count(), 11_173_962 + (classes - 10) * 513);
    }
}

#[test]
fn names_are_pytorchs() {
    let names: BTreeSet<String> =
        net("resnet18", 10, 32).expected().into_iter().map(|(name, _)| name).collect();
    for name in [
        "conv1.weight",
        "bn1.running_var",
        "layer1.1.conv2.weight",
        "layer4.0.shortcut.0.weight",
        "layer4.0.shortcut.1.bias",
        "linear.bias",
    ] {
        assert!(names.contains(name), "{name}");
    }
    let names: BTreeSet<String> =
        net("preact-resnet18", 10, 32).expected().into_iter().map(|(name, _)| name).collect();
    for name in ["layer2.0.shortcut.0.weight", "bn.weight", "layer4.1.bn2.running_mean", "linear.weight"] {
        assert!(names.contains(name), "{name}");
    }
    assert!(!names.contains("bn1.weight") && !names.contains("layer1.0.shortcut.0.weight"));
    let names: BTreeSet<String> =
        net("wrn-28-10", 10, 32).expected().into_iter().map(|(name, _)| name).collect();
    for name in ["block1.layer.0.convShortcut.weight", "block3.layer.3.conv2.weight", "bn1.bias", "fc.weight"]
    {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn initial_values_follow_pytorchs_default() {
    let net = net("resnet18", 10, 32);
    for param in net.params.iter() {
        let values = param.value.to_vec().unwrap();
        let shape = param.value.shape();
        match (param.role, param.name.as_str()) {
            (Role::Filter, _) | (Role::Weight, "linear.weight") => {
                let fan_in: usize = shape[1..].iter().product();
                let bound = 1.0 / (fan_in as f64).sqrt();
                let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs() as f64));
                assert!(
                    largest <= bound * 1.0001 && largest > bound * 0.95,
                    "{}: {largest} of {bound}",
                    param.name
                );
                let mean = values.iter().map(|v| *v as f64).sum::<f64>() / values.len() as f64;
                let variance =
                    values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64;
                assert!(
                    (variance / (bound * bound / 3.0) - 1.0).abs() < 0.08,
                    "{}: variance {variance}",
                    param.name
                );
            }
            (_, "linear.bias") => assert!(values.iter().all(|v| v.abs() <= 1.0 / 512f32.sqrt())),
            (_, name) => {
                let one = name.ends_with(".weight") || name.ends_with("running_var");
                assert!(values.iter().all(|v| *v == if one { 1.0 } else { 0.0 }), "{name}");
            }
        }
    }
}

#[test]
fn every_architecture_has_a_forward_pass_at_both_image_sizes() {
    use saddle::nn::BnMode;
    use saddle::tape::Tape;
    use saddle::tensor::Tensor;
    let device = device();
    for arch in architectures().filter(|a| !a.name.starts_with("wrn")) {
        for (height, classes) in [(32, 10), (64, 200)] {
            let mut net = net(arch.name, classes, height);
            let tape = Tape::new(&device);
            let x = tape.constant(Tensor::zeros(&device, &[1, height, height, 3]).unwrap());
            let z = net.forward(&tape, x, BnMode::Eval, None).unwrap();
            assert_eq!(tape.value(z).shape(), [1, classes], "{}", arch.name);
        }
    }
}
