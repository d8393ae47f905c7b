//! One training step of every method against PyTorch in float64 (`goldens/methods.json`), and what the
//! methods reduce to.

mod common;

use common::Golden;
use saddle::config::Config;
use saddle::device::testing::fast_devices;
use saddle::files::tensor_file::{self, Values};
use saddle::files::weights::WeightFile;
use saddle::numeric::close;
use saddle::train::check_step::{self, StepCheck};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest relative errors: of a gradient, statistic or image (L2 norm), and of a loss.
const TENSOR: f64 = 1e-4;
const LOSS: f64 = 1e-5;

/// The input of the goldens, of which a case may replace parts.
struct Inputs {
    dir: tempfile::TempDir,
    golden: Golden,
}

impl Inputs {
    fn new() -> Inputs {
        let inputs = Inputs { dir: tempfile::tempdir().unwrap(), golden: Golden::read("methods_input") };
        for (file, prefix) in [("weights", "weights."), ("wa", "wa.")] {
            let names = inputs.golden.names().filter(|name| name.starts_with(prefix));
            let tensor = |name: String| {
                let values = Values::F32(inputs.golden.shape(&name), inputs.golden.floats(&name));
                (name[prefix.len()..].to_owned(), values)
            };
            tensor_file::write(&names.map(tensor).collect(), &inputs.path(file)).unwrap();
        }
        inputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.safetensors"))
    }

    /// A batch file of the first `n` images in which the tensors of `swaps` stand for others.
    fn batch(&self, swaps: &BTreeMap<String, String>, n: usize) -> PathBuf {
        let source = |name: &str| swaps.get(name).cloned().unwrap_or(name.to_owned());
        let mut tensors = BTreeMap::new();
        for name in ["x", "x2", "noise", "noise2"] {
            let (mut shape, mut values) =
                (self.golden.shape(&source(name)), self.golden.floats(&source(name)));
            shape[0] = n;
            values.truncate(shape.iter().product());
            tensors.insert(name.to_owned(), Values::F32(shape, values));
        }
        tensors.insert("mix".to_owned(), Values::F32(vec![], self.golden.floats("mix")));
        // `same` is not among the goldens: all images are of one class.
        let y =
            if source("y") == "same" { vec![3; n] } else { self.golden.integers(&source("y"))[..n].to_vec() };
        tensors.insert("y".to_owned(), Values::integers(y));
        let path = self.path("batch");
        tensor_file::write(&tensors, &path).unwrap();
        path
    }

    fn step(
        &self,
        method: &str,
        settings: &[(&str, &str)],
        batch: PathBuf,
    ) -> Result<BTreeMap<String, Values>, saddle::Error> {
        self.step_on("host", method, settings, batch)
    }

    fn step_on(
        &self,
        device: &str,
        method: &str,
        settings: &[(&str, &str)],
        batch: PathBuf,
    ) -> Result<BTreeMap<String, Values>, saddle::Error> {
        let mut epoch = 0;
        let (method, stage) =
            if method == "afa-linear" { ("afa", Some(("stage", "linear"))) } else { (method, None) };
        let mut all = vec![("method", method), ("model", "resnet-mini")];
        for (key, value) in settings.iter().copied().chain(stage) {
            match key {
                "epoch" => epoch = value.parse().unwrap(),
                key => all.push((key, value)),
            }
        }
        let mut config = Config::default();
        saddle::method::apply(&mut config, &all)?;
        config.device = device.parse().unwrap();
        let out = self.path("out");
        let (weights, wa_weights) = (self.path("weights"), Some(self.path("wa")));
        check_step::run(&StepCheck { config, normalised: false, epoch, weights, wa_weights, batch, out })
    }
}

fn floats<'a>(out: &'a BTreeMap<String, Values>, name: &str) -> &'a [f32] {
    match out.get(name) {
        Some(Values::F32(_, values)) => values,
        other => panic!("{name}: {other:?}"),
    }
}

