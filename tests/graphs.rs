//! Runs whose steps are captured and replayed end in the bytes of runs without graphs: of every method, with
//! averages and perturbed weights, stopped and resumed, and when they go wrong.

mod common;

use saddle::config::recipe;
use saddle::error::Error;
use saddle::method;
use saddle::run::dir::RunDir;
use saddle::run::observer::{Observer, Silent, StepInfo};
use saddle::train::{TrainJob, TrainedRun, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Two short epochs: three steps with a whole batch, of which one is replayed twice, and one with the rest.
const SHORT: &[(&str, &str)] = &[("epochs", "2"), ("attack_steps", "2"), ("batch", "90")];
const CHOSEN: &[(&str, &str)] = &[("select_steps", "2"), ("held_out", "1137")];

fn job(name: &str, out: &Path, settings: &[(&str, &str)]) -> TrainJob {
    let config = method::load_recipe(name).unwrap().config;
    let chosen = config.select == saddle::config::Select::Heldout;
    let averaged = method::find(&config.method).unwrap().averaged;
    let mut all = SHORT.to_vec();
    all.extend(CHOSEN.iter().filter(|_| chosen));
    all.extend(averaged.then_some(("average_start_epoch", "1")));
    all.extend((name == "afa-digits").then_some(("linear_epochs", "1")));
    all.extend(settings);
    common::job(name, out, &all)
}

fn train(name: &str, out: &Path, settings: &[(&str, &str)]) -> Result<TrainedRun, Error> {
    run(&job(name, out, settings), &mut Silent, &AtomicBool::new(false))
}

/// What a run leaves: the bytes of its networks, the tensors of its state, its records without times.
#[derive(PartialEq)]
struct Left {
    networks: Vec<Vec<u8>>,
    state: Vec<(String, Vec<u8>)>,
    metrics: Vec<Value>,
}

impl Left {
    fn of(run: &Path) -> Left {
        let read = |name: &str| std::fs::read(run.join(format!("checkpoints/{name}.safetensors")));
        let state = read("state").unwrap();
        let state = saddle::files::safetensors::SafeTensors::deserialize(&state).unwrap();
        let mut state: Vec<_> =
            state.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect();
        state.sort();
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let untimed = |line: &str| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let timed = |key: &String| key.contains("seconds") || key.contains("images_per_s");
            record.as_object_mut().unwrap().retain(|key, _| !timed(key));
            record
        };
        Left {
            networks: ["last", "best"].iter().filter_map(|name| read(name).ok()).collect(),
            state,
            metrics: text.lines().map(untimed).collect(),
        }
    }

    /// Fails, with the first difference, unless both are the same.
    fn check(&self, other: &Left, what: &str) {
        assert_eq!(self.metrics, other.metrics, "{what}");
        for ((name, a), (also, b)) in self.state.iter().zip(&other.state) {
            assert!(name == also && a == b, "{what}: {name} of the state differs");
        }
        assert!(*self == *other && !self.networks.is_empty(), "{what}: other networks");
    }
}

/// Asks the run to stop at a step of the second epoch.
struct StopAt<'a>(&'a AtomicBool, usize);

impl Observer for StopAt<'_> {
    fn step(&mut self, at: &StepInfo) {
        if (at.epoch, at.step) == (2, self.1) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Trains with and without graphs, and with graphs and a stop after each step of the second epoch in
/// `stops`.
fn check(folder: &Path, name: &str, label: &str, settings: &[(&str, &str)], stops: &[usize]) {
    let place = |part: &str| -> PathBuf { folder.join(format!("{label}-{part}")) };
    let with = |graphs| [settings, &[("graphs", graphs)]].concat();
    for graphs in ["off", "on"] {
        train(name, &place(graphs), &with(graphs)).unwrap_or_else(|error| panic!("{label}: {error}"));
    }
    let want = Left::of(&place("off"));
    Left::of(&place("on")).check(&want, label);
    for step in stops {
        let out = place(&format!("stopped-{step}"));
        let (stop, mut first) = (AtomicBool::new(false), job(name, &out, &with("on")));
        let ended = run(&first, &mut StopAt(&stop, *step), &stop);
        assert!(matches!(ended, Err(Error::Interrupted { .. })), "{label}: {:?}", ended.map(|o| o.summary));
        first.resume = Some(RunDir::open(&out).unwrap());
        run(&first, &mut Silent, &AtomicBool::new(false)).unwrap();
        Left::of(&out).check(&want, &format!("{label}, stopped at step {step}"));
    }
}

#[test]
fn every_method_trains_to_the_same_bytes_with_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let names = recipe::names().unwrap();
    let digits = |name: &String| method::load_recipe(name).unwrap().config.dataset == "digits";
    let names: Vec<String> = names.into_iter().filter(digits).collect();
    let methods: Vec<String> =
        names.iter().map(|name| method::load_recipe(name).unwrap().config.method).collect();
    // The study behind RAAT has no recipe on the digits.
    let missing = method::METHODS.iter().filter(|method| !methods.iter().any(|name| name == method.name));
    assert_eq!(missing.map(|method| method.name).collect::<Vec<_>>(), ["boundary-at"]);
    for name in names {
        check(folder.path(), &name, &name, &[], &[2]);
    }
    check(folder.path(), "digits", "boundary-at", &[("method", "boundary-at"), ("rho_other", "0.5")], &[]);
}

#[test]
fn averages_and_perturbed_weights_are_the_same_with_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let awp = ("awp_gamma", "0.01");
    for (name, label, settings) in [
        (
            "digits",
            "awp from the second epoch, ema",
            &[awp, ("awp_start_epoch", "1"), ("average", "ema")][..],
        ),
        ("raat-digits", "two views, awp, ema", &[awp, ("average", "ema"), ("average_start_epoch", "0")]),
        ("raat-sharp-digits", "awp that moves the average's statistics", &[awp]),
        ("trades-digits", "swa, without momentum", &[("average", "swa"), ("momentum", "0")]),
        ("consistency-at-digits", "an average that is a copy", &[awp, ("average", "ema")]),
    ] {
        let starts = settings.iter().any(|(key, _)| *key == "average_start_epoch");
        let averaged = settings.iter().any(|(key, _)| *key == "average");
        let mut all = settings.to_vec();
        all.extend((averaged && !starts).then_some(("average_start_epoch", "1")));
        check(folder.path(), name, label, &all, &[1, 3, 4]);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_a_replayed_run_in_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let message = |graphs: &str| {
        let settings = [("schedule", "constant"), ("lr", "1e25"), ("graphs", graphs), ("held_out", "137")];
        let error = train("digits", &folder.path().join(graphs), &settings).err().unwrap();
        assert!(matches!(error, Error::NotFinite { step: 2.., .. }), "{error}");
        error.to_string()
    };
    assert_eq!(message("on"), message("off"));
}
