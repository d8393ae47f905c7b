//! The kernels of a training step, one by one: which one runs, how long, and what bounds it.

use super::BenchRow;
use super::step_kernels::{Shared, StepKernels};
use super::timing::{Timing, time, time_launches};
use super::work::{Job, Numbers, Work, attack_step, labels, passes, random};
use crate::device::trace::Launch;
use crate::device::{Binding, Buffer, Device, Peaks};
use crate::error::Result;
use crate::ops::batch_norm::{BnMode, Norm, batch_norm};
use crate::ops::conv2d::{Conv, Precision};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::fill::full;
use crate::ops::global_avg_pool::global_avg_pool;
use crate::ops::head::{Classifier, Target};
use crate::ops::linear::linear;
use crate::ops::reduce::Reduction;
use crate::ops::valid::Rows;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use half::bf16;
use serde::Serialize;

/// The passes of a convolution.
pub const PASSES: [&str; 3] = ["conv2d forward", "conv2d input gradient", "conv2d weight gradient"];

/// The step whose kernels are measured.
pub struct KernelsRequest {
    pub job: Job,
    pub batch: usize,
    pub precision: Precision,
    /// The time that each figure may take.
    pub seconds: f64,
}

/// What ran for a row of the table, and the least time that it can take.
#[derive(Clone, Debug, Serialize)]
pub struct KernelCost {
    /// By their names in PyTorch.
    pub layers: Vec<String>,
    /// The one that multiplies, or else that with the longest bound; and all of them in their order.
    pub kernel: &'static str,
    pub kernels: Vec<&'static str>,
    /// Of the products.
    pub precision: Precision,
    /// Seconds: the 10th percentile, the median, the 90th.
    pub seconds: [f64; 3],
    pub flop: u64,
    pub bytes: u64,
    /// The least seconds, and what binds the kernel.
    pub bound: f64,
    pub binding: Binding,
}

impl KernelCost {
    fn new(layers: &[String], launches: &[Launch], time: Timing, peaks: &Peaks) -> KernelCost {
        let bounds = || launches.iter().map(|launch| (peaks.bound(&launch.work), launch));
        // The launch that multiplies, or else that with the longest bound, says what binds all.
        let longest = bounds().max_by(|((a, _), one), ((b, _), other)| {
            one.work.flop.cmp(&other.work.flop).then(a.total_cmp(b))
        });
        KernelCost {
            layers: layers.to_vec(),
            kernel: longest.map_or("none", |(_, launch)| launch.kernel),
            kernels: launches.iter().map(|launch| launch.kernel).collect(),
            precision: longest.map_or(Precision::F32, |(_, launch)| launch.work.precision),
            seconds: [time.p10, time.median, time.p90],
            flop: launches.iter().filter_map(|launch| launch.work.flop).sum(),
            bytes: launches.iter().map(|launch| launch.work.bytes()).sum(),
            bound: bounds().map(|((seconds, _), _)| seconds).sum(),
            binding: longest.map_or(Binding::Memory, |((_, binding), _)| binding),
        }
    }

    /// The share of the roofline that the median reaches.
    pub fn roof(&self) -> f64 {
        self.bound / self.seconds[1]
    }
}

/// The three passes of every convolution of a network with their geometric mean, its batch norms, an attack
/// step, the head in training and in an attack, SGD, and the cost of a launch.
pub fn kernels(device: &Device, request: &KernelsRequest, peaks: &Peaks) -> Result<Vec<BenchRow>> {
    let &KernelsRequest { ref job, batch, precision, seconds } = request;
    let step = StepKernels::of(device, job, batch, precision)?;
    let mut table = Table { device, seconds, batch, peaks, rows: Vec::new() };
    for Shared { what: conv, layers } in &step.convolutions {
        let works = match precision {
            Precision::F32 | Precision::Tf32 => passes::<f32, f32>(device, *conv, precision)?,
            Precision::Bf16 if reads_images(conv, job) => passes::<f32, bf16>(device, *conv, precision)?,
            Precision::Bf16 => passes::<bf16, bf16>(device, *conv, precision)?,
        };
        for (name, work) in PASSES.into_iter().zip(works) {
            table.add(name, &detail(conv), layers, work)?;
        }
    }
    table.add_mean(job.model);
    for Shared { what, layers } in &step.norms {
        let works = match precision {
            Precision::Bf16 => norm_passes::<bf16>(device, *what)?,
            Precision::F32 | Precision::Tf32 => norm_passes::<f32>(device, *what)?,
        };
        for (name, work) in ["batch norm forward, train", "batch norm backward"].into_iter().zip(works) {
            table.add(name, &format!("{what:?}"), layers, work)?;
        }
    }
    let images = [batch, job.side, job.side, job.channels];
    table.add("Linf attack step", &format!("{images:?}"), &[], attack_step(device, &images)?)?;
    let [pixels, channels] = step.pooled;
    let features = [batch, 1, pixels, channels];
    let heads = match precision {
        Precision::Bf16 => heads::<bf16>(device, features)?,
        Precision::F32 | Precision::Tf32 => heads::<f32>(device, features)?,
    };
    for (name, work) in ["head, forward and backward", "head of an attack"].into_iter().zip(heads) {
        table.add(name, &format!("{features:?}"), &[], work)?;
    }
    let (parameters, update) = job.update(device)?;
    table.add("SGD", &format!("{parameters} parameters"), &[], update)?;
    let time = time(device, seconds, || full(device, &[16], 0.0).map(drop))?;
    let mut rows = table.rows;
    rows.push(time.duration("launch", "one block, 16 floats", 1e6, "us", String::new()));
    Ok(rows)
}

