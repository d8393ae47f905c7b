//! Files that users give, from outside: adversarial images as they are, hostile text, outputs and inputs.

mod common;

use common::{error, printed, saddle_in};
use saddle::data;
use saddle::files::tensor_file::{Values, write};
use saddle::files::weights::WeightFile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

const IMAGES: usize = 60;

/// A folder with a network trained on digits in `run`, and images of digits in `x.safetensors`, whose pixels
/// are multiples of 1/16.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    printed(
        dir.path(),
        "train --device DEVICE --epochs 2 --attack-steps 2 --batch 128 --select-steps 1 --quiet --out run",
    );
    let test = data::load("digits", None).unwrap().test;
    let pixels: Vec<f32> = (0..IMAGES).flat_map(|index| test.image(index).unwrap()).collect();
    let labels = Values::integers(test.labels[..IMAGES].iter().map(|label| i64::from(*label)));
    let tensors = [("x", Values::images(&[IMAGES, 8, 8, 1], &pixels)), ("y", labels)];
    let tensors: BTreeMap<_, _> =
        tensors.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
    write(&tensors, &dir.path().join("x.safetensors")).unwrap();
    dir
});

/// A folder of its own with a copy of the network as `w.safetensors` and of the images.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(best(), dir.path().join("w.safetensors")).unwrap();
    std::fs::copy(FOLDER.path().join("x.safetensors"), dir.path().join("x.safetensors")).unwrap();
    dir
}

fn best() -> std::path::PathBuf {
    FOLDER.path().join("run/checkpoints/best.safetensors")
}

/// The result of an evaluation.
fn evaluated(here: &Path, words: &str) -> Value {
    let lines = printed(here, &format!("eval --device DEVICE --json {words}"));
    let result: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    result["report"].clone()
}

fn clean(report: &Value) -> f64 {
    let rows = report["attacks"].as_array().or(report["results"].as_array()).unwrap();
    rows[0]["accuracy"].as_f64().unwrap()
}

/// Weights whose metadata and tensors were changed.
fn changed(here: &Path, name: &str, change: impl FnOnce(&mut WeightFile)) {
    let mut file = WeightFile::read(&best()).unwrap();
    change(&mut file);
    file.write(&here.join(name)).unwrap();
}

#[test]
fn saved_adversarial_images_are_evaluated_as_they_are() {
    let dir = folder();
    let here = dir.path();
    let table = printed(
        here,
        "attack --weights w.safetensors --data x.safetensors --attack pgd5 --device DEVICE --quiet \
         --out adv.safetensors",
    );
    let line = table.lines().find(|line| line.starts_with("accuracy on x_adv")).unwrap();
    let robust: f64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    let of_file =
        evaluated(here, "--weights w.safetensors --attack fgsm --dataset file --data adv.safetensors");
    assert_eq!(
        (format!("{:.2}", clean(&of_file)), of_file["images"].as_u64()),
        (format!("{robust:.2}"), Some(60))
    );
    assert!(robust > 5.0 && robust < 95.0, "{robust}: tells nothing");
    // The same of a protocol's images.
    let run = FOLDER.path().join("run");
    let of_protocol = evaluated(
        here,
        &format!(
            "--weights {} --checkpoint best --attack autoattack:pgd5 --n 40 --save-adv saved.safetensors",
            run.display()
        ),
    );
    let saved =
        evaluated(here, "--weights w.safetensors --attack fgsm --dataset file --data saved.safetensors");
    let robust: f64 = of_protocol["robust_acc"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        (format!("{:.2}", clean(&saved)), saved["images"].as_u64()),
        (format!("{robust:.2}"), Some(40))
    );
    // They are no data to train on.
    let refused =
        error(here, "train --device DEVICE --dataset file --data adv.safetensors --select last --out r");
    assert!(refused.starts_with("dataset = file: has no images to train on"), "{refused}");
    assert!(!here.join("r").exists());
}

