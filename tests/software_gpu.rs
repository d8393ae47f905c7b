//! The program on the software GPU (docs/software-gpu.md): that a job gives the host's results, and the same
//! bytes every time; and that every failure of the driver ends in one clear line.
//!
//! `scripts/software-gpu.sh cargo test --release --test software_gpu -- --ignored` runs them.

use saddle::data;
use saddle::files::safetensors::SafeTensors;
use saddle::files::tensor_file::{Values, write};
use saddle::files::weights::WeightFile;
use saddle::numeric::{close, max_abs};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the command line on a device with settings of the driver. Kernels are compiled once for all tests,
/// or before them where SADDLE_CACHE names their folder.
fn saddle(folder: &Path, line: &str, settings: &[(&str, &str)]) -> Output {
    let own = || Path::new(env!("CARGO_TARGET_TMPDIR")).join("software-gpu");
    let cache = std::env::var_os("SADDLE_CACHE").map_or_else(own, PathBuf::from);
    Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .env("SADDLE_CACHE", cache)
        .env("SOFTGPU_CHECKS", "off")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// A command that must succeed.
fn run(folder: &Path, line: &str, settings: &[(&str, &str)]) -> Output {
    let output = saddle(folder, line, settings);
    assert!(output.status.success(), "saddle {line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A folder, after a check that `cuda` is the software GPU.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let devices = run(folder.path(), "devices", &[]);
    let devices = String::from_utf8_lossy(&devices.stdout).into_owned();
    assert!(devices.contains("Software GPU"), "run this by scripts/software-gpu.sh: {devices}");
    folder
}

/// The first 96 digits, 80 of them for training.
fn few_digits(folder: &Path) {
    let digits = data::load("digits", None).unwrap().train;
    let few = digits.subset(&Vec::from_iter(0..96)).unwrap();
    let pixels = (0..few.len()).flat_map(|index| few.image(index).unwrap()).collect();
    let shape = vec![few.len(), few.shape.channels, few.shape.height, few.shape.width];
    let y = Values::integers(few.labels.iter().map(|label| i64::from(*label)));
    let tensors = BTreeMap::from([("x".to_owned(), Values::F32(shape, pixels)), ("y".to_owned(), y)]);
    write(&tensors, &folder.join("few.safetensors")).unwrap();
}

/// Two steps of training on them, and a checkpoint.
const FEW: &str = "train --device cuda --dataset file --data few.safetensors --held-out 16 --batch 32 \
                   --epochs 1 --attack-steps 1 --select-steps 1 --quiet --out run";

/// The bytes of the networks that it has written.
fn networks(folder: &Path) -> Vec<Vec<u8>> {
    let files = ["best", "last"].map(|name| folder.join(format!("run/checkpoints/{name}.safetensors")));
    files.iter().filter(|file| file.exists()).map(|file| std::fs::read(file).unwrap()).collect()
}

/// The line that a failed command writes for its user; the driver's own lines begin with `softgpu:`.
fn error(output: &Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("softgpu: ")).collect();
    match (output.status.code(), &lines[..]) {
        (Some(1), [line]) => line.strip_prefix("error: ").map(str::to_owned).ok_or(text.clone()),
        (code, _) => Err(format!("exit {code:?}: {text}")),
    }
}

/// A job ends in the host's weights and accuracies, whatever the order of threads and blocks.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_job_on_digits_gives_the_hosts_results() {
    let folder = folder();
    let line = |device: &str| {
        let job = "--precision f32 --epochs 1 --attack-steps 1 --select-steps 1 --quiet";
        format!("train --device {device} {job} --out {device}")
    };
    for device in ["cuda", "host"] {
        run(folder.path(), &line(device), &[]);
    }
    let read = |device: &str, file: &str| folder.path().join(device).join(file);
    let weights = |device| WeightFile::read(&read(device, "checkpoints/last.safetensors")).unwrap().tensors;
    let (cuda, host) = (weights("cuda"), weights("host"));
    assert!(cuda.keys().eq(host.keys()) && !host.is_empty());
    for (name, (_, want)) in &host {
        let largest = max_abs(want.iter().copied());
        let near = close(&cuda[name].1, want, 0.0, 1e-4 * largest.max(1e-3));
        near.unwrap_or_else(|mismatch| panic!("{name}: {mismatch} (largest {largest})"));
    }
    let summary = |device| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(read(device, "summary.json")).unwrap()).unwrap()
    };
    for key in ["clean_acc", "pgd20_acc"] {
        // One image of 360 may lie on the other side of a boundary.
        let [cuda, host] = ["cuda", "host"].map(|device| summary(device)[key].as_f64().unwrap());
        assert!((cuda - host).abs() <= 0.3, "{key}: {cuda} on cuda, {host} on the host");
    }
}

