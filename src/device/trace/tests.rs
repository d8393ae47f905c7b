use super::work::Parameters;
use super::*;
use crate::device::table::Traffic;
use crate::device::{Arg, Buffer, IntoArg, Precision};
use std::sync::Mutex;

/// Keeps all that it hears.
#[derive(Default)]
struct Ear {
    events: Vec<Event>,
    only: Option<usize>,
}

impl Listener for Ear {
    fn hear(&mut self, event: Event) {
        self.events.push(event);
    }

    fn wants(&self, step: Option<usize>) -> bool {
        self.only.is_none() || self.only == step
    }
}

fn heard(only: Option<usize>) -> (Device, Arc<Mutex<Ear>>) {
    let device = Device::host().unwrap();
    let ear = Arc::new(Mutex::new(Ear { only, ..Ear::default() }));
    device.listen(ear.clone());
    (device, ear)
}

/// Launches one kernel; returns what it writes.
fn launch(device: &Device, n: usize) -> Vec<f32> {
    let mut out = Buffer::from_slice(device, &vec![7.0; n]).unwrap();
    crate::device::kernels::fill::value(device, 1, &mut out, 2.0, n).unwrap();
    out.to_vec().unwrap()
}

/// The launches and ranges, each with its place.
fn places(ear: &Mutex<Ear>) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Launched(launch) => Some(format!("{} in {}", launch.kernel, launch.path)),
        Event::Closed { path, .. } => Some(path.to_string()),
        Event::Allocated { .. } | Event::Freed { .. } => None,
    };
    ear.lock().unwrap().events.iter().filter_map(name).collect()
}

#[test]
fn launches_are_heard_with_their_place_and_ranges_after_what_is_in_them() {
    let (device, ear) = heard(None);
    {
        let _step = device.scope(Range::Step(3));
        let _empty = device.scope(Range::Update);
        drop(device.scope(Range::Forward));
        drop(_empty);
        let _attack = device.scope(Range::AttackStep(2));
        let _layer = device.layer("layer1.0.conv1");
        assert_eq!(device.open_layer().as_deref(), Some("layer1.0.conv1"));
        launch(&device, 5);
    }
    launch(&device, 5);
    let inner = "step 3/attack step 2/layer1.0.conv1";
    let expected =
        [&format!("fill_value in {inner}"), inner, "step 3/attack step 2", "step 3", "fill_value in "];
    assert_eq!(places(&ear), expected, "ranges without launches are not heard of");
}

#[test]
fn ranges_hold_their_launches() {
    let (device, ear) = heard(None);
    let step = device.scope(Range::Step(1));
    launch(&device, 5);
    launch(&device, 50_000);
    drop(step);
    let ear = ear.lock().unwrap();
    let mut launches = ear.events.iter().filter_map(|event| match event {
        Event::Launched(launch) => launch.span,
        _ => None,
    });
    let (first, second) = (launches.next().unwrap(), launches.next().unwrap());
    let range = ear.events.iter().find_map(|event| match event {
        Event::Closed { span, .. } => Some(*span),
        _ => None,
    });
    assert!(first.begin < first.end && first.end <= second.begin && second.begin < second.end);
    assert_eq!(range, Some(Span { begin: first.begin, end: second.end }));
}

#[test]
fn nobody_listens_by_default() {
    let device = Device::host().unwrap();
    let scope = device.scope(Range::Forward);
    assert!(scope.0.is_none() && device.open_layer().is_none() && !device.is_traced());
    assert_eq!(launch(&device, 3), [2.0; 3]);
}

#[test]
fn a_listener_hears_the_steps_that_it_wants() {
    let (device, ear) = heard(Some(2));
    for step in 1..=3 {
        let _step = device.scope(Range::Step(step));
        launch(&device, 1);
    }
    assert_eq!(places(&ear), ["fill_value in step 2", "step 2"]);
}

#[test]
fn a_rehearsal_runs_nothing() {
    let (device, ear) = heard(None);
    device.rehearse();
    assert_eq!(launch(&device, 3), [7.0; 3]);
    assert_eq!(places(&ear), ["fill_value in "]);
}

#[test]
fn a_rehearsal_of_some_work_is_heard_by_its_caller_alone() {
    let (device, ear) = heard(None);
    let launches = device.rehearsed(|| {
        let _step = device.scope(Range::Step(4));
        assert_eq!(launch(&device, 3), [7.0; 3]);
        Ok(())
    });
    let launches = launches.unwrap();
    assert_eq!(launches.len(), 1);
    assert_eq!((launches[0].kernel, launches[0].path.to_string().as_str()), ("fill_value", "step 4"));
    assert_eq!((launches[0].work.size("n"), launches[0].work.size("m")), (Some(3), None));
    assert_eq!(places(&ear), [""; 0]);
    assert_eq!(launch(&device, 2), [2.0; 2], "what follows runs");
    assert_eq!(places(&ear), ["fill_value in "]);
}

#[test]
fn the_launches_of_a_graph_are_heard_when_it_is_replayed() {
    let (device, ear) = heard(None);
    let mut out = Buffer::<f32>::zeros(&device, 4).unwrap();
    let graph = device.capture(|| crate::device::kernels::fill::value(&device, 1, &mut out, 2.0, 4)).unwrap();
    assert_eq!(places(&ear), [""; 0]);
    let _step = device.scope(Range::Step(1));
    graph.replay().unwrap();
    assert_eq!(places(&ear), ["fill_value in step 1"]);
    assert_eq!(out.to_vec().unwrap(), [2.0; 4]);
}

