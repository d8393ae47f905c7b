use super::*;
use crate::config::Config;
use crate::device::Device;
use crate::train::rehearsal::Rehearsal;
use std::sync::{Arc, Mutex};

/// A trace of two training steps on the digits' sizes, and the number of launches that it says it has.
fn traced(prepare: impl FnOnce(TraceFile) -> TraceFile) -> (Value, Written) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let trace = TraceFile::create(&path, None, "saddle test").unwrap();
    let trace = Arc::new(Mutex::new(Some(prepare(trace))));
    let device = Device::host().unwrap();
    device.listen(trace.clone());
    let mut config = Config::default();
    config
        .apply(&[("dataset", "digits"), ("model", "resnet-mini"), ("batch", "4"), ("attack_steps", "2")])
        .unwrap();
    let mut rehearsal = Rehearsal::new(&device, &config).unwrap();
    rehearsal.step().unwrap();
    rehearsal.step().unwrap();
    assert!(!path.exists(), "it appears when it is whole");
    let written = trace.lock().unwrap().take().unwrap().finish().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    (serde_json::from_str(&text).unwrap(), written)
}

/// An event: its track, its name, its begin and end in nanoseconds, its place.
struct Seen {
    track: u64,
    name: String,
    begin: i64,
    end: i64,
    args: Value,
}

fn events(trace: &Value) -> Vec<Seen> {
    let nanoseconds = |value: &Value| (value.as_f64().unwrap() * 1e3).round() as i64;
    let complete = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    let seen = complete.map(|event| Seen {
        track: event["tid"].as_u64().unwrap(),
        name: event["name"].as_str().unwrap().to_owned(),
        begin: nanoseconds(&event["ts"]),
        end: nanoseconds(&event["ts"]) + nanoseconds(&event["dur"]),
        args: event["args"].clone(),
    });
    seen.collect()
}

#[test]
fn ranges_nest_and_hold_their_kernels() {
    let (trace, written) = traced(|trace| trace);
    let events = events(&trace);
    let (ranges, kernels): (Vec<&Seen>, Vec<&Seen>) =
        events.iter().partition(|event| event.track == u64::from(RANGES));
    assert!(kernels.len() > 200, "{}", kernels.len());
    assert_eq!((kernels.len() as u64, written.left_out), (written.launches, 0));
    // As a viewer nests them: in the order of the file, each in the last that has not ended.
    let mut open: Vec<&Seen> = Vec::new();
    let mut previous = i64::MIN;
    for range in &ranges {
        assert!(range.begin >= previous, "{} is not in order", range.name);
        previous = range.begin;
        while open.last().is_some_and(|outer| outer.end <= range.begin) {
            open.pop();
        }
        let place: Vec<&str> =
            open.iter().map(|range| range.name.as_str()).chain([range.name.as_str()]).collect();
        assert_eq!(range.args["place"].as_str().unwrap(), place.join("/"));
        assert!(open.last().is_none_or(|outer| range.end <= outer.end), "{} ends late", range.name);
        open.push(range);
    }
    for kernel in &kernels {
        let place = kernel.args["place"].as_str().unwrap();
        let holds = |range: &&&Seen| {
            range.args["place"] == place && range.begin <= kernel.begin && kernel.end <= range.end
        };
        assert_eq!(ranges.iter().filter(holds).count(), 1, "{} in {place}", kernel.name);
    }
    for pair in kernels.windows(2) {
        assert!(pair[0].end <= pair[1].begin, "{} and {} overlap", pair[0].name, pair[1].name);
    }
}

#[test]
fn backward_passes_name_the_layers_of_the_forward_passes() {
    let (trace, _) = traced(|trace| trace);
    let events = events(&trace);
    let kernel = |name: &str, place: &str| {
        let found = |event: &&Seen| {
            let at = event.args["place"].as_str().unwrap();
            event.name == name
                && at.contains(place)
                && at.ends_with(event.args["layer"].as_str().unwrap_or("?"))
        };
        events.iter().find(found).unwrap_or_else(|| panic!("no {name} in {place}"))
    };
    let forward = kernel("conv2d_forward", "attack/attack step 2/forward/layer1.0.conv1");
    assert_eq!(forward.args["shape"], "4x8x8x16, 3x3 to 16");
    assert_eq!(forward.args["flop"], 2 * 4 * 64 * 16 * 9 * 16);
    kernel("conv2d_input_grad", "attack/attack step 2/backward/layer1.0.conv1");
    let weight = kernel("conv2d_weight_grad", "/backward/layer3.0.conv2");
    assert!(!weight.args["place"].as_str().unwrap().contains("attack"));
    kernel("batch_norm_backward", "/backward/layer2.0.bn1");
    kernel("linear_backward_weight", "/backward/linear");
}

#[test]
fn parts_of_a_trace_fit_together() {
    let (trace, _) = traced(|mut trace| {
        trace.part_length = 16;
        trace
    });
    let mut ranges: Vec<Seen> =
        events(&trace).into_iter().filter(|event| event.track == u64::from(RANGES)).collect();
    // A viewer sorts by begin, and leaves events that begin together as they are.
    ranges.sort_by_key(|range| range.begin);
    let mut open: Vec<&Seen> = Vec::new();
    for range in &ranges {
        while open.last().is_some_and(|outer| outer.end <= range.begin) {
            open.pop();
        }
        assert!(open.last().is_none_or(|outer| range.end <= outer.end), "{} ends late", range.name);
        let depth = range.args["place"].as_str().unwrap().split('/').count();
        assert_eq!(open.len() + 1, depth, "{}", range.args["place"]);
        open.push(range);
    }
}

#[test]
fn launches_beyond_the_limit_are_counted() {
    let (trace, written) = traced(|mut trace| {
        trace.most = 10;
        trace
    });
    assert_eq!(events(&trace).iter().filter(|event| event.track == u64::from(KERNELS)).count(), 10);
    assert_eq!(written.launches, 10);
    assert!(written.left_out > 200, "{}", written.left_out);
}
