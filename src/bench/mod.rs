//! Timing of kernels and of whole training steps: `saddle bench` and `cargo bench`.
//!
//! Every figure is the median of the repetitions that fit into the time after a warm-up, with the 10th and
//! the 90th percentile. Inputs are random numbers, because a GPU draws less power and runs faster on constant
//! ones.

pub mod kernels;
pub mod step_kernels;
pub mod timing;
pub mod tune;
pub mod work;

use crate::config::Config;
use crate::device::{Device, Precision};
use crate::error::Result;
use kernels::KernelCost;
use serde::Serialize;
use timing::{Timing, time, time_each};
use work::{Work, jobs};

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
    /// Of kernels: what ran, and its bound.
    #[serde(flatten)]
    pub cost: Option<KernelCost>,
}

/// What steps are measured in unless asked otherwise.
pub const DEFAULT_PRECISION: &str = "f32";

/// The precision that a setting of a job chooses on a device. Errors: there is no such word.
pub fn precision(device: &Device, word: &str) -> Result<Precision> {
    let mut config = Config::default();
    config.apply(&[("precision", word)])?;
    Ok(config.precision.on(device))
}

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

impl Timing {
    /// The row of a rate: `amount` of the unit's numerator per repetition.
    fn rate(self, name: &str, detail: &str, amount: f64, unit: &'static str, note: String) -> BenchRow {
        let [p10, value, p90] = [self.p90, self.median, self.p10].map(|seconds| amount / seconds);
        BenchRow { name: name.into(), detail: detail.into(), value, p10, p90, unit, note, cost: None }
    }

    /// The row of a duration, in a unit of which a second has `scale`.
    fn duration(self, name: &str, detail: &str, scale: f64, unit: &'static str, note: String) -> BenchRow {
        let [p10, value, p90] = [self.p10, self.median, self.p90].map(|seconds| scale * seconds);
        BenchRow { name: name.into(), detail: detail.into(), value, p10, p90, unit, note, cost: None }
    }
}
