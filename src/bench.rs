//! Timing of kernels and of whole training steps: `saddle bench` and `cargo bench`.
//!
//! Every figure is the median of the repetitions that fit into the time after a warm-up, with the 10th and
//! the 90th percentile. Inputs are random numbers, because a GPU draws less power and runs faster on constant
//! ones; memory-bound kernels get more than a large GPU's cache holds.

use crate::attack::{Objective, Pgd, Points, logits};
use crate::config::Config;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::method;
use crate::nn::{Arch, Net, Role, Shape};
use crate::ops::attack_step::linf_step;
use crate::ops::batch_norm::{BnMode, Norm, batch_norm};
use crate::ops::conv2d::{self, Conv, Epilogue, Filter};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::fill::full;
use crate::ops::reduce::Reduction;
use crate::ops::valid::Rows;
use crate::rng::{Key, Purpose, Stream};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::train::average::Average;
use crate::train::step::{Batch, Models, Sgd, StepConfig, train_step};
use serde::Serialize;
use std::time::Instant;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct BenchRow {
    /// The name of the work.
    pub name: String,
    /// Shapes and settings.
    pub detail: String,
    /// The median, and the figures that nine of ten repetitions exceed and one of ten exceeds.
    pub value: f64,
    pub p10: f64,
    pub p90: f64,
    pub unit: &'static str,
    /// A figure to compare with, or empty.
    pub note: String,
}

/// The distinct convolutions of CIFAR ResNet-18: input channels, output channels, kernel, stride, and height
/// (and width) of the input.
const RESNET18: [[usize; 5]; 11] = [
    [3, 64, 3, 1, 32],
    [64, 64, 3, 1, 32],
    [64, 128, 3, 2, 32],
    [64, 128, 1, 2, 32],
    [128, 128, 3, 1, 16],
    [128, 256, 3, 2, 16],
    [128, 256, 1, 2, 16],
    [256, 256, 3, 1, 8],
    [256, 512, 3, 2, 8],
    [256, 512, 1, 2, 8],
    [512, 512, 3, 1, 4],
];

/// The batch that convolutions are measured on.
const BATCH: usize = 128;

/// Kernels: the three passes of every ResNet-18 convolution with their geometric mean, batch norm, the attack
/// step, and the cost of a launch. `batch` is that of the convolutions (128 if not given), `seconds` the time
/// spent on each figure.
pub fn kernels(device: &Device, seconds: f64, batch: Option<usize>) -> Result<Vec<BenchRow>> {
    let (mut rows, batch) = (Vec::new(), batch.unwrap_or(BATCH));
    for layer in RESNET18 {
        rows.extend(convolution(device, seconds, batch, layer)?);
    }
    let mean = |of: fn(&BenchRow) -> f64| {
        (rows.iter().map(|row| of(row).ln()).sum::<f64>() / rows.len() as f64).exp()
    };
    rows.push(BenchRow {
        name: "conv2d geometric mean".into(),
        detail: "ResNet-18 layers, three passes".into(),
        value: mean(|row| row.value),
        p10: mean(|row| row.p10),
        p90: mean(|row| row.p90),
        unit: "GFLOP/s",
        note: format!("batch {batch}"),
    });

    let x = random(device, &[512, 32, 32, 64])?;
    let (weight, bias) = (full(device, &[64], 1.0)?, full(device, &[64], 0.0)?);
    let (mut mean, mut var) = (full(device, &[64], 0.0)?, full(device, &[64], 1.0)?);
    let time = time(device, seconds, || {
        let tape = Tape::new(device);
        let [x, weight, bias] = [&x, &weight, &bias].map(|t| tape.constant(t.clone()));
        let (mean, var) = (&mut mean, &mut var);
        let norm = Norm { weight, bias, mean, var, mode: BnMode::Train, rows: &Rows::All };
        batch_norm(&tape, x, norm, false).map(drop)
    })?;
    let (bytes, note) = (3.0 * (x.len() * 4) as f64, "two reads and a write counted");
    rows.push(time.rate("batch norm forward, train", "[512,32,32,64]", bytes / 1e9, "GB/s", note.into()));

    let images = || random(device, &[10_000, 32, 32, 3]);
    let (clean, gradient, mut x_adv) = (images()?, images()?, images()?);
    let time = self::time(device, seconds, || linf_step(&mut x_adv, &gradient, &clean, 0.01, 0.03))?;
    let (bytes, note) = (4.0 * (clean.len() * 4) as f64, "three reads and a write counted");
    rows.push(time.rate("Linf attack step", "[10000,32,32,3]", bytes / 1e9, "GB/s", note.into()));

    let time = self::time(device, seconds, || full(device, &[16], 0.0).map(drop))?;
    rows.push(time.duration("launch", "one block, 16 floats", 1e6, "us", String::new()));
    Ok(rows)
}

