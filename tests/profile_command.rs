//! Traces of commands, `saddle profile` and `saddle train --explain`, from outside.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn saddle(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Standard output and error of a successful command.
fn printed(folder: &Path, line: &str) -> (String, String) {
    let output = saddle(folder, line);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "saddle {line}: {err}");
    (out, err)
}

fn error(line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = saddle(folder.path(), line);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "saddle {line} leaves a file");
    String::from_utf8(output.stderr).unwrap()
}

/// The places of the kernels in a trace.
fn places(folder: &Path, name: &str) -> Vec<String> {
    let trace: Value = serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap();
    let kernels = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["cat"] == "kernel");
    kernels.map(|event| event["args"]["place"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn any_command_that_launches_can_be_traced() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let train = "train --epochs 1 --attack-steps 2 --select last --quiet --out run --device host";
    let (_, note) = printed(folder, &format!("{train} --trace train.json --trace-steps 2..3"));
    let trained = places(folder, "train.json");
    assert!(note.contains("launches in train.json, for ui.perfetto.dev"), "{note}");
    let of_step = |step: &str| trained.iter().filter(|place| place.contains(step)).count();
    assert!(of_step("epoch 1/step 2") > 100 && of_step("epoch 1/step 2") == of_step("epoch 1/step 3"));
    assert_eq!(of_step("epoch 1/step"), trained.len(), "{trained:?}");

    let eval = "eval --weights run --attack pgd2,apgd-ce --steps 2 --n 20 --quiet --device host";
    let (out, _) = printed(folder, &format!("{} --trace eval.json", eval.replace(" --steps 2", "")));
    assert!(out.contains("pgd2"), "{out}");
    let evaluated = places(folder, "eval.json");
    for place in
        ["evaluation/conv1", "attack/attack step 2/forward/conv1", "attack/attack step 2/backward/conv1"]
    {
        assert!(evaluated.iter().any(|found| found == place), "{place}");
    }

    let bench = "bench step --model resnet-mini --batch 2 --seconds 0.001 --method pgd-at --device host";
    printed(folder, &format!("{bench} --trace bench.json"));
    assert!(places(folder, "bench.json").iter().any(|place| place == "update"));
}

#[test]
fn a_trace_costs_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let train = "train --epochs 1 --attack-steps 2 --select last --quiet --device host --out";
    printed(folder.path(), &format!("{train} plain"));
    printed(folder.path(), &format!("{train} traced --trace t.json"));
    let weights =
        |run: &str| std::fs::read(folder.path().join(run).join("checkpoints/last.safetensors")).unwrap();
    assert_eq!(weights("plain"), weights("traced"));
}

#[test]
fn wrong_flags_are_one_clear_line() {
    let expected = "expected FIRST..LAST, two steps counted from 1, such as 11..20, or one step";
    assert_eq!(
        error("train --trace t.json --trace-steps 3..2"),
        format!("error: --trace-steps = 3..2: {expected}\n")
    );
    assert_eq!(error("train --profile-steps x"), format!("error: --profile-steps = x: {expected}\n"));
    assert_eq!(error("train --trace-steps 1..2"), "error: --trace-steps = 1..2: needs --trace FILE, too\n");
    assert!(error("train --trace no/such/t.json").starts_with("error: no/such/t.json: cannot write"));
    assert_eq!(error("profile --steps 0"), "error: --steps = 0: must be 1 or more\n");
    // A command that fails before it launches anything leaves no trace.
    assert!(error("train --trace t.json --model nothing").contains("nothing"));
}

#[test]
fn a_step_is_explained_without_data_and_without_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let job = "train --dataset cifar10 --model resnet18 --method trades --batch 16 --device host --explain";
    let (text, _) = printed(folder.path(), job);
    for line in ["attack forward, steps 2..10:", "training backward:", "layer4.1.conv2", "sgd_step "] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let (json, _) = printed(folder.path(), &format!("{job} --json"));
    let record: Value = serde_json::from_str(&json).unwrap();
    let explanation = &record["explanation"];
    let classes = explanation["memory"].as_array().unwrap();
    let sum: u64 = classes.iter().map(|class| class["at_peak"].as_u64().unwrap()).sum();
    assert_eq!(explanation["peak"].as_u64(), Some(sum));
    assert!(explanation["total"]["flop"].as_u64().unwrap() > 100_000_000_000);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn launches_are_listed_with_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let job = "--dataset digits --method pgd-at --attack-steps 3 --batch 8 --device host --json";
    let sections = |line: &str| -> Vec<Value> {
        let (json, _) = printed(folder.path(), line);
        let record: Value = serde_json::from_str(&json).unwrap();
        record["explanation"]["sections"].as_array().unwrap().clone()
    };
    let mut timed = sections(&format!("profile --launches {job}"));
    let mut seconds = 0.0;
    for row in timed.iter_mut().flat_map(|section| section["rows"].as_array_mut().unwrap()) {
        let own = row["seconds"].take().as_f64().unwrap();
        assert!(own > 0.0, "{row}");
        seconds += own;
    }
    assert!(seconds < 10.0, "{seconds}");
    // Otherwise the list is that of a step which is not run, whose bounds come from another measurement.
    let mut explained = sections(&format!("train --explain {job}"));
    let sections = timed.iter_mut().chain(&mut explained);
    for row in sections.flat_map(|section| section["rows"].as_array_mut().unwrap()) {
        assert!(row["bound"].take().is_number() && row["binding"].take().is_string());
    }
    assert_eq!(timed, explained);
    let (text, _) = printed(folder.path(), &format!("profile --launches {}", job.replace(" --json", "")));
    assert!(text.contains("times: medians of 3 steps") && text.contains("bound by"), "{text}");
}