/// The gradients of one step in bf16 and in tf32, on tensor cores and without them. (A sum that is rounded to
/// the other neighbour takes along what follows: a bit of a ReLU mask, the sign of an attack's step.)
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_step_on_tensor_cores_gives_the_hosts_gradients() {
    let folder = folder();
    few_digits(folder.path());
    run(folder.path(), &FEW.replace("cuda", "host"), &[]);
    for precision in ["bf16", "tf32"] {
        let tensors = |device: &str| {
            let step = "check-step --method pgd-at --model resnet-mini --batch few.safetensors";
            let keys = format!(
                "--set precision={precision} --set eps=0.1 --set step_size=0.05 --set attack_steps=0"
            );
            let files = format!("--weights run/checkpoints/last.safetensors --out {device}.safetensors");
            run(folder.path(), &format!("{step} {files} {keys} --device {device}"), &[]);
            WeightFile::read(&folder.path().join(format!("{device}.safetensors"))).unwrap().tensors
        };
        let (cuda, host) = (tensors("cuda"), tensors("host"));
        assert!(cuda.keys().eq(host.keys()) && host.contains_key("grad.conv1.weight"));
        for (name, (_, want)) in &host {
            let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
            let got = &cuda[name].1;
            let distance = length(&mut got.iter().zip(want).map(|(a, b)| a - b));
            let limit = 0.03 * length(&mut want.iter().copied()).max(1e-3);
            assert!(distance <= limit, "{precision}: {name}: {distance} apart, more than {limit}");
        }
    }
}

#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn two_runs_give_the_same_bytes_in_any_order_of_threads() {
    let folder = folder();
    few_digits(folder.path());
    run(folder.path(), FEW, &[]);
    let first = networks(folder.path());
    assert!(first.len() == 2);
    for order in ["forward", "reverse", "shuffled:1"] {
        std::fs::remove_dir_all(folder.path().join("run")).unwrap();
        run(folder.path(), FEW, &[("SOFTGPU_ORDER", order), ("SOFTGPU_DELAY", "wait")]);
        assert!(networks(folder.path()) == first, "{order}: other bytes");
    }
}

/// Two epochs on them, each of three whole batches, of which one is captured and replayed twice, and of one
/// of four images.
const GRAPHS: &str = "train --device cuda --dataset file --data few.safetensors --held-out 16 --batch 20 \
                      --epochs 2 --attack-steps 1 --select-steps 1 --quiet --out run";

#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn graphs_give_the_bytes_of_direct_launches() {
    let folder = folder();
    few_digits(folder.path());
    for (settings, replays) in [
        ("--method pgd-at", 4),
        ("--method pgd-at --awp-gamma 0.01 --average ema --average-start-epoch 1", 4),
        ("--method raat", 4),
        ("--method raat# --average-start-epoch 1", 4),
    ] {
        let run = |graphs: &str| {
            std::fs::remove_dir_all(folder.path().join("run")).unwrap_or_default();
            let line = format!("{GRAPHS} {settings} --set graphs={graphs}");
            let output = run(folder.path(), &line, &[("SOFTGPU_TRACE", "on")]);
            let trace = String::from_utf8(output.stderr).unwrap();
            (networks(folder.path()), trace.matches("softgpu: cuGraphLaunch: ").count())
        };
        let (direct, none) = run("off");
        let (replayed, count) = run("auto");
        assert_eq!((none, count), (0, replays), "{settings}");
        assert!(direct.len() == 2 && direct == replayed, "{settings}: other bytes");
    }
}

/// A kernel that fails in a step that is replayed.
/// The kernels for tensor cores of a step.
fn tensor_core_kernels(folder: &Path, settings: &[(&str, &str)]) -> (BTreeSet<String>, String) {
    let output = run(folder, &format!("{FEW} --precision bf16 --explain --json"), settings);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sections = record["explanation"]["sections"].as_array().unwrap();
    let rows = sections.iter().flat_map(|section| section["rows"].as_array().unwrap());
    let names = rows.map(|row| row["kernel"].as_str().unwrap().to_owned());
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    (names.filter(|name| name.contains("mma") && name.contains('x')).collect(), notes)
}