/// Whether this is the first convolution, whose input is float32 in every precision.
pub fn reads_images(conv: &Conv, job: &Job) -> bool {
    conv.in_channels == job.channels
}

/// A convolution in a few words: `64->128 3x3 s2 @32`.
pub fn detail(conv: &Conv) -> String {
    let Conv { in_channels, out_channels, kernel_height, kernel_width, stride, height, .. } = conv;
    format!("{in_channels}->{out_channels} {kernel_height}x{kernel_width} s{stride} @{height}")
}

struct Table<'a> {
    device: &'a Device,
    seconds: f64,
    batch: usize,
    peaks: &'a Peaks,
    rows: Vec<BenchRow>,
}

impl Table<'_> {
    fn add(&mut self, name: &str, detail: &str, layers: &[String], mut work: Work) -> Result<()> {
        // The first run makes what all later ones use.
        work()?;
        let launches = self.device.rehearsed(&mut work)?;
        let time = time_launches(self.device, self.seconds, vec![work])?[0];
        let cost = KernelCost::new(layers, &launches, time, self.peaks);
        let note = format!("{:.0} us, batch {}", time.median * 1e6, self.batch);
        let multiplies = name.starts_with("conv2d");
        let (amount, unit) = if multiplies { (cost.flop, "GFLOP/s") } else { (cost.bytes, "GB/s") };
        let row = time.rate(name, detail, amount as f64 * 1e-9, unit, note);
        self.rows.push(BenchRow { cost: Some(cost), ..row });
        Ok(())
    }

    /// The geometric mean of all rows so far.
    fn add_mean(&mut self, model: &str) {
        let mean = |of: fn(&BenchRow) -> f64| {
            (self.rows.iter().map(|row| of(row).ln()).sum::<f64>() / self.rows.len() as f64).exp()
        };
        let row = BenchRow {
            name: "conv2d geometric mean".into(),
            detail: format!("{model}, three passes"),
            value: mean(|row| row.value),
            p10: mean(|row| row.p10),
            p90: mean(|row| row.p90),
            unit: "GFLOP/s",
            note: format!("batch {}", self.batch),
            cost: None,
        };
        self.rows.push(row);
    }
}

/// A batch norm with ReLU on `[pixels, channels]`, forward and backward.
fn norm_passes<T: Numbers>(device: &Device, shape: [usize; 2]) -> Result<[Work; 2]> {
    let channels = [shape[1]];
    let of = |value| full(device, &channels, value);
    let (x, weight, bias) = (T::random(device, &shape)?, of(1.0)?, of(0.0)?);
    let (mut mean, mut var) = (of(0.0)?, of(1.0)?);
    let upstream = T::random(device, &shape)?;
    let mut forward = move |tape: &Tape, x: Var<T>, [weight, bias]: [Var; 2]| {
        let (mean, var) = (&mut mean, &mut var);
        batch_norm(tape, x, Norm { weight, bias, mean, var, mode: BnMode::Train, rows: &Rows::All }, true)
    };
    let tape = Tape::new(device);
    let leaves = [&weight, &bias].map(|parameter| tape.leaf(parameter.clone()));
    let out = forward(&tape, tape.leaf(x.clone()), leaves)?;
    let device = device.clone();
    Ok([
        Box::new(move || {
            let tape = Tape::new(&device);
            let parameters = [&weight, &bias].map(|parameter| tape.constant(parameter.clone()));
            forward(&tape, tape.constant(x.clone()), parameters).map(drop)
        }),
        Box::new(move || tape.backward_from(out, false, |_, _| Ok(upstream.clone())).map(drop)),
    ])
}

/// From features `[N,1,pixels,C]` to the loss, and back to the features: as in training, and as in an attack.
fn heads<T: Numbers>(device: &Device, features: [usize; 4]) -> Result<[Work; 2]> {
    const CLASSES: usize = 10;
    let (x, y): (_, Buffer<i32>) = (T::random(device, &features)?, labels(device, features[0], CLASSES)?);
    let weight = random(device, &[CLASSES, features[3]])?;
    let bias: Tensor = full(device, &[CLASSES], 0.0)?;
    let (device, classifier) =
        (device.clone(), Classifier { weight: weight.clone(), bias: Some(bias.clone()) });
    let (maps, labels) = (x.clone(), y.duplicate()?);
    Ok([
        Box::new(move || {
            let tape = Tape::new(&device);
            let [weight, bias] = [&weight, &bias].map(|parameter| tape.constant(parameter.clone()));
            let pooled = global_avg_pool(&tape, tape.leaf(x.clone()))?;
            let logits = linear(&tape, pooled, weight, Some(bias))?;
            tape.backward(cross_entropy(&tape, logits, &y, Reduction::Mean)?, None).map(drop)
        }),
        Box::new(move || classifier.gradient(&maps, Target::Labels(&labels), None).map(drop)),
    ])
}