/// +-1 by index: the highest bit of splitmix64's output for the state `k * 2^32 + index`; a set bit is -1.
fn sign(index: usize, k: u64) -> f64 {
    let mut z = (index as u64).wrapping_add(k << 32).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    if (z ^ (z >> 31)) >> 63 == 1 { -1.0 } else { 1.0 }
}

/// The L2 norm and the dot products with four vectors of signs.
fn summary(values: &[f32]) -> [f64; 5] {
    let norm = values.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    let dot = |k| values.iter().enumerate().map(|(i, v)| *v as f64 * sign(i, k)).sum();
    [norm, dot(0), dot(1), dot(2), dot(3)]
}

/// The differences between an output and its golden case.
fn differences(out: &BTreeMap<String, Values>, case: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let loss = case["scalars"]["loss"].as_f64().unwrap();
    for (name, want) in case["scalars"].as_object().unwrap() {
        let (got, want) = (floats(out, name)[0] as f64, want.as_f64().unwrap());
        if close(&[got], &[want], 0.0, LOSS * want.abs().max(1e-2 * loss.abs())).is_err() {
            wrong.push(format!("{name} is {got}, not {want}"));
        }
    }
    for (name, want) in case["tensors"].as_object().unwrap() {
        let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let got = summary(floats(out, name));
        // A difference d between the tensors changes a dot product by about |d|.
        if close(&got, &want, 0.0, 3.0 * TENSOR * want[0] + 1e-7).is_err() {
            wrong.push(format!("{name} is {got:?}, not {want:?}"));
        }
    }
    if let Some(want) = case.get("boundary") {
        let want: Vec<u8> = want.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
        match out.get("boundary") {
            Some(Values::U8(_, got)) if *got == want => {}
            other => wrong.push(format!("boundary is {other:?}, not {want:?}")),
        }
    }
    wrong
}

#[test]
fn every_method_and_variant_is_pytorchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/methods.json");
    let goldens: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    let inputs = Inputs::new();
    let mut wrong = Vec::new();
    for (device, _) in fast_devices() {
        for case in cases {
            let text = |map: &Value| -> BTreeMap<String, String> {
                map.as_object()
                    .unwrap()
                    .iter()
                    .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
                    .collect()
            };
            let (settings, batch) = (text(&case["settings"]), inputs.batch(&text(&case["inputs"]), 8));
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let method = case["method"].as_str().unwrap();
            match inputs.step_on(&device, method, &settings, batch) {
                Ok(out) => wrong.extend(
                    differences(&out, case).into_iter().map(|d| format!("{device}: {}: {d}", case["name"])),
                ),
                Err(error) => wrong.push(format!("{device}: {}: {error}", case["name"])),
            }
        }
        println!("{device}: {} cases", cases.len());
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    let covered: std::collections::BTreeSet<&str> =
        cases.iter().map(|case| case["method"].as_str().unwrap()).collect();
    for method in saddle::method::METHODS {
        assert!(
            covered.contains(method.name) || method.name == "boundary-at",
            "{} has no golden",
            method.name
        );
    }
}

const BALL: [(&str, &str); 3] = [("eps", "3/16"), ("step_size", "3/32"), ("attack_steps", "3")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    BALL.iter().chain(more).copied().collect()
}