#[test]
fn all_images_of_a_file_are_evaluated_unless_the_network_saw_some() {
    let dir = folder();
    let here = dir.path();
    let images = |words: &str| evaluated(here, words)["images"].as_u64().unwrap();
    assert_eq!(images("--weights w.safetensors --attack fgsm --dataset file --data x.safetensors"), 60);
    printed(
        here,
        "train --device DEVICE --dataset file --data x.safetensors --epochs 1 --attack-steps 1 --batch 16 \
         --select last --quiet --out run",
    );
    assert_eq!(images("--weights run --attack fgsm"), 10, "its test part");
    assert_eq!(images("--weights run --attack fgsm --data ./x.safetensors"), 10);
    std::fs::copy(here.join("run/checkpoints/last.safetensors"), here.join("copy.safetensors")).unwrap();
    assert_eq!(images("--weights copy.safetensors --attack fgsm --dataset file --data x.safetensors"), 10);
    std::fs::copy(here.join("x.safetensors"), here.join("other.safetensors")).unwrap();
    assert_eq!(images("--weights run --attack fgsm --data other.safetensors"), 60, "another file");
}

#[test]
fn no_command_replaces_what_it_reads() {
    let dir = folder();
    let here = dir.path();
    std::fs::create_dir(here.join("run")).unwrap();
    std::fs::copy(FOLDER.path().join("run/run.json"), here.join("run/run.json")).unwrap();
    std::fs::create_dir(here.join("run/checkpoints")).unwrap();
    std::fs::copy(best(), here.join("run/checkpoints/best.safetensors")).unwrap();
    let all = || {
        let names = ["w.safetensors", "x.safetensors", "run/run.json", "run/checkpoints/best.safetensors"];
        names.map(|name| std::fs::read(here.join(name)).unwrap())
    };
    let before = all();
    let file = "--dataset file --data x.safetensors --device DEVICE";
    for (words, flag) in [
        (
            format!("eval -w w.safetensors {file} --out w.safetensors"),
            "--out = w.safetensors: is read as --weights",
        ),
        (
            format!("eval -w w.safetensors {file} --out ./x.safetensors"),
            "--out = ./x.safetensors: is read as --data",
        ),
        (
            "eval -w run --device DEVICE --out run/run.json".into(),
            "--out = run/run.json: is read as the run of",
        ),
        (
            "eval -w run --device DEVICE --out run/checkpoints/best.safetensors".into(),
            "--out = run/checkpoints/best.safetensors: is read as --weights",
        ),
        (
            format!("eval -w w.safetensors {file} --attack autoattack --save-adv w.safetensors"),
            "--save-adv = w.safetensors: is read as --weights",
        ),
        (
            format!("eval -w w.safetensors {file} --attack autoattack --out o --report o"),
            "--report = o: is the file for --out, too",
        ),
        (
            "attack --device DEVICE -w w.safetensors --data x.safetensors -a fgsm --out x.safetensors".into(),
            "--out = x.safetensors: is read as --data",
        ),
        (
            "check-step --device DEVICE --method pgd-at --model resnet-mini --weights w.safetensors --batch \
             x.safetensors --out w.safetensors"
                .into(),
            "--out = w.safetensors: is read as --weights",
        ),
        ("eval --merge a.json b.json --out b.json".into(), "--out = b.json: is read as --merge"),
    ] {
        let found = error(here, &words);
        assert!(found.starts_with(flag), "{words}\nexpected {flag}\nfound {found}");
        assert!(all() == before, "{words}");
    }
}

