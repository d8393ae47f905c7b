//! Run directories and the folders of other long commands: who may use them, what is refused when something
//! in them has changed, and what interruptions leave.

mod common;

use common::{StopAfter, error, printed, saddle_in};
use saddle::Error;
use saddle::device::testing::{device, device_name};
use saddle::files::safetensors::{self, TensorEntry};
use saddle::files::weights::WeightFile;
use saddle::method;
use saddle::run::dir::RunDir;
use saddle::run::observer::{Observer, Silent};
use saddle::run::provenance::Provenance;
use saddle::train::{TrainJob, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pairs of processes that begin at the same time.
const PAIRS: usize = 50;

/// A training run of well under a second, without its number of epochs and its folder.
const SMALL: &str = "train --device DEVICE --dataset file --data small.safetensors --held-out 8 --batch 16 \
                     --attack-steps 1 --select-steps 1 --eps 0.1 --step-size 0.1 --lr 0.05";

/// Writes 40 images to train and 8 to test on, which differ with `seed`.
fn write_data(path: &Path, seed: usize) {
    let part = |n: usize| {
        let pixels: Vec<u8> = (0..n * 64).map(|i| ((i * 37 + i / 64 * (seed + 11)) % 256) as u8).collect();
        (pixels, (0..n as i64).map(|i| i % 4).collect::<Vec<i64>>())
    };
    let ((x_train, y_train), (x_test, y_test)) = (part(40), part(8));
    let entries = vec![
        TensorEntry::new("x_train", &[40, 8, 8, 1], &x_train),
        TensorEntry::new("y_train", &[40], &y_train),
        TensorEntry::new("x_test", &[8, 8, 8, 1], &x_test),
        TensorEntry::new("y_test", &[8], &y_test),
    ];
    safetensors::write(path, None, entries).unwrap();
}

/// A folder with `small.safetensors`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_data(&folder.path().join("small.safetensors"), 0);
    folder
}