/// Tiles are measured, kept and taken, and change no bit of a run; a damaged file is ignored.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn tuned_tiles_give_the_same_bytes() {
    let folder = folder();
    let folder = folder.path();
    few_digits(folder);
    let train = format!("{FEW} --precision bf16");
    run(folder, &train, &[]);
    let (expected, estimated) = (networks(folder), tensor_core_kernels(folder, &[]).0);
    std::fs::remove_dir_all(folder.join("run")).unwrap();

    // A cache of its own, with the kernels that are compiled by now.
    let common = std::env::var_os("SADDLE_CACHE").map(PathBuf::from);
    let common = common.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("software-gpu"));
    let cache = folder.join("cache");
    std::fs::create_dir(&cache).unwrap();
    for file in std::fs::read_dir(common).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "bin") {
            std::fs::copy(&file, cache.join(file.file_name().unwrap())).unwrap();
        }
    }
    let settings = [("SADDLE_CACHE", cache.to_str().unwrap())];
    let tune = "bench kernels --tune --device cuda --model resnet-mini --batch 32 --seconds 0.001 --json";
    let tuned = run(folder, tune, &settings);
    let tuned: serde_json::Value = serde_json::from_slice(&tuned.stdout).unwrap();
    let passes = tuned["tuned"]["passes"].as_array().unwrap();
    // Seven convolutions besides the first.
    assert_eq!(passes.len(), 3 * 7);
    for pass in passes {
        let times = pass["times"].as_array().unwrap();
        assert!(times.len() >= 2 && times.iter().all(|time| time[1].as_f64().unwrap() > 0.0), "{pass}");
        assert!(times.iter().any(|time| time[0] == pass["fastest"]), "{pass}");
    }

    // Other tiles than those that are expected.
    let file = PathBuf::from(tuned["tuned"]["file"].as_str().unwrap());
    let mut content: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let choices = content["choices"].as_object_mut().unwrap();
    assert_eq!(choices.len(), passes.len());
    for (what, tile) in choices.iter_mut() {
        *tile = if what.starts_with("weight-grad") { "128x64" } else { "128x128" }.into();
    }
    std::fs::write(&file, serde_json::to_vec(&content).unwrap()).unwrap();
    let (kernels, notes) = tensor_core_kernels(folder, &settings);
    // A pass with statistics keeps its tile, which decides how these are rounded.
    let kept: Vec<&str> = kernels.intersection(&estimated).map(String::as_str).collect();
    assert_eq!(kept, ["conv2d_mma_forward_64x64_bf16"], "{kernels:?}, {estimated:?}");
    assert_eq!(kernels.len(), 4, "{kernels:?}");
    assert_eq!(notes, "");
    run(folder, &train, &settings);
    assert!(!expected.is_empty() && networks(folder) == expected, "other bytes with other tiles");

    std::fs::write(&file, "{").unwrap();
    let (kernels, notes) = tensor_core_kernels(folder, &settings);
    assert_eq!(kernels, estimated);
    let lines: Vec<&str> = notes.lines().filter(|line| !line.starts_with("softgpu: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains(".json: damaged: "), "{notes}");
}

#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_failure_in_a_replay_is_one_line() {
    let folder = folder();
    few_digits(folder.path());
    for failure in ["sgd_step:2", "ledger_floats:5", "cuGraphLaunch:2", "cuGraphInstantiateWithFlags:1"] {
        std::fs::remove_dir_all(folder.path().join("run")).unwrap_or_default();
        let line = error(&saddle(folder.path(), GRAPHS, &[("SOFTGPU_FAIL", failure)]));
        line.unwrap_or_else(|text| panic!("{failure}: {text}"));
    }
}

#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_full_memory_is_one_line_with_its_size() {
    let folder = folder();
    few_digits(folder.path());
    let memory = ("SOFTGPU_MEMORY", "2097152");
    let line = error(&saddle(folder.path(), FEW, &[memory])).unwrap();
    assert!(line.contains("out of memory") && line.contains("of 2097152 bytes"), "{line}");
}