#[test]
fn kernels_are_measured_by_layer() {
    let folder = tempfile::tempdir().unwrap();
    let command = "bench kernels --model resnet-mini --batch 2 --seconds 0.001 --device host";
    for precision in ["f32", "tf32", "bf16"] {
        let (json, _) = printed(folder.path(), &format!("{command} --precision {precision} --json"));
        let record: Value = serde_json::from_str(&json).unwrap();
        let rows = record["rows"].as_array().unwrap();
        let measured: Vec<&Value> = rows.iter().filter(|row| row["kernel"].is_string()).collect();
        // Eight convolutions of seven sizes, three batch norms, an attack step, two heads, SGD.
        let count = |name: &str| measured.iter().filter(|row| row["name"].as_str() == Some(name)).count();
        assert_eq!((count("conv2d forward"), count("batch norm backward")), (8, 3), "{json}");
        assert_eq!(measured.len(), 3 * 8 + 2 * 3 + 4);
        for row in measured {
            let number = |key: &str| row[key].as_f64().unwrap();
            let seconds = row["seconds"][1].as_f64().unwrap();
            assert!(seconds > 0.0 && number("bound") > 0.0 && number("bytes") > 0.0, "{row}");
            let amount = if row["unit"] == "GFLOP/s" { number("flop") } else { number("bytes") };
            assert!((number("value") * 1e9 * seconds / amount - 1.0).abs() < 1e-9, "{row}");
        }
        // Weight and momentum are read and written, the gradient is read; and the learning rate's block.
        let sgd = rows.iter().find(|row| row["name"] == "SGD").unwrap();
        let parameters: u64 =
            sgd["detail"].as_str().unwrap().trim_end_matches(" parameters").parse().unwrap();
        assert_eq!(sgd["bytes"].as_u64(), Some(5 * 4 * parameters + 256));
        let of = |name: &str, layer: &str| {
            let is = |row: &&Value| row["name"] == name && row["layers"][0] == layer;
            rows.iter().find(is).unwrap()["kernel"].as_str().unwrap().to_owned()
        };
        let suffix = if precision == "bf16" { "_bf16" } else { "" };
        assert_eq!(of("conv2d forward", "conv1"), format!("conv2d_forward{suffix}"));
        assert_eq!(of("conv2d weight gradient", "layer3.0.conv2"), "conv2d_weight_grad");
        assert!(record["roofline"]["flops"].as_f64().unwrap() > 1e9 && record["tuning"].is_null());
    }
    let (text, _) = printed(folder.path(), command);
    for words in ["resnet-mini, batch 2, f32", "roofline: ", "layer1.0.conv1 + 1", "bound by", "sgd_step"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn tiles_are_tuned_on_a_gpu_only() {
    let expected = "--tune needs a GPU: the host has no choice between kernels\n";
    assert!(error("bench kernels --tune --device host").ends_with(expected));
}

#[test]
fn a_profile_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let job = "profile --batch 8 --attack-steps 2 --steps 2 --device host";
    let (text, _) = printed(folder.path(), job);
    assert!(text.contains("the median of 2 steps") && text.contains("conv2d_input_grad"), "{text}");
    let (json, _) = printed(folder.path(), &format!("{job} --json"));
    let profile = &serde_json::from_str::<Value>(&json).unwrap()["profile"];
    let seconds = |sum: &Value| sum["seconds"].as_f64().unwrap();
    let phases: f64 = profile["phases"].as_array().unwrap().iter().map(seconds).sum();
    let total = seconds(&profile["total"]);
    assert!((phases / total - 1.0).abs() < 1e-9);
    assert!(total <= profile["step_seconds"].as_f64().unwrap());
}
