//! The protocol of AutoAttack: that its result depends on nothing but what it should, is kept, merged and
//! verified, and when it warns.

mod common;

use saddle::attack::{Attack, Ball, Model, Norm, Params, Points, by_name};
use saddle::config::recipe;
use saddle::data::{self, Dataset, ImageShape, Pixels, device_dataset::DeviceDataset};
use saddle::device::Buffer;
use saddle::device::testing::{device, device_name};
use saddle::error::Error;
use saddle::eval::accuracy::{answers, attacked};
use saddle::eval::outcome::{Outcome, PointOutcomes};
use saddle::eval::plan::{Plan, Stage};
use saddle::eval::post_check::{Verification, verify};
use saddle::eval::protocol::{AdvImages, Progress, ProtocolResult, RunOptions, run_protocol};
use saddle::eval::record::{Record, Shard, merge};
use saddle::eval::state::State;
use saddle::eval::{self, EvalRequest, Extras};
use saddle::files::safetensors::{SafeTensors, floats, integers};
use saddle::files::tensor_file::{Values, write};
use saddle::files::weights::WeightFile;
use saddle::ops::augment::Augmentation;
use saddle::ops::fill::scale;
use saddle::ops::linear::linear;
use saddle::rng::Stream;
use saddle::run::network::{self, Classes, WeightOverrides};
use saddle::run::observer::{AttackProgress, Observer, Silent};
use saddle::tape::{Tape, Var};
use saddle::tensor::Tensor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A run of a small net on digits, trained once for all tests; its best checkpoint is the first epoch's or
/// the second's.
fn trained() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let settings = [("epochs", "2"), ("attack_steps", "2"), ("select_steps", "2")];
        let job = common::job(recipe::DEFAULT, &out, &settings);
        saddle::train::run(&job, &mut Silent, &AtomicBool::new(false)).unwrap();
        (folder, out)
    });
    run
}

fn weights() -> PathBuf {
    trained().join("checkpoints/last.safetensors")
}

const EPS: f32 = 0.1;

fn params(steps: usize) -> Params {
    Params { ball: Ball::linf(EPS), steps: Some(steps), ..Params::default() }
}

/// The standard attacks, shortened.
fn short(norm: Norm, eps: f32) -> Plan {
    let stage =
        |name, steps| Stage::new(name, &Params { ball: Ball { norm, eps }, ..params(steps) }).unwrap();
    let stages = vec![stage("apgd-ce", 3), stage("apgd-t", 4), stage("fab-t", 4), stage("square", 40)];
    Plan::new("custom", stages, &Params { ball: Ball { norm, eps }, ..params(1) }).unwrap()
}

/// The net and the first n test images.
fn digits(n: usize) -> (saddle::nn::Net, DeviceDataset) {
    let device = device();
    let test = data::load("digits", None).unwrap().test.subset(&(0..n).collect::<Vec<_>>()).unwrap();
    let file = WeightFile::read(&weights()).unwrap();
    let data = (Classes::Exactly(10), ImageShape { height: 8, width: 8, channels: 1 });
    let (net, _) = network::open(&device, file, &WeightOverrides::default(), data).unwrap();
    (net, DeviceDataset::new(&device, &test).unwrap())
}

fn by_protocol(
    model: &mut dyn Model,
    data: &DeviceDataset,
    plan: &Plan,
    range: Range<usize>,
    batch: usize,
) -> ProtocolResult {
    let options = RunOptions { range, batch, state: None, stop: &AtomicBool::new(false) };
    run_protocol(model, data, plan, &options, &mut Silent).unwrap()
}

fn bits(images: &AdvImages) -> Vec<(usize, Vec<u32>)> {
    images.iter().map(|(point, image)| (*point, image.iter().map(|v| v.to_bits()).collect())).collect()
}

/// The protocol as it is written down: one batch, every attack as a whole.
fn by_hand(model: &mut dyn Model, data: &DeviceDataset, plan: &Plan) -> (Vec<Option<usize>>, AdvImages) {
    let (mut outcomes, mut images) = (vec![None; data.len], AdvImages::new());
    for number in 0..=plan.stages.len() {
        let left: Vec<i32> =
            (0..data.len as i32).filter(|point| outcomes[*point as usize].is_none()).collect();
        if left.is_empty() {
            break;
        }
        let rows = Buffer::from_slice(data.device(), &left).unwrap();
        let (x, y) = data.batch(&rows, &Augmentation::none()).unwrap();
        if number == 0 {
            let z = saddle::attack::logits(model, &x).unwrap();
            let right = saddle::ops::predict::correct(data.device(), &z, &y).unwrap().to_vec().unwrap();
            left.iter()
                .zip(right)
                .filter(|(_, right)| *right == 0)
                .for_each(|(point, _)| outcomes[*point as usize] = Some(0));
            continue;
        }
        let found =
            plan.stages[number - 1].attack.run(model, Points { x: &x, y: &y, images: &rows }).unwrap();
        let (adv, success) = (found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap());
        for ((point, image), succeeded) in left.iter().zip(adv.chunks(adv.len() / left.len())).zip(success) {
            if succeeded == 1 {
                outcomes[*point as usize] = Some(number);
            }
            // Robust points keep the image of the last attack.
            if succeeded == 1 || number == plan.stages.len() {
                images.insert(*point as usize, image.to_vec());
            }
        }
    }
    (outcomes, images)
}