#[test]
fn text_of_files_is_printed_escaped_and_names_its_file() {
    let dir = folder();
    let here = dir.path();
    let hostile = |text: &str| text.replace('~', "\x1b]0;pwn\x07\n");
    changed(here, "arch.safetensors", |file| drop(file.metadata.insert("arch".into(), hostile("~resnet"))));
    changed(here, "eps.safetensors", |file| drop(file.metadata.insert("eps".into(), hostile("~1"))));
    changed(here, "long.safetensors", |file| {
        drop(file.metadata.insert("arch".into(), "a".repeat(3_000_000)))
    });
    changed(here, "name.safetensors", |file| drop(file.tensors.insert(hostile("~"), (vec![1], vec![0.0]))));
    let shown = "\\u{1b}]0;pwn\\u{7}\\n";
    for (name, part) in [
        ("arch", format!("arch.safetensors: in its metadata: unknown model '{shown}resnet'")),
        ("eps", format!("eps.safetensors: in its metadata: eps = {shown}1: ")),
        ("long", "long.safetensors: in its metadata: unknown model 'aaaa".into()),
        ("name", format!("{shown} [1] is not in the network")),
    ] {
        let words = format!("eval -w {name}.safetensors --dataset file --data x.safetensors --device DEVICE");
        let found = error(here, &words);
        assert!(found.contains(&part) && found.len() < 3000, "{found}");
        assert!(!found.chars().any(char::is_control), "{found:?}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_at_once() {
    let dir = folder();
    let here = dir.path();
    assert!(std::process::Command::new("mkfifo").arg(here.join("pipe")).status().unwrap().success());
    let file = "--dataset file --data x.safetensors --device DEVICE";
    for (words, message) in [
        (format!("eval -w pipe {file}"), "pipe: cannot read the weights: is a pipe or a device"),
        (
            "eval -w w.safetensors --dataset file --data pipe --device DEVICE".into(),
            "pipe: cannot read the tensors: is a pipe or a device",
        ),
        (
            "eval -w w.safetensors --dataset file --data /dev/zero --device DEVICE".into(),
            "/dev/zero: cannot read the tensors: is a pipe or a device",
        ),
        ("eval --merge pipe".into(), "pipe: cannot read the result: is a pipe or a device"),
        ("train ./pipe".into(), "./pipe: cannot read the recipe: is a pipe or a device"),
        ("eval --merge .".into(), ".: cannot read the result: is a folder; expected a file"),
    ] {
        let found = error(here, &words);
        assert!(found.starts_with(message), "{words}: {found}");
    }
}

#[test]
fn errors_quote_the_metadata_of_the_file() {
    let dir = folder();
    let file = "--dataset file --data x.safetensors --device DEVICE --model resnet18";
    let found = error(dir.path(), &format!("eval -w w.safetensors {file}"));
    assert!(found.contains("the weights do not fit the network (the file is for resnet-mini), "), "{found}");
    changed(dir.path(), "bare.safetensors", |file| file.metadata.clear());
    let found = error(dir.path(), &format!("eval -w bare.safetensors {file}"));
    assert!(found.contains("the weights do not fit the network, ") && !found.contains("is for"), "{found}");
}

#[test]
fn a_layer_that_normalises_counts_like_the_flags() {
    let dir = folder();
    let here = dir.path();
    changed(here, "bare.safetensors", |file| file.metadata.clear());
    changed(here, "layer.safetensors", |file| {
        file.metadata.clear();
        file.tensors.insert("normalize.mean".into(), (vec![1, 1, 1, 1], vec![0.2]));
        file.tensors.insert("normalize.std".into(), (vec![1, 1, 1, 1], vec![0.5]));
    });
    let file = "--model resnet-mini --attack fgsm --dataset file --data x.safetensors";
    let own = clean(&evaluated(here, &format!("-w layer.safetensors {file}")));
    let of_flags = clean(&evaluated(here, &format!("-w bare.safetensors {file} --mean 0.2 --std 0.5")));
    let other = clean(&evaluated(here, &format!("-w bare.safetensors {file} --mean 0.9 --std 0.1")));
    assert_eq!(own, of_flags);
    assert_ne!(own, other, "the normalisation matters");
    let line = format!("eval --device DEVICE --json -w layer.safetensors {file} --mean 0.9 --std 0.1");
    let output = saddle_in(here, &line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("its own layer takes mean 0.2 and std 0.5; --mean and --std go before it"),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let result: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(clean(&result["report"]), other);
}
