//! `saddle attack` and `saddle corruptions` from outside: adversarial images as a file, accuracy under common
//! corruptions.

mod common;

use common::{error, printed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use saddle::attack::{self, Ball, Norm, Params, Points, logits};
use saddle::data::{self, ImageShape};
use saddle::device::Buffer;
use saddle::device::testing::device;
use saddle::files::tensor_file::{TensorFile, Values, write};
use saddle::files::weights::WeightFile;
use saddle::nn::{Arch, Net, Shape};
use saddle::numeric::max_abs;
use saddle::ops::predict::argmax;
use saddle::run::network::{self, Classes, WeightOverrides};
use saddle::tensor::Tensor;

const IMAGES: usize = 50;

/// A trained network in `run`, and the first test images, as floats in `x.safetensors` and as bytes in
/// `bytes.safetensors`.
struct Job {
    dir: tempfile::TempDir,
    pixels: Vec<f32>,
    labels: Vec<i32>,
}

impl Job {
    fn new() -> Job {
        let dir = tempfile::tempdir().unwrap();
        printed(
            dir.path(),
            "train --device DEVICE --epochs 2 --attack-steps 2 --batch 128 --select-steps 1 -q --out run",
        );
        let test = data::load("digits", None).unwrap().test;
        let labels = test.labels[..IMAGES].to_vec();
        // Multiples of 1/255, so that bytes say the same.
        let bytes: Vec<u8> = test.images.as_bytes()[..IMAGES * 64].iter().map(|byte| byte * 15).collect();
        let pixels: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
        let job = Job { dir, pixels, labels };
        let y = || Values::integers(job.labels.iter().map(|y| i64::from(*y)));
        job.write("x", [("x", Values::images(&[IMAGES, 8, 8, 1], &job.pixels)), ("y", y())]);
        job.write("bytes", [("x", Values::U8(vec![IMAGES, 8, 8, 1], bytes)), ("y", y())]);
        job
    }

    fn here(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.here().join(format!("{name}.safetensors"))
    }

    fn write<const N: usize>(&self, name: &str, tensors: [(&str, Values); N]) {
        let tensors: BTreeMap<_, _> =
            tensors.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
        write(&tensors, &self.path(name)).unwrap();
    }

    fn attack(&self, words: &str) -> Made {
        let line = format!("attack --weights run --device DEVICE --quiet --out out.safetensors {words}");
        let table = printed(self.here(), &line);
        let file = TensorFile::read(&self.path("out"), &["x_adv", "y", "pred", "success", "loss"]).unwrap();
        assert!(file.others.is_empty(), "{:?}", file.others);
        let integers = |name: &str| match file.get(name) {
            Some(Values::I64(shape, values)) if *shape == [IMAGES] => {
                values.iter().map(|v| *v as i32).collect::<Vec<_>>()
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(integers("y"), self.labels);
        let (Some(Values::U8(_, success)), Some(Values::F32(_, loss))) =
            (file.get("success"), file.get("loss"))
        else {
            panic!("success: {:?}, loss: {:?}", file.get("success"), file.get("loss"));
        };
        let x_adv = file.images("x_adv").unwrap().unwrap();
        assert_eq!(x_adv.shape, [IMAGES, 8, 8, 1]);
        Made {
            table,
            x_adv: x_adv.pixels,
            pred: integers("pred"),
            success: success.clone(),
            loss: loss.clone(),
        }
    }

    /// The trained network and the images.
    fn loaded(&self) -> (Net, Tensor, Buffer<i32>, Buffer<i32>) {
        let device = device();
        let file = WeightFile::read(&self.here().join("run/checkpoints/best.safetensors")).unwrap();
        let digits = (Classes::Exactly(10), ImageShape { height: 8, width: 8, channels: 1 });
        let (net, _) = network::open(&device, file, &WeightOverrides::default(), digits).unwrap();
        let x = Tensor::from_slice(&device, &[IMAGES, 8, 8, 1], &self.pixels).unwrap();
        let indices = Buffer::from_slice(&device, &(0..IMAGES as i32).collect::<Vec<_>>()).unwrap();
        (net, x, Buffer::from_slice(&device, &self.labels).unwrap(), indices)
    }
}

struct Made {
    table: String,
    x_adv: Vec<f32>,
    pred: Vec<i32>,
    success: Vec<u8>,
    loss: Vec<f32>,
}

#[test]
fn adversarial_images_are_those_of_the_attack() {
    let job = Job::new();
    let (mut net, x, y, indices) = job.loaded();
    let made = job.attack("--data x.safetensors --attack pgd5 --batch 16 --seed 3");
    // The eps that the weights were trained for.
    let attack =
        attack::by_name("pgd5", &Params { ball: Ball::linf(0.1), seed: 3, ..Params::default() }).unwrap();
    let found = attack.run(&mut net, Points { x: &x, y: &y, images: &indices }).unwrap();
    assert_eq!(made.x_adv, found.x_adv.to_vec().unwrap());
    let z = logits(&mut net, &found.x_adv).unwrap();
    assert_eq!(made.pred, argmax(x.device(), &z).unwrap().to_vec().unwrap());
    let flags: Vec<u8> = made.pred.iter().zip(&job.labels).map(|(pred, y)| (pred != y) as u8).collect();
    assert_eq!(made.success, flags);
    let broken = flags.iter().filter(|flag| **flag == 1).count();
    assert!(broken > 5 && broken < IMAGES, "{broken} of {IMAGES}: too few or too many to tell anything");
    for ((row, y), loss) in z.to_vec().unwrap().chunks(10).zip(&job.labels).zip(&made.loss) {
        let sum: f64 = row.iter().map(|z| f64::from(z - row[*y as usize]).exp()).sum();
        assert!((sum.ln() - f64::from(*loss)).abs() < 1e-4, "{loss}");
    }
    let longest = max_abs(made.x_adv.iter().zip(&job.pixels).map(|(a, b)| a - b));
    assert!(longest <= 0.1 + 1e-6 && longest > 0.09, "{longest}");
    for part in [
        "attack",
        "pgd5, linf with eps 0.1",
        "accuracy on x_adv",
        &format!("{:.2} %", 100.0 - 2.0 * broken as f64),
        "written to",
    ] {
        assert!(made.table.contains(part), "{part} is not in:\n{}", made.table);
    }
    // Bytes say the same.
    let bytes = job.attack("--data bytes.safetensors --attack pgd5 --seed 3");
    assert_eq!((bytes.x_adv, bytes.loss), (made.x_adv.clone(), made.loss));
    assert_ne!(job.attack("--data x.safetensors --attack pgd5 --seed 4").x_adv, made.x_adv);
}

#[test]
fn every_attack_and_its_parameters() {
    let job = Job::new();
    for (words, params) in [
        ("fgsm --eps 0.2", Params { ball: Ball::linf(0.2), ..Params::default() }),
        (
            "mim --steps 3 --step-size 0.05",
            Params { ball: Ball::linf(0.1), steps: Some(3), step_size: Some(0.05), ..Params::default() },
        ),
        ("mim4 --momentum 0.25", Params { ball: Ball::linf(0.1), momentum: 0.25, ..Params::default() }),
        ("cw6 --kappa 0.5", Params { ball: Ball::linf(0.1), kappa: 0.5, ..Params::default() }),
        (
            "apgd-ce --steps 6 --eot-iter 2",
            Params { ball: Ball::linf(0.1), steps: Some(6), eot_iter: 2, ..Params::default() },
        ),
        (
            "apgd-dlr --steps 6 --restarts 2",
            Params { ball: Ball::linf(0.1), steps: Some(6), restarts: 2, ..Params::default() },
        ),
        (
            "apgd-t --steps 6 --targets 2",
            Params { ball: Ball::linf(0.1), steps: Some(6), targets: 2, ..Params::default() },
        ),
        (
            "fab-t --steps 2 --targets 1",
            Params { ball: Ball::linf(0.1), steps: Some(2), targets: 1, ..Params::default() },
        ),
        ("square --steps 20", Params { ball: Ball::linf(0.1), steps: Some(20), ..Params::default() }),
        ("pgd3 --norm l2 --eps 0.5", Params { ball: Ball { norm: Norm::L2, eps: 0.5 }, ..Params::default() }),
    ] {
        let (mut net, x, y, indices) = job.loaded();
        let name = words.split(' ').next().unwrap();
        let found = attack::by_name(name, &params)
            .unwrap()
            .run(&mut net, Points { x: &x, y: &y, images: &indices })
            .unwrap();
        let made = job.attack(&format!("--data x.safetensors --attack {words}"));
        assert_eq!(made.x_adv, found.x_adv.to_vec().unwrap(), "{words}");
    }
    // Both numbers matter.
    for words in ["mim4 --momentum", "cw20 --kappa"] {
        let [none, much] = ["0", "1"]
            .map(|value| job.attack(&format!("--data x.safetensors --attack {words} {value}")).x_adv);
        assert_ne!(none, much, "{words}");
    }
}

#[test]
fn mistakes_get_one_clear_line() {
    let job = Job::new();
    let here = job.here();
    let y = |labels: &[i64]| Values::integers(labels.iter().copied());
    let image = |n: usize, value: f32| Values::images(&[n, 8, 8, 1], &vec![value; n * 64]);
    job.write("nolabels", [("x", image(1, 0.5))]);
    job.write("noimages", [("y", y(&[1]))]);
    job.write("fewer", [("x", image(2, 0.5)), ("y", y(&[1]))]);
    job.write("none", [("x", image(0, 0.5)), ("y", y(&[]))]);
    job.write("bright", [("x", image(1, 1.5)), ("y", y(&[1]))]);
    job.write("class", [("x", image(1, 0.5)), ("y", y(&[10]))]);
    job.write("color", [("x", Values::images(&[1, 8, 8, 3], &[0.5; 192])), ("y", y(&[1]))]);
    job.write("wide", [("x", Values::images(&[1, 8, 16, 1], &[0.5; 128])), ("y", y(&[1]))]);
    job.write("flat", [("x", Values::F32(vec![1, 64], vec![0.5; 64])), ("y", y(&[1]))]);
    std::fs::write(job.path("text"), "no tensors").unwrap();
    for (words, message) in [
        (
            "--data nolabels.safetensors",
            "nolabels.safetensors: has no y; expected x f32 [N,C,H,W] and y i64 [N]",
        ),
        (
            "--data noimages.safetensors",
            "noimages.safetensors: has no x; expected x f32 [N,C,H,W] and y i64 [N]",
        ),
        (
            "--data fewer.safetensors",
            "fewer.safetensors: x has 2 images of 8x8x1, y 1 labels; expected as many, at least one",
        ),
        (
            "--data none.safetensors",
            "none.safetensors: x has 0 images of 8x8x1, y 0 labels; expected as many, at least one",
        ),
        ("--data bright.safetensors", "bright.safetensors: x holds 1.5; expected a number in [0,1]"),
        ("--data class.safetensors", "class.safetensors: y holds 10; the network has classes 0 to 9"),
        (
            "--data color.safetensors",
            "run/checkpoints/best.safetensors: the network is for 10 classes and images of 8x8x1, the data \
             has at least 2 classes and images of 8x8x3",
        ),
        (
            "--data wide.safetensors",
            "run/checkpoints/best.safetensors: the network is for 10 classes and images of 8x8x1, the data \
             has at least 2 classes and images of 8x16x1",
        ),
        (
            "--data flat.safetensors",
            "flat.safetensors: x is F32 [1, 64]; expected F32 [N,C,H,W], or U8 [N,H,W,C]",
        ),
        ("--data text.safetensors", "text.safetensors: not a safetensors or .npz file: "),
        ("--data nothing.safetensors", "nothing.safetensors: cannot read the tensors: "),
        ("--data x.safetensors --attack pdg", "unknown attack 'pdg'; known: fgsm, pgd20, "),
        ("--data x.safetensors --norm l2", "norm = l2: eps is needed, too: 0.1 is for linf"),
        (
            "--data x.safetensors --attack pgd20 --restarts 0",
            "restarts = 0: the attack pgd20 needs at least 1",
        ),
        ("--data x.safetensors --attack cw --kappa=-1", "kappa = -1: must be a number, 0 or more"),
        ("--data x.safetensors --kappa 1", "kappa = 1: fgsm does not take it; cw would"),
        (
            "--data x.safetensors --step-size 0.1",
            "step-size = 0.1: fgsm does not take it; pgd, cw, mim would",
        ),
        (
            "--data x.safetensors --attack autoattack",
            "attack = autoattack: several attacks in a protocol; saddle eval --attack autoattack --save-adv",
        ),
        ("--data x.safetensors --model resnet18", "run/checkpoints/best.safetensors: "),
        ("--data x.safetensors --eps 8", "eps = 8: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
        ("--data x.safetensors --batch 0", "batch = 0: must be 1 or more"),
    ] {
        let attack = if words.contains("--attack") { "" } else { "--attack fgsm" };
        let found = error(
            here,
            &format!("attack --weights run --device DEVICE --quiet --out bad.safetensors {attack} {words}"),
        );
        assert!(found.starts_with(message), "{words}\nexpected: {message}...\nfound: {found}");
        assert!(!job.path("bad").exists(), "{words}");
    }
    let found = error(
        here,
        "attack --weights run --device DEVICE --data x.safetensors --attack fgsm --out no/where.safetensors",
    );
    assert!(found.starts_with("no/where.safetensors: cannot write the result: "), "{found}");
}

/// A `.npy` file of version 1.0.
fn npy(path: &Path, descr: &str, shape: &str, bytes: &[u8]) {
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{dictionary:<117}\n");
    let start =
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    std::fs::write(path, [start.as_slice(), bytes].concat()).unwrap();
}

/// An untrained network for 32x32 RGB images without metadata, as another program may have written it.
fn foreign_weights(path: &Path, classes: usize) -> Net {
    let shape = Shape { channels: 3, height: 32, classes, mean: vec![], std: vec![] };
    let net = Net::new(&device(), Arch::find("resnet-mini").unwrap(), &shape, 1).unwrap();
    let mut file = WeightFile::default();
    file.tensors
        .extend(net.export().unwrap().into_iter().map(|(name, shape, values)| (name, (shape, values))));
    file.write(path).unwrap();
    net
}

#[test]
fn corruptions_are_measured_one_by_one() {
    const N: usize = 4;
    for classes in [10, 100] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let mut net = foreign_weights(&here.join("net.safetensors"), classes);
        // Every image is one colour, another for each corruption and row; labels are what the network says
        // under the first corruption, but for the last image of each severity.
        let color = |number: usize, row: usize| {
            [(number * 17) as u8, (row * 12) as u8, ((number * row * 5) % 256) as u8]
        };
        let images = |number: usize| {
            (0..5 * N).flat_map(move |row| color(number, row).repeat(1024)).collect::<Vec<u8>>()
        };
        let device = device();
        let mut predict = |number: usize| {
            let pixels: Vec<f32> = images(number).iter().map(|byte| f32::from(*byte) / 255.0).collect();
            let x = Tensor::from_slice(&device, &[5 * N, 32, 32, 3], &pixels).unwrap();
            argmax(&device, &logits(&mut net, &x).unwrap()).unwrap().to_vec().unwrap()
        };
        let spoil = |(row, class): (usize, i32)| (class + (row % N == N - 1) as i32) % classes as i32;
        let labels: Vec<i32> = predict(0).into_iter().enumerate().map(spoil).collect();
        for (number, name) in data::corruptions::STANDARD.iter().enumerate() {
            npy(
                &here.join(format!("{name}.npy")),
                "|u1",
                &format!("({}, 32, 32, 3)", 5 * N),
                &images(number),
            );
        }
        let bytes: Vec<u8> = labels.iter().flat_map(|y| i64::from(*y).to_le_bytes()).collect();
        npy(&here.join("labels.npy"), "<i8", &format!("({},)", 5 * N), &bytes);

        let line = "corruptions --weights net.safetensors --model resnet-mini --data . --device DEVICE -q \
                    --batch 3";
        let table = printed(here, &format!("{line} --out c.json"));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(here.join("c.json")).unwrap()).unwrap();
        assert_eq!(
            (record["images"].as_u64(), record["dataset"].as_str()),
            (Some(4), Some(&*format!("cifar{classes}-c")))
        );
        let mut total = 0.0;
        for (number, name) in data::corruptions::STANDARD.iter().enumerate() {
            let right: Vec<bool> = predict(number).iter().zip(&labels).map(|(a, b)| a == b).collect();
            for (severity, cell) in right.chunks(N).enumerate() {
                let percent = 25.0 * cell.iter().filter(|right| **right).count() as f64;
                let found = &record["corruptions"][*name]["severities"][(severity + 1).to_string()];
                assert_eq!(found.as_f64(), Some(percent), "{name} {severity}");
                total += percent;
            }
        }
        assert!((record["corruptions_acc"].as_f64().unwrap() - total / 75.0).abs() < 1e-9, "{record}");
        assert_eq!(record["corruptions"]["gaussian_noise"]["mean"], 75.0);
        assert_eq!(
            (table.lines().count(), table.lines().next().unwrap().matches("severity").count()),
            (18, 5),
            "{table}"
        );
        assert!(table.contains(&format!(
            "mean of 75 accuracies, each on 4 images of cifar{classes}-c: {:.2} %",
            total / 75.0
        )));
        // The first three images of two severities: those that are right under the first corruption.
        let some = printed(here, &format!("{line} --severity 5,2 --n 3 --json"));
        let some: serde_json::Value = serde_json::from_str(&some).unwrap();
        assert_eq!(some["severities"], serde_json::json!([2, 5]));
        assert_eq!(some["corruptions"]["gaussian_noise"]["mean"], 100.0);

        let bad = |words: &str| {
            error(here, &format!("corruptions --weights net.safetensors --device DEVICE --quiet {words}"))
        };
        assert!(
            bad("--data .")
                .starts_with("net.safetensors: its metadata does not say what network these weights are for")
        );
        assert!(bad("--data . --severity 6").starts_with("severity = 6: expected 1 to 5"));
        assert!(bad("--data . --n 0").starts_with("n = 0: must be 1 or more"));
        std::fs::remove_file(here.join("fog.npy")).unwrap();
        assert!(bad("--data .").ends_with("1 of 15 corruptions are missing: fog"));
    }
}