#[test]
fn batches_packing_and_shards_change_no_bit() {
    for (norm, eps) in [(Norm::Linf, EPS), (Norm::L2, 0.7)] {
        let (mut net, data) = digits(24);
        let plan = short(norm, eps);
        let (outcomes, images) = by_hand(&mut net, &data, &plan);
        assert!(
            outcomes.iter().flatten().max() >= Some(&1) && outcomes.contains(&None),
            "too easy or too hard: {outcomes:?}"
        );
        // 5: many batches; 24: the last attempts are packed; 200: nine attempts of a point at once.
        for batch in [5, 24, 200] {
            let whole = by_protocol(&mut net, &data, &plan, 0..24, batch);
            assert_eq!(whole.outcome.outcomes.0, outcomes, "batch {batch}");
            assert_eq!(bits(&whole.images), bits(&images), "batch {batch}");
            assert!(whole.outcome.verification.passed, "{:?}", whole.outcome.verification);
            assert!(whole.outcome.verification.largest_distance > 0.5 * eps as f64);
        }
        let parts =
            [by_protocol(&mut net, &data, &plan, 0..9, 8), by_protocol(&mut net, &data, &plan, 9..24, 8)];
        let second: AdvImages =
            parts[1].images.iter().map(|(point, image)| (point + 9, image.clone())).collect();
        assert_eq!(bits(&parts[0].images.clone().into_iter().chain(second).collect()), bits(&images));
        let joined = Outcome::joined(parts.into_iter().map(|part| part.outcome).collect()).unwrap();
        assert_eq!(joined.outcomes.0, outcomes);
        let robust = outcomes.iter().filter(|by| by.is_none()).count();
        assert_eq!((joined.rows[4].robust, joined.robust()), (robust, 100.0 * robust as f64 / 24.0));
        assert_eq!(joined.rows[1].attacked, joined.rows[0].robust);
    }
}

/// Asks for an end when the second batch of a session begins.
struct StopAtSecond<'a> {
    batches: usize,
    stop: &'a AtomicBool,
}

impl Observer for StopAtSecond<'_> {
    fn attacking(&mut self, _at: &AttackProgress) {
        self.batches += 1;
        self.stop.store(self.batches >= 2, Ordering::SeqCst);
    }
}

#[test]
fn an_interrupted_evaluation_goes_on_without_loss() {
    let (mut net, data) = digits(20);
    let plan = short(Norm::Linf, EPS);
    let whole = by_protocol(&mut net, &data, &plan, 0..20, 20);
    let folder = tempfile::tempdir().unwrap();
    let mut interruptions = 0;
    let resumed = loop {
        let state = State::open(&folder.path().join("state"), serde_json::Map::new()).unwrap();
        let stop = AtomicBool::new(false);
        // Another batch size in every session.
        let options = RunOptions { range: 0..20, batch: 7 + interruptions, state: Some(&state), stop: &stop };
        match run_protocol(&mut net, &data, &plan, &options, &mut StopAtSecond { batches: 0, stop: &stop }) {
            Ok(result) => break result,
            Err(error @ Error::Interrupted { .. }) => {
                assert!(error.to_string().contains("progress is kept in"), "{error}")
            }
            Err(error) => panic!("{error}"),
        }
        interruptions += 1;
        assert!(interruptions < 200, "no progress");
    };
    assert!(interruptions > 5, "{interruptions} interruptions");
    assert_eq!(resumed.outcome.outcomes, whole.outcome.outcomes);
    assert_eq!(bits(&resumed.images), bits(&whole.images));
    let figures = |result: &ProtocolResult| {
        result
            .outcome
            .rows
            .iter()
            .map(|row| (row.attack.clone(), row.robust, row.attacked))
            .collect::<Vec<_>>()
    };
    assert_eq!(figures(&resumed), figures(&whole));
    // A finished state answers at once.
    let state = State::open(&folder.path().join("state"), serde_json::Map::new()).unwrap();
    let options = RunOptions { range: 0..20, batch: 20, state: Some(&state), stop: &AtomicBool::new(true) };
    let again = run_protocol(&mut net, &data, &plan, &options, &mut Silent).unwrap();
    assert_eq!(
        (again.outcome.outcomes, again.outcome.passes),
        (resumed.outcome.outcomes, resumed.outcome.passes)
    );
}

fn request(weights: PathBuf, attack: &str, extras: Extras) -> EvalRequest {
    EvalRequest {
        weights,
        dataset: "digits".into(),
        data: None,
        attacks: attack.split(',').map(str::to_owned).collect(),
        params: Params { ball: Ball::linf(EPS), ..Params::default() },
        n: Some(30),
        batch: 16,
        device: device_name().parse().unwrap(),
        out: None,
        extras,
    }
}

#[test]
fn the_state_of_another_evaluation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut EvalRequest)| {
        let extras = Extras { state: Some(folder.path().join("state")), ..Extras::default() };
        let mut request = request(weights(), "autoattack:fgsm,pgd2", extras);
        change(&mut request);
        eval::run(&request, &mut Silent).map(|report| report.rows.last().unwrap().accuracy)
    };
    let accuracy = with(&|_| {}).unwrap();
    assert_eq!(
        with(&|request| request.batch = 3).unwrap(),
        accuracy,
        "another batch size is the same evaluation"
    );
    let other = folder.path().join("other.safetensors");
    let mut file = WeightFile::read(&weights()).unwrap();
    file.tensors.get_mut("linear.bias").unwrap().1[0] += 1.0;
    file.write(&other).unwrap();
    for (change, expected) in [
        (
            &(|request: &mut EvalRequest| request.params.ball.eps = 0.2) as &dyn Fn(&mut EvalRequest),
            "eps is 0.1",
        ),
        (&|request| request.params.ball.norm = Norm::L2, "norm is linf there, not l2"),
        (&|request| request.params.seed = 1, "seed is 0 there, not 1"),
        (&|request| request.n = Some(29), "images is 30 there, not 29"),
        (
            &|request| request.attacks = vec!["autoattack:fgsm".into()],
            "attacks is fgsm; pgd2 there, not fgsm",
        ),
        (&|request| request.extras.shard = Some(Shard { number: 1, of: 2 }), "shard is none there, not 1/2"),
        (&|request| request.weights = other.clone(), "weights is "),
    ] {
        let message = with(change).unwrap_err().to_string();
        assert!(
            message.contains("holds the progress of another evaluation: ") && message.contains(expected),
            "{message}"
        );
    }
    assert_eq!(with(&|_| {}).unwrap(), accuracy, "a refusal changes nothing");
}

