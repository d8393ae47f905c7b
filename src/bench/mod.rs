//! Timing of kernels and of whole training steps: `saddle bench` and `cargo bench`.
//!
//! Every figure is the median of the repetitions that fit into the time after a warm-up, with the 10th and
//! the 90th percentile. Inputs are random numbers, because a GPU draws less power and runs faster on constant
//! ones; memory-bound kernels get more than a large GPU's cache holds.

pub mod work;

use crate::device::Device;
use crate::error::Result;
use crate::ops::batch_norm::{BnMode, Norm, batch_norm};
use crate::ops::fill::full;
use crate::ops::valid::Rows;
use crate::tape::Tape;
use serde::Serialize;
use std::time::Instant;
use work::{BATCH, Layer, PASSES, Work, jobs, random};

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

    let shape = [10_000, 32, 32, 3];
    let time = self::time(device, seconds, work::attack_step(device, &shape)?)?;
    let (bytes, note) =
        (4.0 * (shape.iter().product::<usize>() * 4) as f64, "three reads and a write counted");
    rows.push(time.rate("Linf attack step", "[10000,32,32,3]", bytes / 1e9, "GB/s", note.into()));

    let time = self::time(device, seconds, || full(device, &[16], 0.0).map(drop))?;
    rows.push(time.duration("launch", "one block, 16 floats", 1e6, "us", String::new()));
    Ok(rows)
}

/// The three passes of a convolution.
fn convolution(
    device: &Device,
    seconds: f64,
    batch: usize,
    [cin, cout, kernel, stride, side]: [usize; 5],
) -> Result<Vec<BenchRow>> {
    let layer = Layer { input: [batch, side, side, cin], out_channels: cout, kernel, stride };
    let outputs: usize = layer.conv()?.out_shape().iter().product();
    let gflop = 2e-9 * (outputs * cin * kernel * kernel) as f64;
    let detail = format!("{cin}->{cout} {kernel}x{kernel} s{stride} @{side}");
    let row = |(name, work)| {
        let time = time(device, seconds, work)?;
        let note = format!("{:.0} us, batch {batch}", time.median * 1e6);
        Ok(time.rate(name, &detail, gflop, "GFLOP/s", note))
    };
    PASSES.into_iter().zip(layer.passes(device)?).map(row).collect()
}

/// What steps are measured in unless asked otherwise.
pub const DEFAULT_PRECISION: &str = "f32";

/// Whole training steps of `methods` (none: PGD-AT and RAAT) with ten attack steps: the digits net and CIFAR
/// ResNet-18 at batch 128 (ResNet-18 on the host: 32), or at `batch`; or `model` of the two alone. Images a
/// second count each image once, however many views of it a method takes. `precision` is that of training.
pub fn step(
    device: &Device,
    seconds: f64,
    batch: Option<usize>,
    methods: &[String],
    model: Option<&str>,
    precision: &str,
) -> Result<Vec<BenchRow>> {
    let default = ["pgd-at".to_owned(), "raat".to_owned()];
    let methods = if methods.is_empty() { &default } else { methods };
    let jobs = jobs(model)?;
    let mut rows = Vec::new();
    for job in jobs {
        let n = batch.unwrap_or(job.batch(device));
        let mut steps = methods
            .iter()
            .map(|method| job.step(device, method, n, precision))
            .collect::<Result<Vec<Work>>>()?;
        let times = time_each(device, seconds, &mut steps)?;
        let mut detail = format!("{}, batch {n}, {side}x{side}x{}", job.model, job.channels, side = job.side);
        if precision != DEFAULT_PRECISION {
            detail += &format!(", {precision}");
        }
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
    let mut rows = Vec::new();
    for job in jobs(model)? {
        let n = batch.unwrap_or(job.batch(device));
        let detail = format!("{}, {n} images", job.model);
        for part in job.parts(device, n)? {
            let time = time(device, seconds, part.work)?.divided(part.repeats as f64);
            let note = format!("{} in a step of PGD-AT, {} of RAAT", part.counts[0], part.counts[1]);
            rows.push(time.duration(part.name, &detail, 1e3, "ms", note));
        }
    }
    Ok(rows)
}

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
fn time(device: &Device, seconds: f64, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
    Ok(time_each(device, seconds, &mut [&mut work])?[0])
}

/// [`time`] of several works in turn, so that a machine that is slower for a while is so for all of them;
/// `seconds` for each.
fn time_each(device: &Device, seconds: f64, works: &mut [impl FnMut() -> Result<()>]) -> Result<Vec<Timing>> {
    fn run(device: &Device, work: &mut impl FnMut() -> Result<()>, runs: usize) -> Result<f64> {
        device.synchronize()?;
        let began = Instant::now();
        for _ in 0..runs {
            work()?;
        }
        device.synchronize()?;
        Ok(began.elapsed().as_secs_f64() / runs as f64)
    }
    let mut runs = Vec::new();
    for work in works.iter_mut() {
        run(device, work, 1)?;
        runs.push((1e-3 / run(device, work, 1)?.max(1e-7)).ceil().clamp(1.0, 1000.0) as usize);
    }
    let (began, mut times) = (Instant::now(), vec![Vec::new(); works.len()]);
    while times[0].len() < 5 || began.elapsed().as_secs_f64() < seconds * works.len() as f64 {
        for ((work, runs), times) in works.iter_mut().zip(&runs).zip(&mut times) {
            times.push(run(device, work, *runs)?);
        }
    }
    Ok(times.into_iter().map(Timing::of).collect())
}