#[test]
fn buffers_are_heard_of_with_the_bytes_that_were_asked_for() {
    let (device, ear) = heard(None);
    let network = device.scope(Range::Network);
    drop(Buffer::<f32>::uninit(&device, 5).unwrap());
    drop(network);
    let ear = ear.lock().unwrap();
    let [Event::Allocated { address, bytes: 20, path }, Event::Freed { address: freed }] = &ear.events[..]
    else {
        panic!("{:?}", ear.events)
    };
    assert_eq!((address, path.to_string()), (freed, "network".into()));
}

/// The work of a launch; a buffer's address is its number of bytes.
fn work(signature: &'static str, args: &[Arg]) -> Work {
    let name = signature.split('(').next().unwrap();
    let pointed = |address| Traffic { read: 3 * address, written: address };
    Work::of(name, &Parameters::of(signature), args, |address| address, pointed)
}

#[test]
fn work_follows_from_signature_and_arguments() {
    let bytes = |count: u64| count.arg();
    let sum = "add_into(const float* a, float* sum, int n)";
    let added = work(sum, &[bytes(40), bytes(40), 10.arg()]);
    assert_eq!((added.read, added.written, added.flop), (80, 40, None), "the sum is read, too");
    assert_eq!((added.shape.as_str(), added.precision), ("n 10", Precision::F32));

    let masked = "relu_forward(const float* x, float* y, NULLABLE uint8_t* mask, int n)";
    let masked = work(masked, &[bytes(40), bytes(40), bytes(0), 10.arg()]);
    assert_eq!((masked.read, masked.written), (40, 40));

    let product = "linear_backward_input(const float* g, const float* w, float* out, int rows, \
                   int inputs, int outputs, bool accumulate)";
    let args = |adds: bool| [bytes(40), bytes(60), bytes(24), 2.arg(), 3.arg(), 5.arg(), adds.arg()];
    let (set, added) = (work(product, &args(false)), work(product, &args(true)));
    assert_eq!((set.read, set.written, set.flop), (100, 24, Some(60)));
    assert_eq!((added.read, added.written), (124, 24));
    assert_eq!(set.shape, "2x3 to 5");

    let head = "head_kl_bf16(const bf16* maps, const float* weight, bf16* grad_maps, int pixels, \
                int channels, int classes)";
    let head = work(head, &[bytes(2 * 3 * 4 * 5 * 2), bytes(140), bytes(240), 4.arg(), 5.arg(), 7.arg()]);
    assert_eq!((head.read, head.written, head.flop), (380, 240, Some(2 * 2 * 6 * 5 * 7)));
    assert_eq!((head.shape.as_str(), head.precision), ("6x4x5 to 7", Precision::F32));

    let slice = "slice_copy(const float* x, float* out, int from, int to, int n, bool accumulate)";
    let slice = work(slice, &[bytes(4000), bytes(400), 8.arg(), 0.arg(), 100.arg(), false.arg()]);
    assert_eq!((slice.read, slice.written), (400, 400), "a part of a buffer");

    let gather = "gather_rows(const float* x, const int* rows, float* out, int known, int size)";
    let gather = work(gather, &[bytes(4000), bytes(8), bytes(400), 20.arg(), 50.arg()]);
    assert_eq!((gather.read, gather.written), (408, 400));

    let table = "sgd_step(const uint64_t* table, const float* lr, int tensors)";
    let table = work(table, &[bytes(100), bytes(4), 2.arg()]);
    assert_eq!((table.read, table.written), (304, 100), "the buffers that a table points to");
}

#[test]
fn convolutions_count_their_products() {
    let kernel = crate::device::kernels::SOURCES
        .iter()
        .flat_map(|source| source.kernels.iter())
        .find(|kernel| kernel.name == "conv2d_weight_grad")
        .unwrap();
    let pointers = [100u64, 200, 300, 0].map(IntoArg::arg);
    let sizes = [2, 8, 8, 3, 4, 4, 16, 3, 3, 2, 1].map(|size: i32| size.arg());
    let args: Vec<Arg> = pointers.into_iter().chain([false.arg()]).chain(sizes).collect();
    let work = work(kernel.signature, &args);
    assert_eq!(work.shape, "2x8x8x3, 3x3 s2 to 16");
    assert_eq!(work.flop, Some(2 * 2 * 4 * 4 * 16 * 3 * 3 * 3));
    assert_eq!((work.read, work.written), (300, 300));
}

#[test]
fn kernels_for_tensor_cores_say_what_they_multiply() {
    let kernels = crate::device::kernels::SOURCES.iter().flat_map(|source| source.kernels.iter());
    let mut found = std::collections::HashMap::<Precision, Vec<&str>>::new();
    for kernel in kernels {
        found.entry(Precision::of_kernel(kernel.name)).or_default().push(kernel.name);
    }
    assert!(found[&Precision::Tf32].contains(&"conv2d_mma_forward_128x64"));
    assert!(found[&Precision::Bf16].contains(&"conv2d_mma_weight_grad_64x64_bf16"));
    // Its operands are float32; its results are bf16.
    assert!(found[&Precision::F32].contains(&"conv2d_forward_bf16"));
    assert_eq!(found[&Precision::Tf32].len(), found[&Precision::Bf16].len());
}

#[test]
fn steps_are_two_numbers_or_one() {
    assert_eq!("11..20".parse(), Ok(Steps { first: 11, last: 20 }));
    assert_eq!("3".parse(), Ok(Steps { first: 3, last: 3 }));
    for wrong in ["", "0..2", "3..2", "a..b", "1..", "1..2..3"] {
        assert!(wrong.parse::<Steps>().is_err(), "{wrong}");
    }
}