#[test]
fn shards_merge_to_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(format!("{name}.json"));
    let evaluate = |name: &str, shard: Option<Shard>, eps: f32| {
        let extras = Extras { shard, eps_text: Some("1/10".into()), ..Extras::default() };
        let mut request = request(weights(), "autoattack:pgd3,fgsm", extras);
        (request.params.ball.eps, request.out) = (eps, Some(file(name)));
        eval::run(&request, &mut Silent).unwrap();
    };
    evaluate("whole", None, EPS);
    for number in 1..=3 {
        evaluate(&number.to_string(), Some(Shard { number, of: 3 }), EPS);
    }
    evaluate("half", Some(Shard { number: 1, of: 2 }), EPS);
    evaluate("foreign", Some(Shard { number: 2, of: 3 }), 0.05);
    let files = |names: &[&str]| names.iter().map(|name| file(name)).collect::<Vec<_>>();
    let merged = merge(&files(&["2", "3", "1"])).unwrap();
    let whole = Record::read(&file("whole")).unwrap();
    assert_eq!(merged.outcome.outcomes, whole.outcome.outcomes);
    assert_eq!((merged.shard, &merged.evaluation), (None, &whole.evaluation));
    // The date may be another second.
    let facts = |record: &Record| {
        let mut about = record.about.clone();
        assert!(about.remove("provenance").is_some());
        about
    };
    assert_eq!(facts(&merged), facts(&whole));
    let (merged, whole) = (merged.to_json(), whole.to_json());
    for key in ["clean_acc", "robust_acc", "eps", "warnings", "verification", "outcomes"] {
        assert_eq!(merged[key], whole[key], "{key}");
    }
    assert_eq!((whole["eps"].as_str(), &whole["autoattack_acc"]), (Some("1/10"), &serde_json::Value::Null));
    for (names, expected) in [
        (&["1", "3"][..], "a shard is missing: 2/3"),
        (&["1", "2", "2"], "2.json: is shard 2 of 3, like "),
        (&["1", "half"], "half.json: is shard 1 of 2, other files are of 3: they overlap"),
        (&["half", "2", "3"], "2.json: is shard 2 of 3, other files are of 2: they overlap"),
        (&["1", "foreign", "3"], "foreign.json: belongs to another evaluation than "),
        (&["1", "whole"], "whole.json: is the result of a whole evaluation"),
        (&[], "there is nothing to merge"),
    ] {
        let message = merge(&files(names)).unwrap_err().to_string();
        assert!(message.contains(expected), "{names:?}: {message}");
    }
    std::fs::write(file("plain"), r#"{"architecture": "resnet-mini"}"#).unwrap();
    assert!(
        merge(&files(&["plain"]))
            .unwrap_err()
            .to_string()
            .contains("not the result of saddle eval --attack autoattack")
    );
}

/// A linear model of 4x4 images, with faults.
struct Toy {
    weight: Tensor,
    /// The logits do not pass gradients on.
    masked: bool,
    /// The logits grow by this share from call to call.
    drift: f32,
    /// What it says about every image, whatever is in it.
    constant: Option<Vec<f32>>,
}

impl Model for Toy {
    fn logits(&mut self, tape: &Tape, x: Var) -> saddle::Result<Var> {
        let images = tape.value(x);
        let n = images.shape()[0];
        if let Some(row) = &self.constant {
            return Ok(tape.constant(Tensor::from_slice(tape.device(), &[n, row.len()], &row.repeat(n))?));
        }
        let rows = images.reshape(&[n, 16])?;
        let flat = if self.masked {
            tape.constant(rows)
        } else {
            tape.push(rows, &[x], move |grad, sink| sink.pass(x, grad))?
        };
        let z = linear(tape, flat, tape.constant(self.weight.clone()), None)?;
        self.drift *= 1.5;
        scale(tape, z, 1.0 + self.drift)
    }

    fn classes(&self) -> usize {
        self.weight.shape()[0]
    }
}

/// A toy without faults, and 40 images that it classifies correctly.
fn toy(classes: usize) -> (Toy, Dataset) {
    let mut random = Stream::new(5, "toy");
    let weight: Vec<f32> = (0..classes * 16).map(|_| random.normal() as f32).collect();
    let images: Vec<u8> = (0..40 * 16).map(|_| random.below(256) as u8).collect();
    let logit =
        |image: &[u8], k: usize| image.iter().zip(&weight[k * 16..]).map(|(x, w)| *x as f32 * w).sum::<f32>();
    let best = |image: &[u8]| {
        (0..classes).max_by(|a, b| logit(image, *a).total_cmp(&logit(image, *b))).unwrap() as i32
    };
    let dataset = Dataset {
        name: "toy".into(),
        labels: images.chunks(16).map(best).collect(),
        images: images.into(),
        shape: ImageShape { height: 4, width: 4, channels: 1 },
        classes,
        class_names: vec![],
        all_classes: true,
        byte_scale: 1.0 / 255.0,
    };
    let weight = Tensor::from_slice(&device(), &[classes, 16], &weight).unwrap();
    (Toy { weight, masked: false, drift: 0.0, constant: None }, dataset)
}

