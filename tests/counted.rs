//! Passes over a set whose size only the device knows: the first `count` images of a batch, against a batch
//! of that many images.

mod common;

use common::Tolerance;
use saddle::device::testing::device;
use saddle::device::{Buffer, Device};
use saddle::nn::{Arch, BnMode, Net, Rows, Shape};
use saddle::ops::cross_entropy::cross_entropy;
use saddle::ops::dicar::dicar;
use saddle::ops::reduce::{Reduction, sum};
use saddle::ops::split::Variant;
use saddle::ops::subset::{RowsFrom, Subset, mix, subset};
use saddle::tape::{Tape, Var};
use saddle::tensor::Tensor;
use std::rc::Rc;

const SIDE: usize = 8;
const CAPACITY: usize = 6;

fn net(device: &Device, name: &str) -> Net {
    let shape = Shape {
        channels: 3,
        height: SIDE,
        classes: 10,
        mean: vec![0.5, 0.4, 0.3],
        std: vec![0.2, 0.3, 0.25],
    };
    Net::new(device, Arch::find(name).unwrap(), &shape, 3).unwrap()
}

/// `count` images in [0,1], the same for every count, and up to `capacity` of NaN after them.
fn images(device: &Device, count: usize, capacity: usize) -> Tensor {
    let size = SIDE * SIDE * 3;
    let value = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) as f32 / u64::MAX as f32;
    let values: Vec<f32> =
        (0..capacity * size).map(|i| if i < count * size { value(i) } else { f32::NAN }).collect();
    Tensor::from_slice(device, &[capacity, SIDE, SIDE, 3], &values).unwrap()
}

fn running(net: &Net) -> Vec<(String, Vec<f32>)> {
    let buffers = net.params.iter().filter(|p| p.name.contains("running"));
    buffers.map(|p| (p.name.clone(), p.value.to_vec().unwrap())).collect()
}

fn close(what: &str, got: &[f32], want: &[f32], relative: f64) {
    common::assert_close(what, got, want, Tolerance { relative, least: 1e-4 });
}

/// Loss, gradients by name and running statistics of one pass in train mode.
fn pass(
    device: &Device,
    name: &str,
    x: &Tensor,
    rows: Option<Rows>,
    loss: impl Fn(&Tape, Var) -> Var,
) -> (f32, Vec<(String, Vec<f32>)>, Net) {
    let mut net = net(device, name);
    let tape = Tape::new(device);
    let leaves = net.leaves(&tape);
    let input = tape.leaf(x.clone());
    let z = match rows {
        Some(rows) => net.forward_rows(&tape, input, BnMode::Train, Some(&leaves), &rows),
        None => net.forward(&tape, input, BnMode::Train, Some(&leaves)),
    };
    let total = loss(&tape, z.unwrap());
    let mut gradients = tape.backward(total, None).unwrap();
    let dx = gradients.take(input).unwrap().to_vec().unwrap();
    let of_params = leaves.gradients(&mut gradients);
    let named =
        of_params.iter().map(|(id, gradient)| (net.params.get(*id).name.clone(), gradient.to_vec().unwrap()));
    let named = named.chain([("images".into(), dx)]).collect();
    (tape.value(total).item().unwrap(), named, net)
}

fn first_images_equal_a_smaller_batch(device: &Device, name: &str) {
    let labels: Vec<i32> = (0..CAPACITY as i32).map(|i| i * 3 % 10).collect();
    // DICAR reads the logits of members only; its second side is a constant here.
    let views = {
        let values: Vec<f32> = (0..CAPACITY * 10).map(|i| (i * 7 % 11) as f32 / 3.0).collect();
        Tensor::from_slice(device, &[CAPACITY, 10], &values).unwrap()
    };
    let r = Tensor::from_slice(device, &[1], &[0.75]).unwrap();
    for count in [1, 2, CAPACITY - 1, CAPACITY] {
        let flags = |n: usize| {
            Buffer::from_slice(device, &(0..n).map(|i| (i < count) as u8).collect::<Vec<_>>()).unwrap()
        };
        let set = subset(device, RowsFrom::all(&flags(CAPACITY)), None, CAPACITY).unwrap();
        let small = subset(device, RowsFrom::all(&flags(count)), None, count).unwrap();
        let against = |set: Subset| {
            let (views, r) = (views.clone(), r.clone());
            move |tape: &Tape, z: Var| {
                let v = tape.constant(views.clone());
                dicar(tape, z, RowsFrom::all(v), RowsFrom::all(v), &set, &r, 0.5, Variant::Code).unwrap()
            }
        };
        let rows = Rows::First(set.count.clone());
        let counted = pass(device, name, &images(device, count, CAPACITY), Some(rows), against(set));
        let plain = pass(device, name, &images(device, count, count), None, against(small));
        let what = format!("{name}, {count} of {CAPACITY}");
        assert!(
            plain.0 > 0.0 && (counted.0 - plain.0).abs() <= 1e-5 * plain.0,
            "{what}: loss {} and {}",
            counted.0,
            plain.0
        );
        assert_eq!(counted.1.len(), plain.1.len());
        for ((param, got), (_, want)) in counted.1.iter().zip(&plain.1) {
            let (exist, behind) = got.split_at(want.len());
            close(&format!("{what}: {param}"), exist, want, 2e-3);
            assert!(behind.iter().all(|g| *g == 0.0), "{what}: {param} behind the last");
        }
        for ((buffer, got), (_, want)) in running(&counted.2).iter().zip(&running(&plain.2)) {
            close(&format!("{what}: {buffer}"), got, want, 1e-5);
        }
        assert_eq!((counted.2.train_passes, plain.2.train_passes), (1, 1));
    }
    // Nobody in S: no loss, no gradient, nothing moves.
    let nobody =
        subset(device, RowsFrom::all(&Buffer::zeros(device, CAPACITY).unwrap()), None, CAPACITY).unwrap();
    let rows = Rows::First(nobody.count.clone());
    let loss = |tape: &Tape, z: Var| {
        let v = tape.constant(views.clone());
        dicar(tape, z, RowsFrom::all(v), RowsFrom::all(v), &nobody, &r, 0.5, Variant::Code).unwrap()
    };
    let (loss, gradients, after) = pass(device, name, &images(device, 0, CAPACITY), Some(rows), loss);
    assert_eq!(loss, 0.0);
    for (param, gradient) in &gradients {
        assert!(gradient.iter().all(|g| *g == 0.0), "{name}: {param} with nobody in S");
    }
    assert_eq!(running(&after), running(&net(device, name)));
    // A closed gate changes running statistics only.
    let x = images(device, CAPACITY, CAPACITY);
    let loss = |tape: &Tape, z: Var| {
        cross_entropy(tape, z, &Buffer::from_slice(device, &labels).unwrap(), Reduction::Mean).unwrap()
    };
    let plain = pass(device, name, &x, None, loss);
    for (count, moves) in [(0, false), (3, true)] {
        let gate = Rows::AllIf(Rc::new(Buffer::from_slice(device, &[count]).unwrap()));
        let gated = pass(device, name, &x, Some(gate), loss);
        assert_eq!((gated.0, &gated.1), (plain.0, &plain.1), "{name}: gate {count}");
        let want = if moves { running(&plain.2) } else { running(&net(device, name)) };
        assert_eq!(running(&gated.2), want, "{name}: gate {count}");
        assert_eq!(gated.2.train_passes, 1);
    }
}