/// Numbers in `[0, 1)`.
fn random(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Stream::new(0, "bench");
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| stream.uniform()).collect();
    Tensor::from_slice(device, shape, &numbers)
}

/// The three passes of a convolution.
fn convolution(
    device: &Device,
    seconds: f64,
    batch: usize,
    [cin, cout, kernel, stride, side]: [usize; 5],
) -> Result<[BenchRow; 3]> {
    let filter_shape = [cout, kernel, kernel, cin];
    let conv = Conv::new(&[batch, side, side, cin], &filter_shape, stride, kernel / 2)?;
    let x = random(device, &conv.in_shape())?;
    let grad = random(device, &conv.out_shape())?;
    let weight = random(device, &filter_shape)?;
    let mut grad_x = Buffer::uninit(device, x.len())?;
    let mut grad_w = Buffer::uninit(device, weight.len())?;
    let filter = Filter::new(weight);
    let forward =
        time(device, seconds, || conv2d::forward(&conv, &x, &filter, Epilogue::default(), None).map(drop))?;
    let input =
        time(device, seconds, || conv2d::input_grad(&conv, &grad, &filter, None, None, &mut grad_x, false))?;
    let weight = time(device, seconds, || conv2d::weight_grad(&conv, &x, &grad, None, &mut grad_w, false))?;
    let gflop = 2e-9 * (grad.len() * cin * kernel * kernel) as f64;
    let detail = format!("{cin}->{cout} {kernel}x{kernel} s{stride} @{side}");
    let passes =
        [("conv2d forward", forward), ("conv2d input gradient", input), ("conv2d weight gradient", weight)];
    Ok(passes.map(|(name, time)| {
        let note = format!("{:.0} us, batch {batch}", time.median * 1e6);
        time.rate(name, &detail, gflop, "GFLOP/s", note)
    }))
}

/// Whole training steps of `methods` (none: PGD-AT and RAAT) with ten attack steps: the digits net and CIFAR
/// ResNet-18 at batch 128 (ResNet-18 on the host: 32), or at `batch`; or `model` of the two alone. Images a
/// second count each image once, however many views of it a method takes.
pub fn step(
    device: &Device,
    seconds: f64,
    batch: Option<usize>,
    methods: &[String],
    model: Option<&str>,
) -> Result<Vec<BenchRow>> {
    let default = ["pgd-at".to_owned(), "raat".to_owned()];
    let methods = if methods.is_empty() { &default } else { methods };
    let jobs = jobs(model)?;
    let mut rows = Vec::new();
    for job in jobs {
        let n = batch.unwrap_or(job.batch(device));
        let mut steps =
            methods.iter().map(|method| job.step(device, method, n)).collect::<Result<Vec<_>>>()?;
        let times = time_each(device, seconds, &mut steps)?;
        let detail = format!("{}, batch {n}, {side}x{side}x{}", job.model, job.channels, side = job.side);
        for (method, time) in methods.iter().zip(times) {
            let note = format!("{:.1} ms a step", time.median * 1e3);
            let name = format!("{method} training step");
            rows.push(time.rate(&name, &detail, n as f64, "images/s", note));
        }
    }
    Ok(rows)
}