/// Outcome of the shortened attacks, with warnings that an observer must have been told, too.
fn outcome(toy: &mut Toy, data: &Dataset, plan: &Plan) -> Outcome {
    struct Notes(Vec<String>);
    impl Observer for Notes {
        fn note(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }
    }
    let data = DeviceDataset::new(&device(), data).unwrap();
    let mut notes = Notes(vec![]);
    let options = RunOptions { range: 0..data.len, batch: 16, state: None, stop: &AtomicBool::new(false) };
    let outcome = run_protocol(toy, &data, plan, &options, &mut notes).unwrap().outcome;
    assert_eq!(notes.0, outcome.warnings.iter().map(|line| format!("warning: {line}")).collect::<Vec<_>>());
    outcome
}

#[track_caller]
fn warns(outcome: &Outcome, expected: &[&str]) {
    let matches = outcome.warnings.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(
        matches && outcome.warnings.len() == expected.len(),
        "expected {expected:?}, found {:#?}",
        outcome.warnings
    );
}

#[test]
fn sound_models_get_no_warning_and_faults_get_theirs() {
    let plan = short(Norm::Linf, 0.05);
    let (mut sound, data) = toy(10);
    let clean = outcome(&mut sound, &data, &plan);
    warns(&clean, &[]);
    assert_eq!(clean.clean(), 100.0);
    assert!(clean.robust() < 100.0 && clean.robust() > 0.0, "{}", clean.robust());

    // Gradients that are not there: only Square finds anything, and far more than the start of APGD.
    let long = Plan::new(
        "custom",
        vec![
            plan.stages.into_iter().next().unwrap(),
            Stage::new("square", &Params { ball: Ball::linf(0.05), ..params(300) }).unwrap(),
        ],
        &Params { ball: Ball::linf(0.05), ..params(1) },
    )
    .unwrap();
    let mut masked = Toy { masked: true, ..toy(10).0 };
    let found = outcome(&mut masked, &data, &long);
    warns(
        &found,
        &["40 of 40 images have an input gradient of zero", "square lowers the robust accuracy from"],
    );

    let mut drifting = Toy { drift: 1e-6, ..toy(10).0 };
    let pgd = Plan::custom(&["pgd2"], &params(2)).unwrap();
    warns(&outcome(&mut drifting, &data, &pgd), &["the logits of 5 passes over the same images differ"]);
    let rand = Plan::new("rand", Plan::custom(&["pgd2"], &params(2)).unwrap().stages, &params(2)).unwrap();
    warns(&outcome(&mut Toy { drift: 1e-6, ..toy(10).0 }, &data, &rand), &[]);

    let mut constant = Toy { constant: Some([vec![0.91], vec![0.01; 9]].concat()), ..toy(10).0 };
    warns(
        &outcome(&mut constant, &data, &pgd),
        &["look like probabilities", "40 of 40 images have an input gradient of zero"],
    );

    let bright = Dataset { byte_scale: 1.0 / 128.0, ..data };
    let found = outcome(&mut toy(10).0, &bright, &pgd);
    assert!(found.warnings[0].contains("of 40 images have pixels outside of [0,1]"), "{:?}", found.warnings);
    assert!(found.warnings.last().unwrap().starts_with("verification failed: "), "{:?}", found.warnings);
}

#[test]
fn few_classes_skip_attacks_or_have_fewer_targets() {
    let (mut three, data) = toy(3);
    let found = outcome(&mut three, &data, &short(Norm::Linf, 0.05));
    let lines = [
        "apgd-t, 4 steps is skipped: its loss needs 4 classes, and there are 3",
        "fab-t, 4 steps has 2 targets instead of 9",
    ];
    warns(&found, &lines);
    assert!(found.rows[2].skipped && found.rows[2].attacked == 0 && !found.rows[3].skipped);
    assert_eq!(found.rows[2].robust, found.rows[1].robust);
    let dlr = Plan::custom(&["apgd-dlr"], &Params { ball: Ball::linf(0.05), ..params(2) }).unwrap();
    let (mut two, data) = toy(2);
    warns(
        &outcome(&mut two, &data, &dlr),
        &["apgd-dlr, 2 steps is skipped: its loss needs 3 classes, and there are 2"],
    );
}

#[test]
fn verification_finds_what_is_wrong() {
    let (mut sound, set) = toy(10);
    let data = DeviceDataset::new(&device(), &set).unwrap();
    let mut check = |images: &AdvImages, outcomes: Vec<Option<usize>>| {
        verify(&mut sound, &data, 0..40, Ball::linf(0.1), images, &PointOutcomes(outcomes), 7).unwrap().0
    };
    let clean = |point: usize| set.image(point).unwrap();
    let robust = vec![None; 40];
    assert!(check(&AdvImages::new(), robust.clone()).passed);
    let mut broken = robust.clone();
    broken[3] = Some(1);
    let found = check(&AdvImages::new(), broken);
    assert_eq!((found.passed, found.other_outcome, found.outside_ball), (false, 1, 0));
    let mut changed = |value: f32| {
        let mut image = clean(30);
        image[5] = value;
        check(&[(30, image)].into(), robust.clone())
    };
    let far = changed(if clean(30)[5] > 0.5 { clean(30)[5] - 0.1001 } else { clean(30)[5] + 0.1001 });
    assert_eq!((far.passed, far.outside_ball, far.outside_box), (false, 1, 0));
    assert!(far.complaint().unwrap().starts_with("verification failed: 1 images are outside of the ball"));
    let outside = changed(-0.001);
    assert_eq!((outside.passed, outside.outside_box), (false, 1));
    let nan = changed(f32::NAN);
    assert_eq!((nan.passed, nan.outside_ball, nan.outside_box, nan.no_logits), (false, 1, 1, 1));
    assert!(nan.complaint().unwrap().contains("(largest distance not a number)"), "{nan:?}");
}

