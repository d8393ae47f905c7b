//! `saddle bench`: the speed of kernels and training steps.

use clap::ValueEnum;
use serde_json::json;

use super::flags::{DeviceFlag, JsonFlag};
use super::profile::{percent, roof, spaced};
use super::{Run, text};
use crate::bench::kernels::{KernelCost, KernelsRequest, kernels};
use crate::bench::tune::{Tuned, TunedPass, tune};
use crate::bench::work::{BATCH, jobs};
use crate::bench::{self, BenchRow};
use crate::device::{Device, Peaks};
use crate::error::{Error, Result};
use crate::inspect::words::time;
use crate::run::provenance::Provenance;

/// Measure the speed of kernels and of whole training steps.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle bench
      everything, on the default device
  saddle bench step --device host
      training steps on the CPU
  saddle bench kernels --model wrn-28-10 --batch 256 --precision bf16
      every convolution of a network: which kernel runs, and what share of the roofline it reaches
  saddle bench kernels --tune --model wrn-28-10 --batch 256
      tries the tiles of the tensor-core kernels on this GPU; jobs of this batch take the fastest

A figure is the median of its repetitions after a warm-up, followed by the 10th and the 90th
percentile. Nothing else should run on the machine at the same time.")]
pub struct BenchArgs {
    /// Kernels at typical sizes, whole training steps, or the parts of these [default: all]
    #[arg(value_name = "WHAT")]
    group: Option<Group>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Images of a batch [default: 128; ResNet-18's steps on the host: 32]
    #[arg(long, value_name = "COUNT")]
    batch: Option<usize>,
    /// step: comma-separated methods [default: pgd-at,raat]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    method: Vec<String>,
    /// The architecture ('saddle models' lists them) [default: resnet18; step, parts: resnet-mini, too]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// kernels, step: the numbers that convolutions multiply: auto, f32, tf32, bf16 [default: f32; --tune: auto]
    #[arg(long, value_name = "WORD")]
    precision: Option<String>,
    /// kernels: measure the tiles of tensor-core kernels, and keep the fastest in the cache folder
    #[arg(long)]
    tune: bool,
    /// Seconds per measurement
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    seconds: f64,
    #[command(flatten)]
    json: JsonFlag,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    Kernels,
    Step,
    Parts,
}

/// What was measured.
#[derive(Default)]
struct Figures {
    rows: Vec<BenchRow>,
    /// What the kernels are compared with.
    peaks: Option<Peaks>,
    /// The network, the batch and the precision of the kernels.
    job: String,
}

impl Run for BenchArgs {
    fn run(self, command_line: String) -> Result<()> {
        let BenchArgs { batch, seconds, .. } = self;
        if !(seconds > 0.0 && seconds.is_finite()) {
            return Err(Error::value("seconds", seconds, "must be above 0"));
        }
        if batch == Some(0) {
            return Err(Error::value("batch", 0, "must be 1 or more"));
        }
        let group = |groups: &[Group]| self.group.is_none_or(|chosen| groups.contains(&chosen));
        for (flag, given, used) in [
            ("method", !self.method.is_empty(), group(&[Group::Step])),
            ("precision", self.precision.is_some(), group(&[Group::Kernels, Group::Step])),
            ("tune", self.tune, self.group == Some(Group::Kernels)),
        ] {
            if given && !used {
                let chosen = self.group.and_then(|group| group.to_possible_value());
                let chosen = chosen.map_or("all".to_owned(), |value| value.get_name().to_owned());
                return Err(Error::value("bench", chosen, format!("takes no --{flag}")));
            }
        }
        let device = self.device.choice()?.open()?;
        if self.tune {
            let tuned = tune(&device, &self.kernels_request(&device, "auto")?)?;
            let provenance = Provenance::now(&device, &command_line);
            return self.json.print(
                || json!({"device": device.describe(), "provenance": provenance, "tuned": tuned}),
                || tuned_page(&device, &tuned),
            );
        }
        let figures = self.measure(&device)?;
        let provenance = Provenance::now(&device, &command_line);
        let record = || {
            let Provenance { device: name, commit, .. } = &provenance;
            let Figures { rows, peaks, .. } = &figures;
            let tuning = device.tuning().map(|(choices, file)| json!({"choices": choices, "file": file}));
            json!({
                "device": name, "commit": commit, "provenance": provenance, "roofline": peaks,
                "tuning": tuning, "rows": rows,
            })
        };
        self.json.print(record, || page(&device, &figures))
    }
}

impl BenchArgs {
    fn kernels_request(&self, device: &Device, precision: &str) -> Result<KernelsRequest> {
        let precision = bench::precision(device, self.precision.as_deref().unwrap_or(precision))?;
        let job = jobs(Some(self.model.as_deref().unwrap_or("resnet18")))?[0];
        Ok(KernelsRequest { job, batch: self.batch.unwrap_or(BATCH), precision, seconds: self.seconds })
    }