/// Every function of the driver that a job calls fails: at its first call, in the middle, at its last,
/// and from then on; and so does every kernel. The program ends with one line, or with the bytes of an
/// undisturbed run where it can do without the call; what it wrote is whole.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn every_failure_of_the_driver_is_one_line_or_none() {
    let folder = folder();
    few_digits(folder.path());
    let report = folder.path().join("report.json");
    let settings = [("SOFTGPU_TRACE", "on"), ("SOFTGPU_REPORT", report.to_str().unwrap())];
    let trace = String::from_utf8(run(folder.path(), FEW, &settings).stderr).unwrap();
    let undisturbed = networks(folder.path());
    assert!(undisturbed.len() == 2);

    let mut failures = BTreeSet::new();
    let mut calls = BTreeMap::<&str, usize>::new();
    for line in trace.lines() {
        let function = line.strip_prefix("softgpu: ").and_then(|call| call.split_once(": ")).unwrap().0;
        *calls.entry(function).or_default() += 1;
    }
    for (function, count) in calls {
        for number in [1, count.div_ceil(2), count] {
            failures.extend([format!("{function}:{number}"), format!("{function}:{number}+")]);
        }
    }
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    failures.extend(report["kernels"].as_object().unwrap().keys().map(|kernel| format!("{kernel}:1")));
    assert!(failures.len() > 100, "{failures:?}");

    let mut wrong = String::new();
    for failure in failures {
        std::fs::remove_dir_all(folder.path().join("run")).unwrap_or_default();
        let output = saddle(folder.path(), FEW, &[("SOFTGPU_FAIL", &failure)]);
        let problem = match error(&output) {
            Err(text) if !output.status.success() => Some(text),
            Err(_) if !failure.starts_with("cu") => Some("a kernel failed, and the program did not".into()),
            Err(_) if networks(folder.path()) != undisturbed => Some("other bytes".into()),
            _ => None,
        };
        if let Some(problem) = problem {
            writeln!(wrong, "{failure}: {problem}").unwrap();
        }
        for bytes in networks(folder.path()) {
            SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{failure}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The complete events of a trace: track, name, begin and end in nanoseconds, place.
fn trace_events(path: &Path) -> Vec<(u64, String, i64, i64, String)> {
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let nanoseconds = |value: &serde_json::Value| (value.as_f64().unwrap() * 1e3).round() as i64;
    let complete = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    let event = |event: &serde_json::Value| {
        let (name, place) = (event["name"].as_str().unwrap(), event["args"]["place"].as_str().unwrap());
        let begin = nanoseconds(&event["ts"]);
        let end = begin + nanoseconds(&event["dur"]);
        (event["tid"].as_u64().unwrap(), name.to_owned(), begin, end, place.to_owned())
    };
    complete.map(event).collect()
}

/// Times are those of events in the stream: kernels follow each other, and lie in their ranges.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_trace_has_the_times_of_the_gpu() {
    let folder = folder();
    few_digits(folder.path());
    run(folder.path(), &format!("{FEW} --trace t.json --trace-steps 2..2"), &[]);
    let events = trace_events(&folder.path().join("t.json"));
    let (ranges, kernels): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.0 == 1);
    assert!(kernels.len() > 100, "{}", kernels.len());
    for pair in kernels.windows(2) {
        assert!(pair[0].2 < pair[0].3 && pair[0].3 <= pair[1].2, "{pair:?}");
    }
    for (_, name, begin, end, place) in &kernels {
        let holds = ranges.iter().any(|range| range.4 == *place && range.2 <= *begin && *end <= range.3);
        assert!(holds && place.starts_with("epoch 1/step 2"), "{name} in {place}");
    }
    let conv = |place: &str| {
        kernels.iter().any(|kernel| kernel.1.starts_with("conv2d") && kernel.4.ends_with(place))
    };
    assert!(conv("attack/attack step 1/backward/layer1.0.conv1") && conv("step 2/backward/layer1.0.conv1"));
}

/// The profiler is started before the first launch of a step and stopped after its last.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn steps_are_bracketed_for_a_profiler() {
    let folder = folder();
    few_digits(folder.path());
    let output = run(folder.path(), &format!("{FEW} --profile-steps 2..2"), &[("SOFTGPU_TRACE", "on")]);
    let calls = String::from_utf8_lossy(&output.stderr).into_owned();
    let calls: Vec<&str> = calls.lines().collect();
    let place = |name: &str| {
        let found: Vec<usize> = (0..calls.len()).filter(|&call| calls[call].contains(name)).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0]
    };
    let (start, stop) = (place("cuProfilerStart: CUDA_SUCCESS"), place("cuProfilerStop: CUDA_SUCCESS"));
    let launches = |calls: &[&str]| calls.iter().filter(|call| call.contains("cuLaunchKernel")).count();
    let counts = [&calls[..start], &calls[start..stop], &calls[stop..]].map(launches);
    assert!(counts.iter().all(|&count| count > 50), "{counts:?}");
}

/// A tool hears the ranges of a run; the software GPU's library is one.
#[test]
#[ignore = "runs on the software GPU: scripts/software-gpu.sh"]
fn a_tool_hears_the_ranges_of_a_run() {
    let folder = folder();
    few_digits(folder.path());
    let tool = Path::new(env!("CARGO_BIN_EXE_saddle")).with_file_name("libsoftgpu.so");
    let settings = [("SOFTGPU_TRACE", "on"), ("NVTX_INJECTION64_PATH", tool.to_str().unwrap())];
    let output = run(folder.path(), FEW, &settings);
    let (mut open, mut heard) = (Vec::new(), BTreeSet::new());
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        if let Some(name) = line.strip_prefix("softgpu: NVTX push: ") {
            open.push(name.to_owned());
        } else if line == "softgpu: NVTX pop" {
            open.pop().unwrap();
        } else if line.contains("cuLaunchKernel") {
            heard.insert(open.join("/"));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for place in [
        "epoch 1/step 1/attack/attack step 1/forward/layer1.0.conv1",
        "epoch 1/step 2/attack/attack step 1/backward/layer1.0.conv1",
        "epoch 1/step 2/backward/layer3.0.bn2",
        "epoch 1/step 2/update",
    ] {
        assert!(heard.contains(place), "nothing was launched in {place}: {heard:#?}");
    }
}
