//! Whole jobs: the default job's accuracy, repeatability, resuming, evaluation, and what goes wrong.

mod common;

use common::StopAfter;
use saddle::config::recipe;
use saddle::data::ImageShape;
use saddle::device::testing::{device, device_name, fast_devices};
use saddle::error::Error;
use saddle::eval;
use saddle::run::dir::RunDir;
use saddle::run::network::{self, Classes, WeightOverrides};
use saddle::run::observer::{Observer, Silent};
use saddle::train::{TrainJob, TrainedRun, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// The default job with other settings, in `out`.
fn request(out: &Path, settings: &[(&str, &str)]) -> TrainJob {
    common::job(recipe::DEFAULT, out, settings)
}

fn train(out: &Path, settings: &[(&str, &str)]) -> Result<TrainedRun, Error> {
    run(&request(out, settings), &mut Silent, &AtomicBool::new(false))
}

fn bytes(run: &Path, name: &str) -> Vec<u8> {
    std::fs::read(run.join("checkpoints").join(name)).unwrap()
}

const SHORT: &[(&str, &str)] = &[("epochs", "2"), ("attack_steps", "2"), ("select_steps", "2")];

#[test]
fn the_default_job_reaches_the_reference_on_three_seeds() {
    let folder = tempfile::tempdir().unwrap();
    for (label, _) in fast_devices() {
        for seed in ["0", "1", "2"] {
            let out = folder.path().join(format!("{label}-{seed}"));
            let summary = train(&out, &[("seed", seed), ("device", &label)]).unwrap().summary;
            println!("{label}, seed {seed}: clean {:.2}, PGD-20 {:.2}", summary.clean_acc, summary.pgd20_acc);
            assert!(
                summary.clean_acc >= 96.0 && summary.pgd20_acc >= 76.0,
                "{label}, seed {seed}: {summary:?}"
            );
        }
    }
}

#[test]
fn standard_training_is_accurate_but_not_robust() {
    let folder = tempfile::tempdir().unwrap();
    let summary = train(&folder.path().join("run"), &[("method", "standard")]).unwrap().summary;
    assert!(summary.clean_acc >= 93.0, "{summary:?}");
    assert!(summary.pgd20_acc < 70.0, "{summary:?}");
}

#[test]
fn l2_training_works() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("norm", "l2"), ("eps", "0.5"), ("step_size", "0.1"), ("epochs", "6")];
    let summary = train(&folder.path().join("run"), &settings).unwrap().summary;
    assert!(
        summary.clean_acc > 85.0 && summary.pgd20_acc > 50.0 && summary.pgd20_acc < summary.clean_acc,
        "{summary:?}"
    );
}

#[test]
fn two_runs_give_the_same_bytes_whatever_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<Vec<u8>> = Vec::new();
    for (name, threads) in [("a", "2"), ("b", "2"), ("c", "1"), ("d", "3")] {
        let out = folder.path().join(name);
        let status = Command::new(env!("CARGO_BIN_EXE_saddle"))
            .args(["train", "--device", &device_name(), "--epochs", "2", "--attack-steps", "3"])
            .args(["--quiet", "--out"])
            .arg(&out)
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        files.push(bytes(&out, "last.safetensors"));
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    train(&whole, SHORT).unwrap();
    for steps in [3, 11, 15] {
        let out = folder.path().join(format!("stopped-{steps}"));
        let stop = AtomicBool::new(false);
        let mut first = request(&out, SHORT);
        let message = match run(&first, &mut StopAfter(steps, &stop), &stop) {
            Err(error @ Error::Interrupted { .. }) => error.to_string(),
            other => panic!("expected an interruption, got {:?}", other.map(|o| o.summary)),
        };
        assert!(message.contains("saddle train --resume"), "{message}");
        first.resume = Some(RunDir::open(&out).unwrap());
        run(&first, &mut Silent, &AtomicBool::new(false)).unwrap();
        for file in ["last.safetensors", "best.safetensors"] {
            assert!(bytes(&out, file) == bytes(&whole, file), "{file} after a stop at step {steps}");
        }
        let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert_eq!(lines.lines().count(), 2);
    }
}