    fn measure(&self, device: &Device) -> Result<Figures> {
        let &BenchArgs { batch, seconds, .. } = self;
        let (mut figures, model) = (Figures::default(), self.model.as_deref());
        let precision = self.precision.as_deref().unwrap_or(bench::DEFAULT_PRECISION);
        let wanted = |group| self.group.is_none_or(|chosen| chosen == group);
        if wanted(Group::Kernels) {
            let request = self.kernels_request(device, precision)?;
            let KernelsRequest { job, batch, precision, .. } = &request;
            figures.job = format!("{}, batch {batch}, {precision}", job.model);
            let peaks = figures.peaks.insert(device.peaks()?);
            figures.rows.extend(kernels(device, &request, peaks)?);
        }
        if wanted(Group::Step) {
            figures.rows.extend(bench::step(device, seconds, batch, &self.method, model, precision)?);
        }
        if wanted(Group::Parts) {
            figures.rows.extend(bench::parts(device, seconds, batch, model)?);
        }
        Ok(figures)
    }
}

fn page(device: &Device, Figures { rows, peaks, job }: &Figures) -> String {
    let mut page = format!("{}\n", device.describe());
    if let Some(peaks) = peaks {
        page += &format!("{job}\n{}{}", roof(peaks), tiles(device));
        page += &format!("\n{}\n", kernel_table(rows));
    }
    let cells = |row: &BenchRow| {
        let spread = format!("{} .. {}", text::number(row.p10), text::number(row.p90));
        let value = text::number(row.value);
        [row.name.clone(), row.detail.clone(), value, spread, row.unit.into(), row.note.clone()]
    };
    let others = rows.iter().filter(|row| row.cost.is_none()).map(cells);
    page + &text::table(&others.collect::<Vec<_>>(), &[2, 3])
}

/// Where the tiles of tensor-core kernels come from.
fn tiles(device: &Device) -> String {
    match device.tuning() {
        Some((0, _)) => {
            let count = device.multiprocessors();
            format!("tiles: estimated for {count} multiprocessors; 'saddle bench kernels --tune' measures\n")
        }
        Some((choices, file)) => {
            format!("tiles: {} measured, in {}\n", text::counted(choices, "choice"), file.display())
        }
        None => String::new(),
    }
}

fn kernel_table(rows: &[BenchRow]) -> String {
    let headings = ["", "", "layer", "kernel", "time", "p10 .. p90", "FLOP/s", "B/s", "roofline", "bound by"];
    let mut table = vec![headings.map(String::from)];
    for row in rows {
        let Some(cost) = &row.cost else { continue };
        let KernelCost { layers, kernel, kernels, seconds: [p10, median, p90], .. } = cost;
        let rate = |amount: u64| match amount {
            0 => String::new(),
            _ => spaced(amount as f64 / median).trim_end().to_owned(),
        };
        let and = |count: usize| if count > 1 { format!(" + {}", count - 1) } else { String::new() };
        table.push([
            row.name.clone(),
            row.detail.clone(),
            layers.first().map(|first| format!("{first}{}", and(layers.len()))).unwrap_or_default(),
            format!("{kernel}{}", and(kernels.len())),
            time(*median),
            format!("{} .. {}", time(*p10), time(*p90)),
            rate(cost.flop),
            rate(cost.bytes),
            percent(cost.roof()),
            cost.binding.to_string(),
        ]);
    }
    text::table(&table, &[4, 5, 6, 7, 8])
}

fn tuned_page(device: &Device, Tuned { passes, file }: &Tuned) -> String {
    let headings = ["pass", "", "layer", "times", "fastest", "expected"].map(String::from);
    let row = |tuned: &TunedPass| {
        let times = tuned.times.iter().map(|(tile, seconds)| format!("{tile} {}", time(*seconds)));
        [
            tuned.pass.clone(),
            tuned.detail.clone(),
            tuned.layers.first().cloned().unwrap_or_default(),
            times.collect::<Vec<_>>().join(", "),
            tuned.fastest.clone(),
            tuned.expected.clone(),
        ]
    };
    let rows: Vec<_> = [headings].into_iter().chain(passes.iter().map(row)).collect();
    format!("{}\n{}{}", device.describe(), text::table(&rows, &[]), text::written(Some(file)))
}