#[test]
fn every_radius_finds_its_own_state_again() {
    let folder = tempfile::tempdir().unwrap();
    let progress = Progress { outcomes: PointOutcomes(vec![None]), ..Progress::default() };
    let radii = (1..=64).map(|k| k as f32 / 255.0).chain((1..=300).map(|k| k as f32 / 100.0));
    for (number, eps) in radii.enumerate() {
        let identity = || [("eps".to_owned(), serde_json::json!(eps))].into_iter().collect();
        let path = folder.path().join(number.to_string());
        State::open(&path, identity()).unwrap().save(&progress, &AdvImages::new()).unwrap();
        State::open(&path, identity()).unwrap();
    }
}

#[test]
fn a_failed_verification_leaves_no_accuracy() {
    let (mut ten, data) = toy(10);
    let mut outcome =
        outcome(&mut ten, &data, &Plan { version: "standard".into(), ..short(Norm::Linf, 0.05) });
    outcome.verification.join(&Verification { outside_box: 1, ..Verification::default() });
    let record = Record { about: Default::default(), evaluation: Default::default(), shard: None, outcome };
    let json = record.to_json();
    assert!(["clean_acc", "robust_acc", "autoattack_acc"].iter().all(|key| json[key].is_null()), "{json}");
    let rows = json["results"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["accuracy"].is_null() && row["robust"].is_null()), "{json}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let message = Record::read(&path).unwrap_err().to_string();
    assert!(message.ends_with("the verification of this result failed: evaluate it again"), "{message}");
}

#[test]
fn autoattack_with_an_attack_missing_is_not_called_so() {
    let (mut three, data) = toy(3);
    let standard = Plan { version: "standard".into(), ..short(Norm::Linf, 0.05) };
    let record = |outcome: Outcome| {
        let record =
            Record { about: Default::default(), evaluation: Default::default(), shard: None, outcome };
        record.to_json()["autoattack_acc"].clone()
    };
    assert!(record(outcome(&mut three, &data, &standard)).is_null());
    let (mut ten, data) = toy(10);
    assert!(record(outcome(&mut ten, &data, &standard)).is_string());
}

#[test]
fn a_file_may_lack_the_last_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let file = |height: usize, label: i64| {
        let tensors = [
            ("x", Values::U8(vec![6, height, 8, 1], vec![51; 6 * height * 8])),
            ("y", Values::integers([0, 1, 2, 0, 1, label])),
        ];
        write(&tensors.map(|(name, values)| (name.to_owned(), values)).into(), &path).unwrap();
        let mut request = request(weights(), "fgsm", Extras::default());
        (request.dataset, request.data, request.n) = ("file".into(), Some(path.clone()), None);
        eval::run(&request, &mut Silent).map(|report| report.images)
    };
    assert_eq!(file(8, 2).unwrap(), 1);
    let message = file(8, 10).unwrap_err().to_string();
    assert!(
        message.contains("the network is for 10 classes")
            && message.contains("the data has at least 11 classes"),
        "{message}"
    );
    let message = file(16, 2).unwrap_err().to_string();
    assert!(message.contains("images of 8x8x1, ") && message.ends_with("images of 16x8x1"), "{message}");
}

#[test]
fn adversarial_images_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adv.safetensors");
    let report = eval::run(
        &request(weights(), "autoattack:pgd5", Extras { save_adv: Some(path.clone()), ..Extras::default() }),
        &mut Silent,
    );
    let record = report.unwrap().record.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("x_adv").unwrap().shape(), [30, 1, 8, 8]);
    let longs = |name: &str| integers(&file.tensor(name).unwrap()).unwrap();
    let (y, pred) = (longs("y"), longs("pred"));
    let success: Vec<bool> = file.tensor("success").unwrap().data().iter().map(|b| *b == 1).collect();
    assert_eq!(success, y.iter().zip(&pred).map(|(y, pred)| y != pred).collect::<Vec<_>>());
    assert_eq!(success, record.outcome.outcomes.0.iter().map(Option::is_some).collect::<Vec<_>>());
    // The stored images alone reproduce the accuracy.
    let (mut net, data) = digits(30);
    let adv: Vec<f32> = floats(&file.tensor("x_adv").unwrap(), |value| value as f32).unwrap();
    let z =
        saddle::attack::logits(&mut net, &Tensor::from_slice(data.device(), &[30, 8, 8, 1], &adv).unwrap())
            .unwrap();
    let classes = saddle::ops::predict::argmax(data.device(), &z).unwrap().to_vec().unwrap();
    assert_eq!(classes.iter().map(|class| *class as i64).collect::<Vec<_>>(), pred);
    let single: Box<dyn Attack> =
        by_name("pgd5", &Params { ball: Ball::linf(EPS), ..Params::default() }).unwrap();
    let clean = attacked(&mut net, &data, None, 30, |_| Ok(())).unwrap();
    let attacked = attacked(&mut net, &data, Some(&*single), 30, |_| Ok(())).unwrap();
    assert_eq!(record.outcome.robust(), attacked.robust_percent(&clean), "a cascade of one attack");
    // Robust points have the attack's image, or with keep_clean the clean one.
    let changed = |adv: &[f32], i: usize| {
        let (x, _) = data
            .batch(&Buffer::from_slice(data.device(), &[i as i32]).unwrap(), &Augmentation::none())
            .unwrap();
        x.to_vec().unwrap() != adv[64 * i..][..64]
    };
    let robust: Vec<usize> = (0..30).filter(|i| !success[*i]).collect();
    assert!(!robust.is_empty() && robust.iter().all(|i| changed(&adv, *i)));
    let extras = Extras { save_adv: Some(path.clone()), keep_clean: true, ..Extras::default() };
    eval::run(&request(weights(), "autoattack:pgd5", extras), &mut Silent).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let adv: Vec<f32> = floats(&file.tensor("x_adv").unwrap(), |value| value as f32).unwrap();
    assert!((0..30).all(|i| changed(&adv, i) == record.outcome.outcomes.0[i].is_some_and(|row| row > 0)));
}

