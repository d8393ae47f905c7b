//! Short runs of every method: that they train, that a run interrupted in the middle of an epoch goes on to
//! the same bytes, and what averaging, weight perturbation and the stages of AFA do to a run.

mod common;

use saddle::config::recipe;
use saddle::error::Error;
use saddle::method;
use saddle::run::dir::RunDir;
use saddle::run::observer::{Observer, Silent, StepInfo};
use saddle::train::{TrainJob, TrainedRun, run};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Two short epochs of a digits recipe.
const SHORT: &[(&str, &str)] = &[
    ("epochs", "2"),
    ("attack_steps", "2"),
    ("select_steps", "2"),
    ("batch", "100"),
    ("held_out", "1137"),
    ("average_start_epoch", "1"),
];

fn request(name: &str, out: &Path, settings: &[(&str, &str)]) -> TrainJob {
    let mut all: Vec<(&str, &str)> = SHORT.iter().chain(settings).copied().collect();
    if name == "afa-digits" {
        all.push(("linear_epochs", "1"));
    }
    common::job(name, out, &all)
}

fn train(name: &str, out: &Path, settings: &[(&str, &str)]) -> Result<TrainedRun, Error> {
    run(&request(name, out, settings), &mut Silent, &AtomicBool::new(false))
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("checkpoints/last.safetensors")).unwrap()
}

fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks the run to stop at a step.
struct StopAt<'a>(&'a AtomicBool, usize, usize);

impl Observer for StopAt<'_> {
    fn step(&mut self, at: &StepInfo) {
        if (at.epoch, at.step) == (self.1, self.2) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn digits_recipes() -> Vec<String> {
    let names = recipe::names().unwrap();
    names.into_iter().filter(|name| method::load_recipe(name).unwrap().config.dataset == "digits").collect()
}

#[test]
fn every_digits_recipe_is_repeatable_and_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let names = digits_recipes();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        let [whole, parts] = ["whole", "parts"].map(|part| folder.path().join(format!("{name}-{part}")));
        let outcome = train(&name, &whole, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(outcome.summary.clean_acc > 5.0, "{name}: {:?}", outcome.summary);
        // Stopped in the second epoch, where averages have begun.
        let (stop, mut first) = (AtomicBool::new(false), request(&name, &parts, &[]));
        let ended = run(&first, &mut StopAt(&stop, 2, 2), &stop);
        assert!(matches!(ended, Err(Error::Interrupted { .. })), "{name}: {:?}", ended.map(|o| o.summary));
        first.resume = Some(RunDir::open(&parts).unwrap());
        run(&first, &mut Silent, &AtomicBool::new(false))
            .unwrap_or_else(|error| panic!("{name} resumed: {error}"));
        assert!(weights(&whole) == weights(&parts), "{name}: a resumed run has other weights");
        let losses = |run: &Path| metrics(run).iter().map(|epoch| epoch["terms"].clone()).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&parts), "{name}");
    }
}

#[test]
fn splits_and_margins_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    train("raat-digits", &folder.path().join("run"), &[]).unwrap();
    for epoch in metrics(&folder.path().join("run")) {
        let split = &epoch["split"];
        let part = |name: &str| split[name].as_f64().unwrap_or_else(|| panic!("{name}: {split}"));
        assert!((0.0..=1.0).contains(&part("boundary")) && (0.0..=1.0).contains(&part("aligned")), "{split}");
        let median = |name: &str| split[name]["q50"].as_f64().unwrap();
        assert!(
            median("margin.adv") <= median("margin.reduced")
                && median("margin.reduced") <= median("margin.clean"),
            "{split}"
        );
    }
}

#[test]
fn averages_and_perturbed_weights_are_options_of_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let last = |name: &str, settings: &[(&str, &str)]| {
        let out = folder.path().join(name);
        train("trades-digits", &out, settings).unwrap();
        weights(&out)
    };
    let plain = last("plain", &[]);
    let (ema, swa) = (last("ema", &[("average", "ema")]), last("swa", &[("average", "swa")]));
    let awp = last("awp", &[("awp_gamma", "0.01")]);
    assert!(plain != ema && plain != awp && ema != swa);
    // SWA from the last epoch on is the network at its end: the same but for what the metadata says.
    let tensors = |bytes: &[u8]| {
        let file = saddle::files::safetensors::SafeTensors::deserialize(bytes).unwrap();
        let mut all: Vec<_> = file.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect();
        all.sort();
        all
    };
    assert!(tensors(&plain) == tensors(&swa));
    // Perturbed weights from a later epoch on change nothing before.
    assert!(tensors(&last("late", &[("awp_gamma", "0.01"), ("awp_start_epoch", "2")])) == tensors(&plain));
}