#[test]
fn evaluation_of_a_checkpoint_agrees_with_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let summary = train(&out, &[("epochs", "3"), ("select", "last")]).unwrap().summary;
    let evaluate = |batch| {
        let request = eval::EvalRequest {
            weights: out.clone(),
            dataset: "digits".into(),
            data: None,
            attacks: vec!["pgd20".into(), "fgsm".into()],
            params: saddle::attack::Params { ball: saddle::attack::Ball::linf(0.1), ..Default::default() },
            n: None,
            batch,
            device: device_name().parse().unwrap(),
            out: Some(folder.path().join("eval.json")),
            extras: eval::Extras::default(),
        };
        eval::run(&request, &mut Silent).unwrap()
    };
    let (report, in_small_batches) = (evaluate(128), evaluate(37));
    let accuracies = |report: &eval::Report| report.rows.iter().map(|r| r.accuracy).collect::<Vec<_>>();
    assert_eq!(accuracies(&report), accuracies(&in_small_batches), "the batch size changes nothing");
    assert_eq!(report.rows[0].accuracy, summary.clean_acc);
    assert_eq!(report.rows[1].accuracy, summary.pgd20_acc);
    assert!(report.rows[2].accuracy >= report.rows[1].accuracy, "FGSM is the weaker attack");
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("eval.json")).unwrap()).unwrap();
    assert_eq!(written["results"][1]["accuracy"], summary.pgd20_acc);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // The rate is harmless in the first epoch and absurd in the second.
    let settings = [
        ("epochs", "3"),
        ("attack_steps", "1"),
        ("schedule", "multistep"),
        ("lr", "1e-3"),
        ("milestones", "2"),
        ("lr_gamma", "1e30"),
    ];
    let error = train(&out, &settings).err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, Error::NotFinite { epoch: 2, .. }), "{message}");
    assert!(
        message.contains("epoch 2, step") && message.contains("the checkpoints of epoch 1 are kept"),
        "{message}"
    );
    let weights =
        saddle::files::weights::WeightFile::read(&out.join("checkpoints/last.safetensors")).unwrap();
    assert!(weights.tensors.values().all(|(_, values)| values.iter().all(|v| v.is_finite())));
    assert!(!out.join("summary.json").exists());
}

#[test]
fn weights_ruined_by_the_last_step_of_an_epoch_replace_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // One step an epoch: the second ruins the weights, and no loss is computed with them in training.
    let settings = [
        ("epochs", "3"),
        ("attack_steps", "1"),
        ("batch", "1300"),
        ("lr", "1e-3"),
        ("schedule", "multistep"),
        ("milestones", "2"),
        ("lr_gamma", "1e38"),
    ];
    let message = train(&out, &settings).err().unwrap().to_string();
    assert!(
        message.contains("epoch 2, step 1") && message.contains("the checkpoints of epoch 1 are kept"),
        "{message}"
    );
    for name in ["last", "best", "state"] {
        let weights =
            saddle::files::weights::WeightFile::read(&out.join(format!("checkpoints/{name}.safetensors")))
                .unwrap();
        let largest =
            weights.tensors.values().flat_map(|(_, values)| values).fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(largest < 1e3, "{name}: {largest}");
    }
}

#[test]
fn a_run_that_was_killed_before_it_saved_its_state_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (out, whole) = (folder.path().join("run"), folder.path().join("whole"));
    train(&whole, SHORT).unwrap();
    train(&out, SHORT).unwrap();
    // The records of the first epoch are written before the state is.
    std::fs::remove_file(out.join("checkpoints/state.safetensors")).unwrap();
    std::fs::remove_file(out.join("summary.json")).unwrap();
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    std::fs::write(out.join("metrics.jsonl"), metrics.split_inclusive('\n').next().unwrap()).unwrap();
    let mut again = request(&out, SHORT);
    again.resume = Some(RunDir::open(&out).unwrap());
    run(&again, &mut Silent, &AtomicBool::new(false)).unwrap();
    assert!(bytes(&out, "last.safetensors") == bytes(&whole, "last.safetensors"));
    assert_eq!(std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 2);
}

/// Stops the run in the n-th report of an evaluation.
struct StopEvaluation<'a>(usize, &'a AtomicBool);

impl Observer for StopEvaluation<'_> {
    fn evaluating(&mut self, _: &str, _: usize, _: usize) {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// The epochs' lines of `metrics.jsonl` without times.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut epoch: serde_json::Value = serde_json::from_str(line).unwrap();
        epoch
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !["seconds", "eval_seconds", "images_per_s"].contains(&key.as_str()));
        epoch
    };
    text.lines().map(timeless).collect()
}

#[test]
fn evaluation_can_be_interrupted_too() {
    let folder = tempfile::tempdir().unwrap();
    let averaged: [&[(&str, &str)]; 5] = [
        &[],
        &[("average", "swa"), ("average_start_epoch", "0")],
        &[("average", "ema"), ("average_start_epoch", "0"), ("average_decay", "0.9")],
        &[("method", "rebat"), ("average_start_epoch", "1")],
        &[("method", "raat#"), ("average_start_epoch", "0"), ("attack_steps", "1")],
    ];
    for (number, settings) in averaged.iter().enumerate() {
        let settings = [SHORT, settings].concat();
        let whole = folder.path().join(format!("whole-{number}"));
        train(&whole, &settings).unwrap();
        // In the selection of the first epoch, of the second, and in the final evaluation.
        for report in [1, 3, 6] {
            let case = format!("{settings:?}, report {report}");
            let out = folder.path().join(format!("stopped-{number}-{report}"));
            let stop = AtomicBool::new(false);
            let mut first = request(&out, &settings);
            let ended = run(&first, &mut StopEvaluation(report, &stop), &stop);
            assert!(matches!(ended, Err(Error::Interrupted { .. })), "{case}");
            assert!(!out.join("summary.json").exists());
            first.resume = Some(RunDir::open(&out).unwrap());
            let outcome = run(&first, &mut Silent, &AtomicBool::new(false)).unwrap();
            for file in ["last.safetensors", "best.safetensors"] {
                assert!(bytes(&out, file) == bytes(&whole, file), "{case}: {file}");
            }
            assert_eq!(metrics(&out), metrics(&whole), "{case}");
            assert_eq!(std::fs::read_to_string(out.join("log.csv")).unwrap().lines().count(), 3);
            assert!(outcome.dir.join("summary.json").exists());
        }
    }
}