/// A model whose prediction is the side of 1/2 that the mean pixel lies on.
struct Bright;

impl Model for Bright {
    fn logits(&mut self, tape: &Tape, x: Var) -> saddle::Result<Var> {
        let images = tape.value(x);
        let [n, h, w, c] = images.shape().try_into().unwrap();
        let size = h * w * c;
        let flat = Tensor::from_slice(images.device(), &[n, size], &images.to_vec()?)?;
        let weight: Vec<f32> = (0..2 * size).map(|i| if i < size { 0.0 } else { 1.0 }).collect();
        let weight = Tensor::from_slice(images.device(), &[2, size], &weight)?;
        let bias = Tensor::from_slice(images.device(), &[2], &[0.5 * size as f32, 0.0])?;
        linear(tape, tape.constant(flat), tape.constant(weight), Some(tape.constant(bias)))
    }

    fn classes(&self) -> usize {
        2
    }
}

#[test]
fn the_two_robust_accuracies_are_told_apart() {
    // Bright images of which half are labelled dark.
    let set = Dataset {
        images: Pixels::Bytes(vec![200; 8 * 4]),
        labels: [0, 1].repeat(4),
        shape: ImageShape { height: 2, width: 2, channels: 1 },
        classes: 2,
        class_names: vec!["dark".into(), "bright".into()],
        all_classes: true,
        byte_scale: 1.0 / 255.0,
        name: "toy".into(),
    };
    let data = DeviceDataset::new(&device(), &set).unwrap();
    let clean = attacked(&mut Bright, &data, None, 3, |_| Ok(())).unwrap();
    assert_eq!((clean.accuracy().percent, clean.robust_percent(&clean)), (50.0, 50.0));
    // An attack that makes every image dark: the wrong ones become right, and the right ones wrong.
    let darkened = answers(
        &mut Bright,
        &data,
        3,
        |_, points| Tensor::zeros(points.x.device(), points.x.shape()),
        |_| Ok(()),
    )
    .unwrap();
    assert_eq!((darkened.accuracy().percent, darkened.robust_percent(&clean)), (50.0, 0.0));
}

#[test]
fn a_network_that_computes_nan_has_no_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("nan.safetensors");
    let mut file = WeightFile::read(&weights()).unwrap();
    file.tensors.get_mut("linear.bias").unwrap().1[3] = f32::NAN;
    file.write(&broken).unwrap();
    let line = |attack: &str| {
        format!("eval -w nan.safetensors --dataset digits -n 20 -a {attack} -q --device DEVICE --out o.json")
    };
    for attack in ["pgd2", "fgsm,apgd-ce --steps 2", "autoattack:fgsm"] {
        let message = saddle(folder.path(), &line(attack), 2).unwrap_err();
        assert!(
            message
                .starts_with("error: the network's logits are not finite numbers on 20 of 20 images, so it"),
            "{attack}: {message}"
        );
        assert!(!folder.path().join("o.json").exists(), "{attack}: a result was written");
    }
}