#[test]
fn afa_trains_features_then_the_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = |run: &str| {
        let bytes = weights(&folder.path().join(run));
        let file = saddle::files::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = |name: &str| file.tensor(name).unwrap().data().to_vec();
        (data("conv1.weight"), data("bn1.running_mean"), data("linear.weight"))
    };
    let features = folder.path().join("features").display().to_string();
    train("afa-digits", &folder.path().join("both"), &[]).unwrap();
    let pretrained = train("afa-digits", &folder.path().join("features"), &[("stage", "pretrain")]).unwrap();
    let linear = [("stage", "linear"), ("init", features.as_str())];
    train("afa-digits", &folder.path().join("classifier"), &linear).unwrap();
    let [both, features, classifier] = ["both", "features", "classifier"].map(tensors);
    // The classifier is where it began after pretraining alone, the features after the linear stage alone.
    assert!(features.2 != both.2 && features.2 != classifier.2);
    assert!(features.0 != both.0, "two epochs of pre-training, not one");
    assert_eq!(
        (&features.0, &features.1),
        (&classifier.0, &classifier.1),
        "the backbone is frozen, its statistics too"
    );
    train("afa-digits", &folder.path().join("untrained"), &[&linear[..], &[("lr", "0")]].concat()).unwrap();
    assert_eq!(tensors("untrained"), features, "the classifier comes from the file too");
    // The best epoch is one that trained a classifier; without one there is no best epoch.
    let chosen = |run: &str| -> Vec<bool> {
        metrics(&folder.path().join(run)).iter().map(|epoch| !epoch["robust_acc"].is_null()).collect()
    };
    assert_eq!(
        [chosen("both"), chosen("features"), chosen("classifier")],
        [[false, true], [false, false], [true, true]]
    );
    assert!(!folder.path().join("features/checkpoints/best.safetensors").exists());
    assert!(!pretrained.summary.extra.contains_key("best"));
    // The learning rate falls over all of the run, down to its end.
    let rates: Vec<f64> =
        metrics(&folder.path().join("features")).iter().map(|epoch| epoch["lr"].as_f64().unwrap()).collect();
    assert!(rates[0] > rates[1] && rates[1] > 0.0, "{rates:?}");
    let at_end = [("stage", "pretrain"), ("lr_step_at", "end")];
    train("afa-digits", &folder.path().join("at-end"), &at_end).unwrap();
}

#[test]
fn a_run_starts_from_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let file = |name: &str| saddle::files::weights::WeightFile::read(&folder.path().join(name)).unwrap();
    train("digits", Path::new(&path("first")), &[]).unwrap();
    let first = path("first");
    // Without a step that moves them, and with none of another seed's weights: what the run leaves is what it
    // began with.
    let still = [("lr", "0"), ("select", "last"), ("seed", "3"), ("init", first.as_str())];
    for (name, more) in
        [("standard-digits", &[][..]), ("rebat-digits", &[]), ("trades-digits", &[("average", "swa")])]
    {
        train(name, Path::new(&path(name)), &[&still[..], more].concat()).unwrap();
        let (began, left) = (
            file("first/checkpoints/best.safetensors"),
            file(&format!("{name}/checkpoints/last.safetensors")),
        );
        let learned = |file: &saddle::files::weights::WeightFile| -> Vec<(String, Vec<f32>)> {
            let all = file.tensors.iter().filter(|(name, _)| !name.contains("running"));
            all.map(|(name, (_, values))| (name.clone(), values.clone())).collect()
        };
        assert_eq!(learned(&began), learned(&left), "{name}");
    }
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("rebat-digits/run.json")).unwrap()).unwrap();
    assert_eq!(record["config"]["init"], first);

    // A resumed run does not read it again: it is gone by then.
    let moved = path("moved.safetensors");
    std::fs::copy(folder.path().join("first/checkpoints/last.safetensors"), &moved).unwrap();
    let fine = [("init", moved.as_str()), ("average", "ema")];
    train("digits", Path::new(&path("whole")), &fine).unwrap();
    let (stop, mut begun) = (AtomicBool::new(false), request("digits", Path::new(&path("parts")), &fine));
    assert!(matches!(run(&begun, &mut StopAt(&stop, 1, 2), &stop), Err(Error::Interrupted { .. })));
    std::fs::remove_file(&moved).unwrap();
    begun.resume = Some(RunDir::open(&folder.path().join("parts")).unwrap());
    run(&begun, &mut Silent, &AtomicBool::new(false)).unwrap();
    assert!(weights(&folder.path().join("whole")) == weights(&folder.path().join("parts")));

    // What does not fit is one line, and nothing is written.
    let refused = |settings: &[(&str, &str)]| {
        let out = folder.path().join("refused");
        let message = train("digits", &out, settings).err().unwrap().to_string();
        assert!(!out.exists() && !message.contains('\n'), "{message}");
        message
    };
    let missing = path("nothing.safetensors");
    assert!(refused(&[("init", &missing)]).contains("nothing.safetensors: cannot read the weights"));
    let other = refused(&[("init", &first), ("model", "resnet18")]);
    assert!(other.contains("the weights do not fit the network (the file is for resnet-mini)"), "{other}");
    let scaled = refused(&[("init", &first), ("mean", "0.5"), ("std", "0.25")]);
    assert!(
        scaled.ends_with("its network does not normalise images, this one takes mean 0.5 and std 0.25"),
        "{scaled}"
    );
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, settings, expected) in [
        (
            "rebat-digits",
            [("average_start_epoch", "2"), ("seed", "0")],
            "average_start_epoch = 2: the run has ended by then; it counts epochs from 0",
        ),
        (
            "rebat-digits",
            [("average", "swa"), ("seed", "0")],
            "average = swa: this method's averaged network is an exponential one; leave it out",
        ),
        (
            "afa-digits",
            [("epochs", "1"), ("average_start_epoch", "0")],
            "linear_epochs = 1: must be 1 or more and below epochs",
        ),
        ("raat-digits", [("rho", "-0.1"), ("seed", "0")], "rho = -0.1: must lie between 0 and 1"),
        ("trades-digits", [("trades.passes", "4"), ("seed", "0")], "trades_passes = 4: must be 2 or 3"),
        (
            "afa-digits",
            [("stage", "linear"), ("seed", "0")],
            "stage = linear: needs a pre-trained backbone; give --init RUN",
        ),
    ] {
        let out = folder.path().join("run");
        assert_eq!(
            train(name, &out, &settings).err().map(|error| error.to_string()).as_deref(),
            Some(expected)
        );
        assert!(!out.exists());
    }
}