#[test]
fn what_methods_reduce_to() {
    let inputs = Inputs::new();
    let step = |method: &str, more: &[(&'static str, &'static str)]| {
        inputs.step(method, &with(more), inputs.batch(&BTreeMap::new(), 8)).unwrap()
    };
    let same = |a: &BTreeMap<String, Values>, b: &BTreeMap<String, Values>, prefix: &str| {
        a.keys().filter(|name| name.starts_with(prefix)).all(|name| a.get(name) == b.get(name))
    };
    // rho = 1 and lambda = 0: RAAT is PGD-AT on both views, which is Consistency-AT with lambda = 0.
    let views = step("consistency-at", &[("lambda", "0")]);
    let raat = step("raat", &[("rho", "1"), ("lambda", "0")]);
    assert!(same(&views, &raat, "grad.") && same(&views, &raat, "loss.ce") && same(&views, &raat, "x_adv"));
    assert!(!same(&views, &raat, "buffer."), "DICAR's passes move the running statistics by themselves");
    // lambda = 0: RPAT is its base, but for the passes.
    for base in ["pgd-at", "trades", "mart", "consistency-at"] {
        let (plain, rpat) = (step(base, &[]), step("rpat", &[("base", base), ("lambda", "0")]));
        assert!(same(&plain, &rpat, "grad.") && same(&plain, &rpat, "loss"), "{base}");
        assert!(!same(&plain, &rpat, "buffer."), "{base}");
    }
    // A perturbation that all samples keep whole is PGD-AT; one that none keeps is standard training on the
    // same batch.
    assert!(same(&step("pgd-at", &[]), &step("boundary-at", &[]), "grad."));
    let none = step("boundary-at", &[("rho_boundary", "0"), ("rho_other", "0")]);
    assert!(same(&step("standard", &[]), &none, "grad."));
    // Without perturbation of the weights nothing is perturbed.
    assert!(same(&step("trades", &[]), &step("trades", &[("awp_gamma", "0")]), ""));
    // A second time gives the same bits.
    for method in ["raat", "raat++", "raat#", "afa", "mart"] {
        assert!(same(&step(method, &[]), &step(method, &[]), ""), "{method}");
    }
}

#[test]
fn small_and_one_sided_batches() {
    let inputs = Inputs::new();
    for method in saddle::method::METHODS {
        // One image alone; its maps still have several pixels for batch norm.
        let one = inputs.step(method.name, &BALL, inputs.batch(&BTreeMap::new(), 1)).unwrap();
        assert!(floats(&one, "loss")[0].is_finite(), "{}: {:?}", method.name, floats(&one, "loss"));
        assert!(
            one.iter().all(|(_, v)| !matches!(v, Values::F32(_, v) if v.iter().any(|v| !v.is_finite()))),
            "{}",
            method.name
        );
    }
    // One class only: every image of the batch is a positive of every anchor, and only the
    // images differ.
    let one_class = BTreeMap::from([("y".to_owned(), "same".to_owned())]);
    for method in saddle::method::METHODS {
        let same = inputs.step(method.name, &BALL, inputs.batch(&one_class, 8)).unwrap();
        assert!(floats(&same, "loss")[0].is_finite(), "{}: {:?}", method.name, floats(&same, "loss"));
    }
    let same = inputs.step("afa", &BALL, inputs.batch(&one_class, 8)).unwrap();
    // The mean over positives of -log softmax is least, log 8, where all similarities are equal.
    assert!(floats(&same, "loss.afa")[0] >= 8f32.ln() - 1e-4, "{:?}", floats(&same, "loss.afa"));
    // One image, whose own clean image is all there is: nothing to tell apart.
    let alone = inputs.step("afa", &BALL, inputs.batch(&BTreeMap::new(), 1)).unwrap();
    assert!(floats(&alone, "loss.afa")[0].abs() < 1e-6);
    assert!(floats(&alone, "grad.conv1.weight").iter().all(|g| g.abs() < 1e-6));
}