/// Runs the program; its standard output, or the error line.
fn saddle(folder: &Path, line: &str, threads: usize) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.replace("DEVICE", &device_name()).split_whitespace())
        .current_dir(folder)
        .env("RAYON_NUM_THREADS", threads.to_string())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn the_command_line_evaluates_runs_files_and_shards() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained().display();
    let command =
        |line: &str, threads| saddle(folder.path(), &format!("eval -q --device DEVICE {line}"), threads);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
    };
    // Both checkpoints of a run, best first; one of them; and one that is the same twice.
    let best = trained().join("checkpoints/best.safetensors");
    let differ = WeightFile::read(&best).unwrap().tensors != WeightFile::read(&weights()).unwrap().tensors;
    let table = command(&format!("-w {run} -a fgsm -n 10 --out both.json"), 2).unwrap();
    assert_eq!(table.matches("fgsm").count(), if differ { 2 } else { 1 }, "{table}");
    let copy = folder.path().join("copy");
    std::fs::create_dir_all(copy.join("checkpoints")).unwrap();
    std::fs::copy(trained().join("run.json"), copy.join("run.json")).unwrap();
    std::fs::copy(weights(), copy.join("checkpoints/last.safetensors")).unwrap();
    let mut file = WeightFile::read(&weights()).unwrap();
    file.tensors.get_mut("linear.bias").unwrap().1[0] += 9.0;
    file.write(&copy.join("checkpoints/best.safetensors")).unwrap();
    let table = command("-w copy -a fgsm -n 10 --out both.json", 2).unwrap();
    let places = ["best.safetensors", "last.safetensors"].map(|name| table.find(name).unwrap());
    assert!(places[0] < places[1] && table.matches("fgsm").count() == 2, "{table}");
    assert_eq!(read("both.json")["checkpoints"].as_array().unwrap().len(), 2);
    let message = command("-w copy -a autoattack:fgsm --save-adv s", 2).unwrap_err();
    assert!(
        message.contains("--save-adv is for one network") && message.contains("--checkpoint best"),
        "{message}"
    );
    // Progress of each; nothing is judged twice.
    let two = "-w copy -a autoattack:fgsm,pgd2 -n 10 --state s --out both.json";
    let table = command(two, 2).unwrap();
    let times = || {
        ["best", "last"].map(|name| {
            std::fs::metadata(folder.path().join("s").join(name).join("progress.json"))
                .unwrap()
                .modified()
                .unwrap()
        })
    };
    // All but the date and the command.
    let results = || {
        let mut both = read("both.json");
        for report in both["checkpoints"].as_array_mut().unwrap() {
            assert!(report.as_object_mut().unwrap().remove("provenance").is_some());
        }
        both
    };
    let (before, both) = (times(), results());
    assert_eq!((command(two, 2).unwrap(), results(), times()), (table, both, before));
    assert_eq!(command("-w copy --checkpoint last -a fgsm -n 10", 2).unwrap().matches("fgsm").count(), 1);

    // Shards with other thread counts and batches, merged.
    let of = "-w copy --checkpoint last -a autoattack:pgd3,fgsm -n 20 --eps 1/10";
    let whole = command(&format!("{of} --out whole.json"), 2).unwrap();
    assert!(
        whole.contains("robust under these attacks (custom, linf, eps 1/10)") && whole.contains("verified: "),
        "{whole}"
    );
    command(&format!("{of} --shard 1/2 --out 1.json --batch 3"), 1).unwrap();
    command(&format!("{of} --shard 2/2 --out 2.json --save-adv adv"), 3).unwrap();
    command("--merge 1.json 2.json --out merged.json", 2).unwrap();
    let (merged, whole) = (read("merged.json"), read("whole.json"));
    for key in [
        "clean_acc",
        "robust_acc",
        "autoattack_acc",
        "eps",
        "architecture",
        "additional_data",
        "number_forward_passes",
        "outcomes",
        "seed",
    ] {
        assert!(
            merged.get(key).is_some() && merged[key] == whole[key],
            "{key}: {} and {}",
            merged[key],
            whole[key]
        );
    }
    for (line, expected) in [
        ("--merge 1.json", "merge = 1: a shard is missing: 2/2"),
        (&format!("{of} --shard 1/50"), "shard = 1/50: no image would be evaluated; there are 20"),
        (
            "-w copy --checkpoint last -a fgsm --shard 1/2",
            "attack = fgsm: --shard needs --attack autoattack, or autoattack:fgsm",
        ),
        (
            "-w copy --checkpoint last -a pgd20,autoattack",
            "attack = pgd20,autoattack: autoattack stands alone",
        ),
        ("-w copy --eps 8", "eps = 8: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
        ("-w copy --shard 3/2 -a autoattack", "shard = 3/2: expected a part"),
        ("-w copy --norm l2", "norm = l2: eps is needed, too: 0.1 is for linf"),
        (
            "-w copy --checkpoint last -a autoattack --restarts 2",
            "attack = autoattack: the attacks of autoattack have parameters of their own",
        ),
        ("--merge 1.json 2.json --eps 0.1", "eps = 0.1: --merge takes no settings"),
        ("--merge 1.json 2.json --restarts 2", "restarts = 2: --merge takes no settings"),
    ] {
        let message = command(line, 2).unwrap_err();
        assert!(
            message.starts_with(&format!("error: {expected}")) && message.lines().count() == 1,
            "{message}"
        );
    }

    // Parameters of attacks, in the result.
    command("-w copy --checkpoint last -a cw3,pgd2 -n 10 --restarts 2 --kappa 1 --out out.json", 2).unwrap();
    let abouts: Vec<_> =
        read("out.json")["results"].as_array().unwrap().iter().map(|row| row["about"].clone()).collect();
    assert_eq!(abouts, ["clean", "cw3, 2 restarts, kappa 1", "pgd2, 2 restarts, kappa 1"]);

    // Weights from elsewhere, without metadata.
    let mut bare = WeightFile::read(&weights()).unwrap();
    let normalised: Vec<String> = ["mean", "std"].map(|key| bare.metadata[key].clone()).into();
    bare.metadata.clear();
    bare.write(&folder.path().join("bare.safetensors")).unwrap();
    let message = command("-w bare.safetensors --dataset digits -a fgsm", 2).unwrap_err();
    assert!(
        message.contains("does not say what network these weights are for")
            && message.contains("--model NAME"),
        "{message}"
    );
    let flags = if normalised[0].is_empty() {
        String::new()
    } else {
        format!("--mean {} --std {}", normalised[0], normalised[1])
    };
    let accuracies = |line: &str| {
        command(line, 2).unwrap();
        read("out.json")["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["accuracy"].clone())
            .collect::<Vec<_>>()
    };
    let tail = "--dataset digits -a fgsm --eps 0.1 --out out.json";
    let own = accuracies(&format!("-w {} {tail}", weights().display()));
    assert_eq!(accuracies(&format!("-w bare.safetensors --model resnet-mini {flags} {tail}")), own);
    for (tensor, shape, expected) in [
        (
            "linear.weight",
            vec![7, 64],
            "the network is for 7 classes and images of 1 channels, the data has 10 classes and images of \
             8x8x1",
        ),
        ("conv1.weight", vec![16, 3, 3, 3], "the network is for 10 classes and images of 3 channels, "),
    ] {
        let mut other = bare.clone();
        let size = shape.iter().product();
        other.tensors.insert(tensor.into(), (shape, vec![0.0; size]));
        other.write(&folder.path().join("other.safetensors")).unwrap();
        let message = command("-w other.safetensors --model resnet-mini --dataset digits", 2).unwrap_err();
        assert!(message.contains(expected) && message.lines().count() == 1, "{message}");
    }
    let mut large = WeightFile::read(&weights()).unwrap();
    large.metadata.insert("input".into(), "32x32x1".into());
    large.write(&folder.path().join("large.safetensors")).unwrap();
    let message = command("-w large.safetensors --dataset digits", 2).unwrap_err();
    assert!(message.contains("images of 32x32x1, ") && message.contains("images of 8x8x1"), "{message}");
}

#[test]
fn what_an_evaluation_would_ignore_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained().display();
    let last = weights();
    // Without --quiet: the error is the only line, with no heading before it.
    let command = |words: &str| saddle(folder.path(), &format!("eval --device DEVICE {words}"), 2);
    for (words, expected) in [
        ("-a fgsm --restarts 10", "restarts = 10: fgsm does not take it; pgd, cw, "),
        ("-a pgd20 --kappa 3", "kappa = 3: pgd20 does not take it; cw would"),
        ("-a apgd-ce,fgsm --targets 3", "targets = 3: apgd-ce, fgsm do not take it; apgd-t, fab-t would"),
        ("-a fgsm --step-size 0.1", "step-size = 0.1: fgsm does not take it; pgd, cw, mim would"),
        ("--steps 100", "steps = 100: pgd20 has its number of steps in its name; write pgd100"),
        ("-a autoattack:fgsm --eot-iter 1", "eot-iter = 1: fgsm does not take it"),
        ("-a autoattack --restarts 1", "attack = autoattack: the attacks of autoattack have parameters"),
        (
            "-a apgd-t --targets 18446744073709551615",
            "targets = 18446744073709551615: the attack apgd-t takes",
        ),
        ("-a pgd20 --norm l2 --eps 1e38", "eps = 100000000000000000000000000000000000000: longer than"),
        ("-a nonsense", "unknown attack 'nonsense'"),
    ] {
        for target in [last.display().to_string(), run.to_string()] {
            let message = command(&format!("-w {target} {words}")).unwrap_err();
            assert!(message.starts_with(&format!("error: {expected}")), "{words}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
    // Also of a run whose checkpoints are the same, before anything is read.
    let message = command(&format!("-w {run} -a autoattack:fgsm --report page.html")).unwrap_err();
    let expected =
        "--report is for one network, and a run has two; add --checkpoint best or --checkpoint last";
    assert!(message.ends_with(&format!("{expected}\n")) && message.lines().count() == 1, "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_result_says_what_it_is_and_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let command = |words: &str| {
        let line = format!("eval -q --device DEVICE -w {} -n 20 --eps 8/255 {words}", weights().display());
        saddle(folder.path(), &line, 2)
    };
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let read = |name: &str| -> serde_json::Value { serde_json::from_str(&text(name)).unwrap() };
    // One name for one attack, with its number of steps; clean alone is an evaluation, too.
    command("-a PGD-2,cw_3,clean,pgd --steps 4 --out list.json").unwrap();
    let rows = read("list.json")["results"].as_array().unwrap().clone();
    let names: Vec<&str> = rows.iter().map(|row| row["attack"].as_str().unwrap()).collect();
    assert_eq!(names, ["clean", "pgd2", "cw3", "pgd4"]);
    assert_eq!(command("-a clean").unwrap().lines().count(), 2);

    let printed = command("-a autoattack:fgsm,pgd2 --out aa.json --report aa.html").unwrap();
    let (record, page) = (read("aa.json"), text("aa.html"));
    let provenance = &record["provenance"];
    assert_eq!(provenance["saddle"], env!("CARGO_PKG_VERSION"));
    assert!(!provenance["commit"].as_str().unwrap().is_empty());
    let made = provenance["command"].as_str().unwrap();
    assert!(made.starts_with("saddle eval -q --device ") && made.ends_with("--report aa.html"), "{made}");
    assert!(provenance["date"].as_str().unwrap().ends_with('Z') && provenance["device"].is_string());
    let robust = record["results"].as_array().unwrap().last().unwrap()["robust"].as_u64().unwrap();
    let percent = record["robust_acc"].as_str().unwrap();
    let headline =
        format!("{percent} % robust under these attacks (custom, linf, eps 8/255): {robust} of 20 images");
    assert_eq!(record["headline"], headline);
    assert!(printed.contains(&format!("{headline}\n")), "{printed}");
    let plain = page.replace("&#x2f;", "/");
    for part in [
        &*headline,
        "verification</th><td>passed: all images in the ball",
        "aa.html</td>",
        provenance["date"].as_str().unwrap(),
        provenance["commit"].as_str().unwrap(),
        "<td class=\"number\">2/255</td>",
        ">\n16/255\n</text>",
    ] {
        assert!(plain.contains(part), "{part} is not in:\n{plain}");
    }
    assert!(!plain.contains(">\n-0\n</text>"));
}

/// A limit on the size of files stands for a full disk: it shows only when the result is written.
#[test]
fn a_result_that_cannot_be_written_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" eval --weights \"$1\" --dataset digits -n 20 \
                  --attack pgd1,pgd2,pgd3,fgsm,mim2,cw2 -q --device host --out o.json";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_saddle")])
        .arg(weights())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let (table, message) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("cw2") && table.contains(" %") && !table.contains("written to"), "{table}");
    assert!(message.starts_with("error: o.json: cannot write: "), "{message}");
    assert_eq!((output.status.code(), folder.path().join("o.json").exists()), (Some(1), false));
}