/// The parts of a step, in milliseconds: an attack step, an evaluation, a training pass over one view and
/// over two, an update; each with how often a step of PGD-AT and of RAAT has it when all images are in S.
/// The rest of a step is its own kernels.
pub fn parts(
    device: &Device,
    seconds: f64,
    batch: Option<usize>,
    model: Option<&str>,
) -> Result<Vec<BenchRow>> {
    const STEPS: usize = 10;
    let mut rows = Vec::new();
    for job in jobs(model)? {
        let &Job { model, side, channels, .. } = job;
        let n = batch.unwrap_or(job.batch(device));
        let mut net = job.net(device)?;
        let input = |n: usize| -> Result<(Tensor, Buffer<i32>)> {
            let y: Vec<i32> = (0..n as i32).map(|i| i % 10).collect();
            Ok((random(device, &[n, side, side, channels])?, Buffer::from_slice(device, &y)?))
        };
        let ((x, y), (both, of_both)) = (input(n)?, input(2 * n)?);
        let images = Buffer::from_slice(device, &(0..n as i32).collect::<Vec<_>>())?;
        let pgd = Pgd { steps: STEPS, ..Pgd::default() };
        let key = Key::new(0, Purpose::AttackStart, 0, 0);
        let attack = time(device, seconds, || {
            let points = Points { x: &x, y: &y, images: &images };
            pgd.attack(&mut net, Objective::CrossEntropy, points, key).map(drop)
        })?;
        let evaluation = time(device, seconds, || logits(&mut net, &x).map(drop))?;
        let mut pass = |x: &Tensor, y: &Buffer<i32>| {
            time(device, seconds, || {
                let tape = Tape::new(device);
                let leaves = net.leaves(&tape);
                let z = net.forward(&tape, tape.constant(x.clone()), BnMode::Train, Some(&leaves))?;
                let loss = cross_entropy(&tape, z, y, Reduction::Mean)?;
                leaves.gradients(&mut tape.backward(loss, None)?);
                Ok(())
            })
        };
        let (one, two) = (pass(&x, &y)?, pass(&both, &of_both)?);
        let sgd = Sgd { lr: 0.0, momentum: 0.9, weight_decay: 5e-4 };
        let update = time(device, seconds, || {
            let learned = net.params.iter_mut().filter(|param| param.role != Role::Buffer);
            learned
                .map(|param| (param.value.clone(), param))
                .try_for_each(|(gradient, param)| sgd.update(param, &gradient))
        })?;
        let detail = format!("{model}, {n} images");
        for (name, time, counts) in [
            ("attack step", attack.divided(STEPS as f64), [10, 20]),
            ("evaluation", evaluation, [0, 6]),
            ("training pass", one, [1, 1]),
            ("training pass, two views", two, [0, 2]),
            ("update", update, [1, 1]),
        ] {
            let note = format!("{} in a step of PGD-AT, {} of RAAT", counts[0], counts[1]);
            rows.push(time.duration(name, &detail, 1e3, "ms", note));
        }
    }
    Ok(rows)
}

/// A network and the images that steps are measured on.
struct Job {
    model: &'static str,
    side: usize,
    channels: usize,
    /// The batch on the host; on a GPU it is 128.
    host_batch: usize,
    eps: &'static str,
}

impl Job {
    fn batch(&self, device: &Device) -> usize {
        if device.is_host() { self.host_batch } else { BATCH }
    }

    fn net(&self, device: &Device) -> Result<Net> {
        let shape =
            Shape { channels: self.channels, height: self.side, classes: 10, mean: vec![], std: vec![] };
        Net::new(device, Arch::find(self.model)?, &shape, 0)
    }

    /// A training step of `method` on a batch of n images, again and again.
    fn step(&self, device: &Device, method: &str, n: usize) -> Result<Work<'static>> {
        let &Job { side, channels, eps, .. } = self;
        let mut config = Config::default();
        config.apply(&[
            ("method", method),
            ("eps", eps),
            ("step_size", eps),
            ("average_start_epoch", "0"),
        ])?;
        let entry = method::find(method)?;
        let views = (entry.views)(&config);
        let (mut net, mut wa) = (self.net(device)?, self.net(device)?);
        let x = random(device, &[views * n, side, side, channels])?;
        let y = Buffer::from_slice(device, &(0..n as i32).map(|i| i % 10).collect::<Vec<_>>())?;
        let images = Buffer::from_slice(device, &(0..n as i32).collect::<Vec<_>>())?;
        let average = Average::of(&config, entry);
        Ok(Box::new(move || {
            let step_config = StepConfig { method: entry, set: &config, epoch: 0 };
            let sgd = Sgd { lr: 0.01, momentum: 0.9, weight_decay: 5e-4 };
            let mut models = Models { net: &mut net, wa: average.map(|_| &mut wa) };
            let batch = Batch { x: &x, y: &y, images: &images, index: 0 };
            train_step(&mut models, &batch, &step_config, &sgd, average.as_ref()).map(drop)
        }))
    }
}