fn start(folder: &Path, line: &str) -> Child {
    let device = device_name();
    Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.split_whitespace().map(|word| if word == "DEVICE" { device.as_str() } else { word }))
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs two commands at the same time: the successful ones, and the messages of the others.
fn together(folder: &Path, lines: [&str; 2]) -> (usize, Vec<String>) {
    let children = lines.map(|line| start(folder, line));
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let (good, bad): (Vec<&Output>, Vec<&Output>) = outputs.iter().partition(|o| o.status.success());
    let message = |output: &&Output| {
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        text.trim_end().to_owned()
    };
    (good.len(), bad.iter().map(message).collect())
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The epochs that the lines of metrics.jsonl and log.csv record.
fn recorded(run: &Path) -> [Vec<u64>; 2] {
    let read = |file: &str| fs::read_to_string(run.join(file)).unwrap();
    let metrics = read("metrics.jsonl");
    let epoch = |line: &str| serde_json::from_str::<Value>(line).unwrap()["epoch"].as_u64().unwrap();
    let log = read("log.csv");
    let row = |line: &str| line.split(',').next().unwrap().parse().unwrap();
    [metrics.lines().map(epoch).collect(), log.lines().skip(1).map(row).collect()]
}

fn assert_whole(run: &Path, epochs: u64) {
    let all: Vec<u64> = (1..=epochs).collect();
    assert_eq!(recorded(run), [all.clone(), all], "{}", run.display());
}

#[test]
fn of_two_runs_in_one_folder_one_is_refused() {
    let folder = folder();
    for pair in 0..PAIRS {
        let line = format!("{SMALL} --epochs 2 --quiet --out r{pair}");
        let (good, refused) = together(folder.path(), [&line, &line]);
        assert_eq!(good, 1, "{refused:?}");
        let in_use =
            format!("error: r{pair}: is in use by another process; choose another folder with --out");
        let taken = format!("error: r{pair}: already holds a run (");
        assert!(refused[0] == in_use || refused[0].starts_with(&taken), "{refused:?}");
        assert_whole(&folder.path().join(format!("r{pair}")), 2);
    }
}

#[test]
fn runs_without_a_folder_each_get_their_own() {
    let folder = folder();
    for _ in 0..PAIRS {
        let line = |eps: &str| format!("{SMALL} --epochs 2 --quiet --eps {eps}");
        let (good, refused) = together(folder.path(), [&line("0.05"), &line("0.2")]);
        assert_eq!(good, 2, "{refused:?}");
    }
    let runs: Vec<_> = fs::read_dir(folder.path().join("runs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 2 * PAIRS);
    let mut small = 0;
    for run in runs {
        assert_whole(&run, 2);
        let eps = json_of(&run.join("run.json"))["config"]["eps"].clone();
        let trained = WeightFile::read(&run.join("checkpoints/last.safetensors")).unwrap();
        assert_eq!(eps.to_string(), trained.metadata["eps"]);
        small += (eps == 0.05) as usize;
    }
    assert_eq!(small, PAIRS);
}

#[test]
fn of_two_resumptions_of_one_run_one_is_refused() {
    let folder = folder();
    interrupted(folder.path(), "begun", 12);
    let mut refusals = 0;
    for pair in 0..PAIRS {
        let name = format!("r{pair}");
        copy(&folder.path().join("begun"), &folder.path().join(&name));
        let line = format!("train --resume {name} --quiet");
        let (good, refused) = together(folder.path(), [&line, &line]);
        // One that begins after the other has ended repeats its result.
        assert_eq!(good + refused.len(), 2);
        assert!(good >= 1, "{refused:?}");
        for message in &refused {
            let in_use = "is in use by another process; wait until it has ended, or stop it";
            assert_eq!(*message, format!("error: {name}: {in_use}"));
        }
        refusals += refused.len();
        assert_whole(&folder.path().join(&name), 12);
    }
    assert!(refusals > PAIRS / 2, "{refusals}");
}

#[test]
fn of_two_comparisons_in_one_folder_one_is_refused() {
    let folder = folder();
    for pair in 0..PAIRS {
        let line = format!(
            "compare --device DEVICE --methods pgd-at --seeds 0 --set epochs=1 --set attack_steps=1 --set \
             batch=512 --set select_steps=1 --set held_out=16 --quiet --out c{pair}"
        );
        let (good, refused) = together(folder.path(), [&line, &line]);
        let in_use = "is in use by another process; wait until it has ended, or choose another --out";
        assert_eq!((good, &refused[..]), (1, &[format!("error: c{pair}: {in_use}")][..]));
        assert_whole(&folder.path().join(format!("c{pair}/runs/digits-seed0")), 1);
        assert!(folder.path().join(format!("c{pair}/compare.json")).exists());
    }
}

#[test]
fn the_lock_of_a_killed_process_is_no_obstacle_and_its_temporary_files_go() {
    let folder = folder();
    let here = folder.path();
    let mut child = start(here, &format!("{SMALL} --epochs 100000 --quiet --out r"));
    wait_for(&here.join("r/checkpoints/state.safetensors"), &mut child);
    let busy = error(here, "train --resume r");
    assert_eq!(busy, "r: is in use by another process; wait until it has ended, or stop it");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut record = json_of(&here.join("r/run.json"));
    let done = recorded(&here.join("r"))[0].len();
    record["config"]["epochs"] = json!(done + 2);
    fs::write(here.join("r/run.json"), record.to_string()).unwrap();
    for name in ["r/.saddle-a1.tmp", "r/checkpoints/.saddle-b2.tmp", "r/mine.tmp"] {
        fs::write(here.join(name), "half").unwrap();
    }
    printed(here, "train --resume r --quiet");
    assert_whole(&here.join("r"), done as u64 + 2);
    assert!(!here.join("r/.saddle-a1.tmp").exists() && !here.join("r/checkpoints/.saddle-b2.tmp").exists());
    assert!(here.join("r/mine.tmp").exists());
}

/// Waits until there is a file.
fn wait_for(file: &Path, child: &mut Child) {
    let began = Instant::now();
    while !file.exists() {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(5));
    }
}

/// Starts a long run, sends it a signal after its first epoch, and returns its status and messages. `shell`
/// prepares the process.
fn signalled(here: &Path, signal: &str, shell: &str, epochs: usize, out: &str) -> (Option<i32>, String) {
    let line = format!("{SMALL} --epochs {epochs} --quiet --out {out}").replace("DEVICE", &device_name());
    let mut child = Command::new("sh")
        .args(["-c", &format!("{shell}; exec \"$0\" {line}"), env!("CARGO_BIN_EXE_saddle")])
        .current_dir(here)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&here.join(out).join("checkpoints/state.safetensors"), &mut child);
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn signals_that_end_a_program_save_the_run() {
    let folder = folder();
    let here = folder.path();
    // A stack that no thread can have stands for a system without threads.
    let no_threads = "export RUST_MIN_STACK=140737488355328";
    for (number, (signal, shell)) in
        [("-TERM", ":"), ("-HUP", ":"), ("-INT", ":"), ("-TERM", no_threads)].into_iter().enumerate()
    {
        let out = format!("r{number}");
        let (status, text) = signalled(here, signal, shell, 100_000, &out);
        assert_eq!(status, Some(130), "{signal}, {shell}: {text}");
        assert!(text.contains("error: interrupted: ") && text.contains("train --resume r"), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        let saved = WeightFile::read(&here.join(&out).join("checkpoints/state.safetensors")).unwrap();
        let progress: Value = serde_json::from_str(&saved.metadata["progress"]).unwrap();
        assert_eq!(progress["epochs_done"].as_u64().unwrap(), recorded(&here.join(&out))[0].len() as u64);
    }
    // Under nohup a run outlives its terminal.
    let (status, text) = signalled(here, "-HUP", "trap '' HUP", 40, "r9");
    assert_eq!((status, text.as_str()), (Some(0), ""));
    assert_whole(&here.join("r9"), 40);
}

/// The job of [`SMALL`] in `folder/name`.
fn job(folder: &Path, name: &str, epochs: usize) -> TrainJob {
    let mut config = saddle::config::Config::default();
    let device = device_name();
    let (data, out, epochs) = (folder.join("small.safetensors"), folder.join(name), epochs.to_string());
    let (data, out) = (data.display().to_string(), out.display().to_string());
    let settings = [
        ("device", device.as_str()),
        ("dataset", "file"),
        ("data", &data),
        ("held_out", "8"),
        ("batch", "16"),
        ("attack_steps", "1"),
        ("select_steps", "1"),
        ("eps", "0.1"),
        ("step_size", "0.1"),
        ("lr", "0.05"),
        ("epochs", &epochs),
        ("out", &out),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    method::apply(&mut config, &settings).unwrap();
    let (recipe, reference) = ("custom".into(), Default::default());
    TrainJob { config, recipe, reference, command: "test".into(), resume: None }
}

/// A run in `folder/name` that was interrupted after two epochs and a step.
fn interrupted(folder: &Path, name: &str, epochs: usize) {
    let stop = AtomicBool::new(false);
    let ended = run(&job(folder, name, epochs), &mut StopAfter(5, &stop), &stop);
    assert!(matches!(ended, Err(Error::Interrupted { .. })));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() { copy(&entry, &target) } else { fs::copy(&entry, &target).map(|_| ()).unwrap() }
    }
}

/// Every file below a folder, but for the lock.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![];
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    found.retain(|(name, _)| !name.ends_with(".saddle.lock"));
    found.sort();
    found
}

#[test]
fn data_that_changed_are_refused_and_data_that_moved_are_found() {
    let folder = folder();
    let here = folder.path();
    interrupted(here, "begun", 4);
    let whole = run(&job(here, "whole", 4), &mut Silent, &AtomicBool::new(false)).unwrap();
    let data = json_of(&here.join("begun/run.json"))["config"]["data"].clone();
    assert!(Path::new(data.as_str().unwrap()).is_absolute(), "{data}");

    fs::create_dir(here.join("elsewhere")).unwrap();
    fs::rename(here.join("small.safetensors"), here.join("elsewhere/moved.safetensors")).unwrap();
    write_data(&here.join("small.safetensors"), 1);
    let before = files(&here.join("begun"));
    let changed = error(here, "train --resume begun");
    assert!(
        changed.starts_with("begun: its data have changed: training images is 40 of 8x8x1, "),
        "{changed}"
    );
    assert!(changed.contains(", test images is 8 of 8x8x1, "), "{changed}");
    assert!(changed.ends_with("; restore them, or start a new run"), "{changed}");
    assert!(error(here, "train --resume begun --data small.safetensors").contains("its data have changed"));
    let other = error(here, "train --resume begun --lr 1");
    assert!(other.contains("keeps its settings but for --device and --data"), "{other}");
    assert!(files(&here.join("begun")) == before, "a refused command changes nothing");

    // A relative path, from another folder than the run's.
    printed(&here.join("elsewhere"), "train --resume ../begun --data moved.safetensors --quiet");
    let last = |run: &Path| fs::read(run.join("checkpoints/last.safetensors")).unwrap();
    assert!(last(&here.join("begun")) == last(&whole.dir));
    let now = json_of(&here.join("begun/run.json"))["config"]["data"].clone();
    assert!(now.as_str().unwrap().ends_with("/elsewhere/moved.safetensors"), "{now}");
}

#[test]
fn a_state_that_changed_is_refused() {
    let folder = folder();
    let here = folder.path();
    interrupted(here, "begun", 4);
    let state = here.join("begun/checkpoints/state.safetensors");
    let saved = WeightFile::read(&state).unwrap();
    let restore = "restore it, or start a new run";
    let with = |change: &dyn Fn(&mut WeightFile)| {
        let mut file = saved.clone();
        change(&mut file);
        file.write(&state).unwrap();
        let before = files(&here.join("begun"));
        let message = error(here, "train --resume begun");
        assert!(files(&here.join("begun")) == before, "a refused command changes nothing");
        message.strip_prefix("begun/checkpoints/state.safetensors: ").unwrap().to_owned()
    };
    let none = with(&|file| file.tensors.retain(|name, _| !name.starts_with("momentum.")));
    assert_eq!(none, format!("its tensors momentum.* are missing; {restore}"));
    let content = format!("its content is not what the run saved; {restore}");
    let one = with(&|file| drop(file.tensors.remove("momentum.linear.bias").unwrap()));
    assert_eq!(one, content);
    let reversed = with(&|file| file.tensors.get_mut("momentum.linear.weight").unwrap().1.reverse());
    assert_eq!(reversed, content);
    let weights = with(&|file| file.tensors.get_mut("linear.bias").unwrap().1[0] += 1.0);
    assert_eq!(weights, content);
    let progress = with(&|file| {
        let text = file.metadata.get_mut("progress").unwrap();
        *text = text.replace("\"epochs_done\":2", "\"epochs_done\":1");
    });
    assert_eq!(progress, content);
    let shape = with(&|file| file.tensors.get_mut("momentum.linear.bias").unwrap().0 = vec![2, 2]);
    assert_eq!(shape, format!("momentum.linear.bias is [2, 2], expected [4]; {restore}"));
    let unknown = with(&|file| {
        let tensor = file.tensors.remove("momentum.linear.bias").unwrap();
        file.tensors.insert("momentum.bias".into(), tensor);
    });
    assert_eq!(unknown, format!("momentum.bias is not in the network; {restore}"));
    fs::remove_file(&state).unwrap();
    let missing = error(here, "train --resume begun");
    let problem = format!("is missing, and epochs up to 2 are recorded; {restore}");
    assert_eq!(missing, format!("begun/checkpoints/state.safetensors: {problem}"));
    saved.write(&state).unwrap();
    printed(here, "train --resume begun --quiet");
    assert_whole(&here.join("begun"), 4);
}

#[test]
fn checkpoints_that_changed_are_refused() {
    let folder = folder();
    let here = folder.path();
    interrupted(here, "begun", 4);
    for name in ["best", "last"] {
        let path = here.join(format!("begun/checkpoints/{name}.safetensors"));
        let bytes = fs::read(&path).unwrap();
        let message = || {
            let message = error(here, "train --resume begun");
            let place = format!("begun/checkpoints/{name}.safetensors: ");
            message.strip_prefix(&place).unwrap_or_else(|| panic!("{message}")).to_owned()
        };
        fs::remove_file(&path).unwrap();
        let missing = "this checkpoint of the run is missing; restore it, or start a new run";
        assert_eq!(message(), missing);
        for changed in [&bytes[..100], &[&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat()] {
            fs::write(&path, changed).unwrap();
            let other = "this is not the checkpoint that the run wrote; restore it, or start a new run";
            assert_eq!(message(), other);
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn checkpoints_of_the_epoch_in_which_a_run_was_killed_are_no_obstacle() {
    let folder = folder();
    let here = folder.path();
    let whole = run(&job(here, "whole", 4), &mut Silent, &AtomicBool::new(false)).unwrap();
    interrupted(here, "begun", 4);
    let stop = AtomicBool::new(false);
    let ended = run(&job(here, "later", 4), &mut StopAfter(7, &stop), &stop);
    assert!(matches!(ended, Err(Error::Interrupted { .. })));
    // Killed before it could save the state of its third epoch.
    for name in ["checkpoints/best.safetensors", "checkpoints/last.safetensors", "metrics.jsonl"] {
        fs::copy(here.join("later").join(name), here.join("begun").join(name)).unwrap();
    }
    printed(here, "train --resume begun --quiet");
    for name in ["best", "last"] {
        let bytes = |run: &Path| fs::read(run.join(format!("checkpoints/{name}.safetensors"))).unwrap();
        assert!(bytes(&here.join("begun")) == bytes(&whole.dir), "{name}");
    }
    assert_whole(&here.join("begun"), 4);
}

#[test]
fn lost_records_are_noted() {
    let folder = folder();
    let here = folder.path();
    interrupted(here, "begun", 4);
    fs::remove_file(here.join("begun/metrics.jsonl")).unwrap();
    let output = saddle_in(here, "train --resume begun");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(
            "note: begun/metrics.jsonl lacks the records of 2 of 2 finished epochs, the first of them epoch 1"
        ),
        "{text}"
    );
    assert!(!text.contains("log.csv"), "{text}");
    assert_eq!(recorded(&here.join("begun")), [vec![3, 4], vec![1, 2, 3, 4]]);
}

/// Removes a file when the last checkpoint is evaluated.
struct RemoveAtTheEnd<'a>(&'a Path);

impl Observer for RemoveAtTheEnd<'_> {
    fn evaluating(&mut self, what: &str, _: usize, _: usize) {
        if what.starts_with("last") {
            fs::remove_file(self.0).ok();
        }
    }
}

#[test]
fn a_broken_best_checkpoint_does_not_cost_the_result_of_the_last() {
    let folder = folder();
    let here = folder.path();
    let best = here.join("r/checkpoints/best.safetensors");
    let ended = run(&job(here, "r", 3), &mut RemoveAtTheEnd(&best), &AtomicBool::new(false));
    let message = ended.err().unwrap().to_string();
    let summary = json_of(&here.join("r/summary.json"));
    let (clean, robust) = (&summary["last"]["clean_acc"], &summary["last"]["pgd20_acc"]);
    assert_eq!((&summary["clean_acc"], &summary["pgd20_acc"]), (clean, robust));
    let problem = "this checkpoint of the run is missing; restore it, or start a new run";
    let problem = format!("{}: {problem}", best.display());
    assert_eq!(summary["best"]["error"], problem);
    let (clean, robust) = (clean.as_f64().unwrap(), robust.as_f64().unwrap());
    let instead =
        format!("summary.json has the last epoch's result: clean {clean:.2} %, PGD-20 {robust:.2} %");
    assert_eq!(message, format!("{}: {problem}; {instead}", here.join("r").display()));
    assert!(error(here, "train --resume r").contains("this checkpoint of the run is missing"));
}

#[test]
fn a_refused_command_leaves_nothing_behind() {
    let folder = folder();
    let here = folder.path();
    for (flags, problem) in [
        (
            "--crop-padding 5000000000",
            "crop_padding = 5000000000: must be at most 1073741819; the images have 8x8 pixels",
        ),
        (
            "--crop-padding 8 --padding-mode reflect",
            "crop_padding = 8: reflection needs less than the image's side; the images have 8x8 pixels",
        ),
        ("--lr 1e30 --schedule multistep", "the loss is "),
        ("--data nothing.safetensors", "nothing.safetensors: "),
    ] {
        for (out, place) in [("--out a/r", here.join("a/r")), ("", here.join("runs/custom-seed0"))] {
            let message = error(here, &format!("{SMALL} --epochs 2 --quiet {flags} {out}"));
            assert!(message.starts_with(problem), "{message}");
            assert!(!place.exists(), "{flags}");
        }
    }
    // The corrected command has the folder, and a folder with other files keeps them.
    fs::create_dir_all(here.join("a/r")).unwrap();
    fs::write(here.join("a/r/notes"), "mine").unwrap();
    error(here, &format!("{SMALL} --epochs 2 --quiet --lr 1e30 --out a/r"));
    assert!(!here.join("a/r/run.json").exists() && !here.join("a/r/checkpoints").exists());
    printed(here, &format!("{SMALL} --epochs 2 --quiet --out a/r"));
    assert_whole(&here.join("a/r"), 2);
    assert_eq!(fs::read_to_string(here.join("a/r/notes")).unwrap(), "mine");
    let second = error(here, &format!("{SMALL} --epochs 2 --quiet --out a/r"));
    assert!(
        second.starts_with("a/r: already holds a run (run.json); continue it with --resume, "),
        "{second}"
    );
}

#[test]
fn log_columns_are_named_after_the_images_they_are_of() {
    let folder = folder();
    let here = folder.path();
    let without = SMALL.replace("--held-out 8 ", "");
    for (select, of, line) in [("heldout", "Held-out", SMALL), ("test", "Test", &without)] {
        printed(here, &format!("{line} --epochs 1 --quiet --select {select} --out {select}"));
        let log = fs::read_to_string(here.join(select).join("log.csv")).unwrap();
        let expected = format!(
            "Epoch,Train Time,{of} Time,LR,Train Loss,Train Acc,Train Robust Loss,Train Robust Acc,{of} Loss,\
             {of} Acc,{of} Robust Loss,{of} Robust Acc"
        );
        assert_eq!(log.lines().next(), Some(expected.as_str()));
    }
}

#[test]
fn a_run_records_where_it_comes_from_and_references_only_where_they_apply() {
    let folder = folder();
    let here = folder.path();
    let now = || Provenance::now(&device(), "").date;
    let before = now();
    let out = printed(here, "train --device DEVICE --epochs 1 --attack-steps 1 --batch 512 --quiet --out r");
    let record = json_of(&here.join("r/run.json"));
    // Times of one form are in the order of their text.
    let date = record["date"].as_str().unwrap().to_owned();
    assert!(before <= date && date <= now(), "{record}");
    assert!(record["command"].as_str().unwrap().contains(" train ") && record["version"].is_string());
    assert!(record["commit"].is_string() && record["device"].is_string(), "{record}");
    for key in ["driver", "nvrtc"] {
        assert!(
            record[key].is_string() || record[key].is_null() && record.get(key).is_some(),
            "{key}: {record}"
        );
    }
    assert!(!out.contains("(reference)") && out.contains("changed keys"), "{out}");
    assert_eq!(record["reference"]["clean"], Value::Null);
    let json = printed(here, &format!("{SMALL} --epochs 1 --json --out json"));
    let result: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&result["event"], &result["reference"]["clean"]), (&json!("result"), &Value::Null));
}

/// An evaluation by the protocol with its progress in `state`.
const EVAL: &str = "eval --device DEVICE --weights r/checkpoints/last.safetensors --dataset file --data \
                    small.safetensors --attack autoattack:fgsm,apgd-t --eps 0.1 --batch 4 --quiet --state";

#[test]
fn a_damaged_state_of_an_evaluation_is_refused() {
    let folder = folder();
    let here = folder.path();
    run(&job(here, "r", 2), &mut Silent, &AtomicBool::new(false)).unwrap();
    let whole = printed(here, &format!("{EVAL} s"));
    assert_eq!(printed(here, &format!("{EVAL} s")), whole);
    let path = here.join("s/progress.json");
    let saved = json_of(&path);
    let message = |change: &dyn Fn(&mut Value)| {
        let mut progress = saved.clone();
        // Without a fingerprint, as an older version wrote it.
        progress.as_object_mut().unwrap().remove("fingerprint").unwrap();
        change(&mut progress);
        fs::write(&path, progress.to_string()).unwrap();
        let message = error(here, &format!("{EVAL} s"));
        let problem = message.strip_prefix("s/progress.json: ").unwrap_or_else(|| panic!("{message}"));
        problem.strip_suffix("; choose another --state").unwrap_or_else(|| panic!("{message}")).to_owned()
    };
    let outcomes = saved["progress"]["outcomes"].as_str().unwrap().to_owned();
    assert_eq!(outcomes.len(), 8);
    let set = |text: String| move |progress: &mut Value| progress["progress"]["outcomes"] = json!(text);
    let longer = message(&set(outcomes.clone() + "...."));
    assert_eq!(longer, "holds outcomes of 12 points, the evaluation has 8");
    assert_eq!(message(&set("0".into())), "holds outcomes of 1 points, the evaluation has 8");
    let later = message(&set("zzzzzzzz".into()));
    assert_eq!(later, "holds the outcome of an attack that has not begun");
    let tried = message(&|progress| drop(progress["progress"]["tried"].as_array_mut().unwrap().pop()));
    assert_eq!(tried, "holds attempts of 7 points, the evaluation has 8");
    let many = message(&|progress| progress["progress"]["tried"][0] = json!(1_000_000));
    assert_eq!(many, "holds 1000000 attempts of apgd-t, which makes 3");
    let other = message(&|progress| progress["progress"]["rows"][1]["attack"] = json!("pgd"));
    assert_eq!(other, "its attacks are not those of the evaluation");
    let images = message(&|progress| {
        progress["files"] = json!(0);
        progress["progress"]["outcomes"] = json!("11111111");
    });
    assert_eq!(images, "an attack succeeded on point 0, of which there is no image");

    // With a fingerprint, every change is found.
    let mut progress = saved.clone();
    progress["progress"]["passes"]["forward"] = json!(1);
    fs::write(&path, progress.to_string()).unwrap();
    let changed = error(here, &format!("{EVAL} s"));
    let problem = "the progress is not what was saved: it was changed or is damaged; choose another --state";
    assert_eq!(changed, format!("s/progress.json: {problem}"));

    // Images of another size, and of a point that there is not.
    let mut progress = saved;
    progress["files"] = json!(1);
    progress["progress"]["outcomes"] = json!("........");
    progress.as_object_mut().unwrap().remove("fingerprint");
    fs::write(&path, progress.to_string()).unwrap();
    for (point, size, problem) in [
        (0u64, 63, "image is [1, 63], expected [1, 64]"),
        (8, 64, "point 8 of 8"),
        (u64::MAX, 64, "point -1 of 8"),
    ] {
        let (points, pixels) = ([point], vec![0.5f32; size]);
        let entries =
            vec![TensorEntry::new("point", &[1], &points), TensorEntry::new("image", &[1, size], &pixels)];
        safetensors::write(&here.join("s/images-000000.safetensors"), None, entries).unwrap();
        let message = error(here, &format!("{EVAL} s"));
        let problem = format!("not the images of this evaluation: {problem}");
        assert_eq!(message, format!("s/images-000000.safetensors: {problem}"));
    }
}

#[test]
fn of_two_evaluations_with_one_state_one_is_refused() {
    let folder = folder();
    let here = folder.path();
    run(&job(here, "r", 2), &mut Silent, &AtomicBool::new(false)).unwrap();
    let whole = printed(here, &format!("{EVAL} s"));
    let state = saddle::files::lock::FolderLock::take(&here.join("s"), "").unwrap();
    let in_use = "s: is in use by another process; wait until it has ended, or choose another --state";
    assert_eq!(error(here, &format!("{EVAL} s")), in_use);
    drop(state);
    fs::write(here.join("s/.saddle-a1.tmp"), "half").unwrap();
    assert_eq!(printed(here, &format!("{EVAL} s")), whole);
    assert!(!here.join("s/.saddle-a1.tmp").exists());
    for pair in 0..PAIRS {
        let line = format!("{EVAL} p{pair}");
        let (good, refused) = together(here, [&line, &line]);
        assert!(good >= 1, "{refused:?}");
        assert!(
            refused.iter().all(|message| message.contains("is in use by another process")),
            "{refused:?}"
        );
        let finished =
            |name: &str| json_of(&here.join(name).join("progress.json"))["progress"]["outcomes"].clone();
        assert_eq!(finished(&format!("p{pair}")), finished("s"));
    }
}

#[test]
fn a_comparison_removes_what_a_killed_one_left_and_refuses_a_run_without_its_best_checkpoint() {
    let folder = folder();
    let here = folder.path();
    let line = "compare --device DEVICE --methods pgd-at --seeds 0 --set epochs=1 --set attack_steps=1 --set \
                batch=512 --set select_steps=1 --set held_out=16 --quiet --out c";
    let first = printed(here, line);
    let left = ["c", "c/runs/digits-seed0", "c/runs/digits-seed0/checkpoints"];
    left.iter().for_each(|place| fs::write(here.join(place).join(".saddle-a1.tmp"), "half").unwrap());
    assert_eq!(printed(here, line), first);
    assert!(left.iter().all(|place| !here.join(place).join(".saddle-a1.tmp").exists()));
    let run = RunDir::open(&here.join("c/runs/digits-seed0")).unwrap().take().unwrap();
    assert!(error(here, line).starts_with("c/runs/digits-seed0: is in use by another process"));
    drop(run);
    let path = here.join("c/runs/digits-seed0/summary.json");
    let mut summary = json_of(&path);
    summary["best"]["error"] = json!("best.safetensors: gone");
    fs::write(&path, summary.to_string()).unwrap();
    let broken = "c/runs/digits-seed0/summary.json: without its best checkpoint: best.safetensors: gone";
    assert_eq!(error(here, line), broken);
}