#[test]
fn a_step_normalises_as_its_weights_say() {
    let inputs = Inputs::new();
    let batch = inputs.batch(&BTreeMap::new(), 8);
    let stamp = |from: &str, to: &str, mean: &str| {
        let mut file = WeightFile::read(&inputs.path(from)).unwrap();
        file.metadata.extend([("mean".to_owned(), mean.to_owned()), ("std".to_owned(), "0.25".to_owned())]);
        file.write(&inputs.path(to)).unwrap();
    };
    stamp("weights", "scaled", "0.5");
    stamp("wa", "wa-scaled", "0.5");
    stamp("wa", "wa-other", "0.4");
    // The loss of ReBAT, which reads both networks, or the error of `saddle check-step`.
    let loss = |weights: &str, wa: &str, sets: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_saddle"));
        command.args([
            "check-step",
            "--method",
            "rebat",
            "--model",
            "resnet-mini",
            "--device",
            "host",
            "--set",
            "epoch=105",
        ]);
        let out = inputs.path("out");
        for (flag, path) in [
            ("--weights", &inputs.path(weights)),
            ("--wa-weights", &inputs.path(wa)),
            ("--batch", &batch),
            ("--out", &out),
        ] {
            command.arg(flag).arg(path);
        }
        let done = command.args(sets.iter().flat_map(|set| ["--set", *set])).output().unwrap();
        if done.status.success() {
            let file = tensor_file::TensorFile::read(&out, &["loss"]).unwrap();
            let Some(Values::F32(_, values)) = file.get("loss") else { panic!("no loss") };
            return Ok(values[0]);
        }
        Err(String::from_utf8(done.stderr).unwrap())
    };
    let (plain, scaled) = (loss("weights", "wa", &[]).unwrap(), loss("scaled", "wa-scaled", &[]).unwrap());
    assert!(plain != scaled, "{plain}");
    assert_eq!(loss("weights", "wa", &["mean=0.5", "std=0.25"]), Ok(scaled));
    assert_eq!(loss("scaled", "wa", &[]), Ok(scaled), "an average without metadata is as the network");
    assert_eq!(
        loss("scaled", "wa-other", &["mean=none", "std=none"]),
        Ok(plain),
        "what is given goes before"
    );
    let message = loss("scaled", "wa-other", &[]).unwrap_err();
    let expected = "wa-other.safetensors: its network takes mean 0.4 and std 0.25, that of --weights takes \
                    mean 0.5 and std 0.25; \
                    --set mean and --set std hold for both";
    assert!(
        message.starts_with("error: ")
            && message.trim_end().ends_with(expected)
            && message.trim_end().lines().count() == 1,
        "{message}"
    );
    let message = loss("weights", "wa-other", &[]).unwrap_err();
    assert!(message.contains("that of --weights does not normalise images"), "{message}");
}

#[test]
fn bad_input_is_one_line() {
    let inputs = Inputs::new();
    let batch = || inputs.batch(&BTreeMap::new(), 8);
    let error = |method: &str, key: &str, value: &str| {
        inputs.step(method, &[(key, value)], batch()).unwrap_err().to_string()
    };
    assert_eq!(error("raat", "temperature", "0"), "temperature = 0: must be above 0");
    assert_eq!(error("raat", "rho", "1.5"), "rho = 1.5: must lie between 0 and 1");
    assert_eq!(error("afa", "tau", "-1"), "tau = -1: must be above 0");
    assert_eq!(error("rpat", "a", "1"), "a = 1: must lie between 0 and 1, both excluded");
    let nearest = error("trades", "rho", "0.5");
    assert!(
        nearest.starts_with("unknown key of trades 'rho'") && nearest.contains("known: beta, trades_passes"),
        "{nearest}"
    );
    assert!(error("raat", "lamda", "1").starts_with("unknown key 'lamda' (did you mean 'lambda'?)"));
    assert_eq!(
        error("pgd-at", "beta", "6"),
        "beta = 6: pgd-at has no keys of its own; 'saddle methods' lists each one's"
    );
    let path = batch();
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let message = inputs.step("raat", &[], path.clone()).unwrap_err().to_string();
    assert!(message.contains("batch.safetensors: its header describes "), "{message}");
    let message = inputs.step("raat", &[], inputs.path("weights")).unwrap_err().to_string();
    assert!(message.contains("unknown tensor of a batch"), "{message}");
}