static JOBS: [Job; 2] = [
    Job { model: "resnet-mini", side: 8, channels: 1, host_batch: 128, eps: "0.1" },
    Job { model: "resnet18", side: 32, channels: 3, host_batch: 32, eps: "8/255" },
];

/// The job with this network, or all. Errors: there is none.
fn jobs(model: Option<&str>) -> Result<Vec<&'static Job>> {
    let found: Vec<&Job> = JOBS.iter().filter(|job| model.is_none_or(|wanted| job.model == wanted)).collect();
    match model {
        Some(wanted) if found.is_empty() => {
            Err(Error::unknown("job", wanted, JOBS.iter().map(|job| job.model)))
        }
        _ => Ok(found),
    }
}

/// Something to time.
type Work<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Seconds of repetitions of one work.
#[derive(Clone, Copy)]
struct Timing {
    p10: f64,
    median: f64,
    p90: f64,
}

impl Timing {
    fn of(mut seconds: Vec<f64>) -> Timing {
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        Timing { p10: quantile(0.1), median: quantile(0.5), p90: quantile(0.9) }
    }

    fn divided(self, by: f64) -> Timing {
        Timing { p10: self.p10 / by, median: self.median / by, p90: self.p90 / by }
    }

    /// The row of a rate: `amount` of the unit's numerator per repetition.
    fn rate(self, name: &str, detail: &str, amount: f64, unit: &'static str, note: String) -> BenchRow {
        let [p10, value, p90] = [self.p90, self.median, self.p10].map(|seconds| amount / seconds);
        BenchRow { name: name.into(), detail: detail.into(), value, p10, p90, unit, note }
    }

    /// The row of a duration, in a unit of which a second has `scale`.
    fn duration(self, name: &str, detail: &str, scale: f64, unit: &'static str, note: String) -> BenchRow {
        let [p10, value, p90] = [self.p10, self.median, self.p90].map(|seconds| scale * seconds);
        BenchRow { name: name.into(), detail: detail.into(), value, p10, p90, unit, note }
    }
}

/// Times `work`: two runs to warm up, then as many repetitions as fit into `seconds`, at least five. Short
/// work is repeated within a repetition.
fn time(device: &Device, seconds: f64, work: impl FnMut() -> Result<()>) -> Result<Timing> {
    Ok(time_each(device, seconds, &mut [Box::new(work)])?[0])
}

/// [`time`] of several works in turn, so that a machine that is slower for a while is so for all of them;
/// `seconds` for each.
fn time_each(device: &Device, seconds: f64, works: &mut [Work]) -> Result<Vec<Timing>> {
    let run = |work: &mut Work, runs: usize| -> Result<f64> {
        device.synchronize()?;
        let began = Instant::now();
        for _ in 0..runs {
            work()?;
        }
        device.synchronize()?;
        Ok(began.elapsed().as_secs_f64() / runs as f64)
    };
    let mut runs = Vec::new();
    for work in works.iter_mut() {
        run(work, 1)?;
        runs.push((1e-3 / run(work, 1)?.max(1e-7)).ceil().clamp(1.0, 1000.0) as usize);
    }
    let (began, mut times) = (Instant::now(), vec![Vec::new(); works.len()]);
    while times[0].len() < 5 || began.elapsed().as_secs_f64() < seconds * works.len() as f64 {
        for ((work, runs), times) in works.iter_mut().zip(&runs).zip(&mut times) {
            times.push(run(work, *runs)?);
        }
    }
    Ok(times.into_iter().map(Timing::of).collect())
}