/// A CIFAR-10 folder with `n` made-up images in each of two training files and the test file.
fn made_up_cifar(folder: &Path, n: usize) -> PathBuf {
    for (f, file) in ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"].iter().enumerate() {
        let record = |i: usize| {
            let label = (i % 10) as u8;
            // Every class has a brightness of its own.
            let pixel = move |p: usize| (20 * label as usize + (p * 7 + i * 13 + f) % 40) as u8;
            std::iter::once(label).chain((0..3072).map(pixel))
        };
        std::fs::write(folder.join(file), (0..n).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
    folder.to_owned()
}

#[test]
fn cifar_files_train_with_crops_flips_and_normalisation() {
    let folder = tempfile::tempdir().unwrap();
    let data = made_up_cifar(folder.path(), 100).display().to_string();
    let settings = [
        ("dataset", "cifar10"),
        ("data", data.as_str()),
        ("augment", "crop-flip"),
        ("mean", "0.4914,0.4822,0.4465"),
        ("std", "0.2471,0.2435,0.2616"),
        ("eps", "2/255"),
        ("step_size", "1/255"),
        ("attack_steps", "1"),
        ("epochs", "6"),
        ("batch", "32"),
        ("held_out", "20"),
        ("lr", "0.05"),
    ];
    let out = folder.path().join("run");
    let summary = train(&out, &settings).unwrap().summary;
    assert!(summary.clean_acc > 50.0, "{summary:?}");
    let best = saddle::files::weights::WeightFile::read(&out.join("checkpoints/best.safetensors")).unwrap();
    assert_eq!(best.metadata["mean"], "0.4914,0.4822,0.4465");
}

#[test]
fn bad_jobs_say_what_is_wrong_and_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    for (settings, expected) in [
        (vec![("method", "pgd_att")], "unknown method 'pgd-att' (did you mean 'pgd-at'?)"),
        (vec![("model", "resnet-18")], "unknown model 'resnet-18' (did you mean 'resnet18'?)"),
        (vec![("dataset", "cifar10")], "cifar"),
        (vec![("mean", "0.5,0.5"), ("std", "1,1")], "mean"),
    ] {
        let message = train(&out, &settings).err().unwrap().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        assert!(!out.exists(), "{message}");
    }
    if matches!(saddle::device::cuda::status(), saddle::device::cuda::Status::Missing(_)) {
        let message = train(&out, &[("device", "cuda")]).err().unwrap().to_string();
        assert!(message.starts_with("device cuda:0 cannot be used: "), "{message}");
    }
    train(&out, SHORT).unwrap();
    let message = train(&out, SHORT).err().unwrap().to_string();
    assert!(message.contains("already holds a run"), "{message}");
}

#[test]
fn weights_of_another_architecture_are_refused_with_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(&out, SHORT).unwrap();
    let path = out.join("checkpoints/last.safetensors");
    let mut file = saddle::files::weights::WeightFile::read(&path).unwrap();
    file.metadata.insert("arch".into(), "resnet18".into());
    let device = device();
    let message = |classes: usize, height: usize, channels: usize| {
        let data = (Classes::Exactly(classes), ImageShape { height, width: height, channels });
        let opened = network::open(&device, file.clone(), &WeightOverrides::default(), data);
        opened.err().unwrap().to_string()
    };
    let keys = message(10, 8, 1);
    assert!(
        keys.contains("layer1.0.conv1.weight is [16, 16, 3, 3], expected [64, 64, 3, 3]")
            && !keys.contains('\n'),
        "{keys}"
    );
    let classes = message(100, 32, 3);
    assert!(
        classes.ends_with(
            "the network is for 10 classes and images of 8x8x1, the data has 100 classes and images of \
             32x32x3"
        ),
        "{classes}"
    );
}

/// A limit on the size of files stands for a full disk: the write fails in the middle.
#[test]
fn a_first_write_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" train --device host --epochs 1 --attack-steps 1 \
                  --quiet --out \"$1\"";
    let output =
        Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_saddle")]).arg(&out).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: ")
            && message.contains("cannot write")
            && message.trim_end().lines().count() == 1,
        "{message}"
    );
    assert!(!out.exists(), "a run that saved nothing leaves nothing");
}