#[test]
fn a_counted_pass_is_a_pass_of_fewer_images() {
    let device = device();
    for name in ["resnet-mini", "preact-resnet18"] {
        first_images_equal_a_smaller_batch(&device, name);
    }
    let checked = Device::host_checked(saddle::device::Order::Shuffled(5)).unwrap();
    first_images_equal_a_smaller_batch(&checked, "resnet-mini");
}

/// The whole chain of RAAT's second term: views, set, mixed images, counted pass, DICAR, against the same on
/// the members alone.
#[test]
fn mixed_images_of_a_set_train_like_a_batch_of_them() {
    let device = device();
    let members = [1usize, 2, 4];
    let flags: Vec<u8> = (0..2 * CAPACITY).map(|i| members.contains(&(i % CAPACITY)) as u8).collect();
    let flags = Buffer::from_slice(&device, &flags).unwrap();
    let set =
        subset(&device, RowsFrom::all(&flags), Some(RowsFrom::new(&flags, CAPACITY)), CAPACITY).unwrap();
    let both = images(&device, 2 * CAPACITY, 2 * CAPACITY);
    let r = Tensor::from_slice(&device, &[1], &[0.8]).unwrap();
    let mixed = mix(&device, RowsFrom::all(&both), RowsFrom::new(&both, CAPACITY), &set, &r).unwrap();
    let size = SIDE * SIDE * 3;
    let gathered =
        Tensor::from_slice(&device, &[3, SIDE, SIDE, 3], &mixed.to_vec().unwrap()[..3 * size]).unwrap();
    let run = |u_images: &Tensor, rows: &Rows, set: &Subset, view_images: &Tensor| {
        let mut net = net(&device, "resnet-mini");
        let tape = Tape::new(&device);
        let leaves = net.leaves(&tape);
        let (input, views) = (tape.constant(u_images.clone()), tape.constant(view_images.clone()));
        let u = net.forward_rows(&tape, input, BnMode::Train, Some(&leaves), rows).unwrap();
        // The views' pass in `Eval` mode, so that it does not depend on who else is in the batch.
        let z = net.forward(&tape, views, BnMode::Eval, Some(&leaves)).unwrap();
        let half = view_images.shape()[0] / 2;
        let loss =
            dicar(&tape, u, RowsFrom::all(z), RowsFrom::new(z, half), set, &r, 0.5, Variant::Paper).unwrap();
        let total = sum(&tape, loss).unwrap();
        let mut gradients = tape.backward(total, None).unwrap();
        let all: Vec<Vec<f32>> =
            leaves.gradients(&mut gradients).iter().map(|(_, gradient)| gradient.to_vec().unwrap()).collect();
        (tape.value(total).item().unwrap(), all)
    };
    let counted = run(&mixed, &Rows::First(set.count.clone()), &set, &both);
    let values = both.to_vec().unwrap();
    let rows = [0, CAPACITY].map(|offset| members.map(|m| (m + offset) * size));
    let of_members: Vec<f32> = rows.concat().iter().flat_map(|at| &values[*at..][..size]).copied().collect();
    let of_members = Tensor::from_slice(&device, &[6, SIDE, SIDE, 3], &of_members).unwrap();
    let everybody =
        subset(&device, RowsFrom::all(&Buffer::from_slice(&device, &[1, 1, 1]).unwrap()), None, 3).unwrap();
    let plain = run(&gathered, &Rows::All, &everybody, &of_members);
    assert!(plain.0 > 0.0 && (counted.0 - plain.0).abs() <= 1e-5 * plain.0, "{} and {}", counted.0, plain.0);
    for (i, (got, want)) in counted.1.iter().zip(&plain.1).enumerate() {
        close(&format!("gradient {i}"), got, want, 2e-3);
    }
}
