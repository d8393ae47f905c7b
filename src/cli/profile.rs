//! `saddle profile`: where the time of a training step goes; and `saddle train --explain`: its launches.

use serde_json::json;

use super::flags::{KeyFlags, SetFlag, TrainKeys};
use super::{Run, text, train};
use crate::device::{Device, Peaks};
use crate::error::{Error, Result};
use crate::inspect::words::{bytes, si, time};
use crate::profile::explain::{Explanation, Row, Section, explain};
use crate::profile::memory::ClassBytes;
use crate::profile::table::{Profile, Sum, profile};
use crate::run::provenance::Provenance;
use crate::train::TrainJob;

const EXAMPLES: &str = "\
Examples:
  saddle profile
      a step of PGD-AT on images like the digits
  saddle profile pgd-at-cifar10-resnet18 --device cuda --steps 10
      a step of a recipe; no data are needed
  saddle profile --dataset cifar10 --model wrn-28-10 --method trades --trace steps.json
      any job that 'saddle train' takes; the same steps for ui.perfetto.dev

The images are random, with the sizes of the data set; the step is one of the last epoch, so
that everything that a method begins late has begun. Two steps warm up. docs/profiling.md says
what the columns mean. Nothing else should run on the machine at the same time.";

/// Measure where the time of a training step goes, by phase, kernel and layer, against the roofline.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ProfileArgs {
    /// The name of a recipe ('saddle recipes' lists them) or a .toml file; flags override its keys
    recipe: Option<String>,
    #[command(flatten)]
    keys: KeyFlags<TrainKeys>,
    #[command(flatten)]
    _set: SetFlag,
    /// Steps that are measured, after two that warm up
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = "Running")]
    steps: usize,
    /// Print JSON
    #[arg(long, help_heading = "Running")]
    json: bool,
}

impl Run for ProfileArgs {
    fn run(self, command_line: String) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::value("--steps", 0, "must be 1 or more"));
        }
        let job = train::job(self.recipe.as_deref(), &self.keys.settings()?, command_line)?;
        let device = job.config.device.open()?;
        let profile = profile(&device, &job.config, self.steps)?;
        if self.json {
            let provenance = Provenance::now(&device, &job.command);
            return text::print_json(&json!({
                "job": title(&job), "provenance": provenance, "profile": profile,
            }));
        }
        text::print(&page(&profile, &job, &device))
    }
}

/// The method, the network and the batch of a job.
fn title(TrainJob { config, .. }: &TrainJob) -> String {
    format!("{}, {}, images of {}, batch {}", config.method, config.model, config.dataset, config.batch)
}

pub(super) fn roof(roofline: &Peaks) -> String {
    let Peaks { flops, tensor, bandwidth, origin } = roofline;
    let tensor = tensor.map(|[tf32, bf16]| format!("{}tf32, {}bf16, ", spaced(tf32), spaced(bf16)));
    let [flops, bandwidth] = [flops, bandwidth].map(|rate| spaced(*rate));
    format!("roofline: {flops}FLOP/s float32, {}{bandwidth}B/s ({origin})\n", tensor.unwrap_or_default())
}

/// A number and its prefix, with a space before a unit: `1.23 G`.
pub(super) fn spaced(value: f64) -> String {
    let text = si(value);
    if text.contains(' ') { text } else { text + " " }
}

/// The headings of [`cells`].
const HEADINGS: [&str; 6] = ["launches", "time", "share", "GFLOP/s", "GB/s", "roofline"];

/// A sum's name, and its numbers against `whole` seconds.
fn cells(sum: &Sum, whole: f64) -> Vec<String> {
    let rate = |amount: u64| match amount {
        0 => String::new(),
        _ => text::number(amount as f64 / sum.seconds * 1e-9),
    };
    vec![
        sum.name.clone(),
        sum.launches.to_string(),
        time(sum.seconds),
        percent(sum.seconds / whole),
        rate(sum.flop),
        rate(sum.bytes),
        percent(sum.roof() / 100.0),
    ]
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// At most this many layers are printed; the record has all.
const LAYERS: usize = 12;

fn page(profile: &Profile, job: &TrainJob, device: &Device) -> String {
    let Profile { steps, step_seconds, range, roofline, phases, kernels, layers, total } = profile;
    let whole = *step_seconds;
    let table = |name: &str, sums: &[Sum]| {
        let headings = [name].into_iter().chain(HEADINGS).map(String::from).collect();
        let rows: Vec<Vec<String>> =
            [headings].into_iter().chain(sums.iter().map(|sum| cells(sum, whole))).collect();
        text::table(&rows, &[1, 2, 3, 4, 5, 6])
    };
    let idle = (whole - total.seconds).max(0.0);
    let mut by_phase = phases.clone();
    by_phase.push(total.clone());
    let shown = layers.len().min(LAYERS);
    let more = match layers.len() - shown {
        0 => String::new(),
        more => format!("... and {}, with --json\n", text::counted(more, "more layer")),
    };
    format!(
        "{}\n{}: {} a step, the median of {} ({} .. {}); {} ({}) outside of kernels\n{}\n{}\n{}\n{}{more}",
        title(job),
        device.describe(),
        time(whole),
        text::counted(*steps, "step"),
        time(range[0]),
        time(range[1]),
        time(idle),
        percent(idle / whole),
        roof(roofline),
        table("phase", &by_phase),
        table("kernel", kernels),
        table("layer", &layers[..shown]),
    )
}

/// Explains a step of a job, and prints that.
pub fn print_explanation(job: &TrainJob, as_json: bool) -> Result<()> {
    let device = job.config.device.open()?;
    let explanation = explain(&device, &job.config)?;
    if as_json {
        let provenance = Provenance::now(&device, &job.command);
        return text::print_json(&json!({
            "job": title(job), "provenance": provenance, "explanation": explanation,
        }));
    }
    text::print(&explained(&explanation, job, &device))
}

fn explained(explanation: &Explanation, job: &TrainJob, device: &Device) -> String {
    let Explanation { sections, phases, total, roofline, memory, peak, held } = explanation;
    let mut page = format!("A step of {} on {}; nothing was run\n", title(job), device.describe());
    page += &roof(roofline);
    page += &format!("\n{}", text::table(&launches(sections), &[0, 4, 5, 6, 8]));
    let headings = ["phase", "launches", "bytes", "FLOP", "at least", "share"].map(String::from);
    let sums = phases.iter().chain([total]).map(|sum| {
        let flop = if sum.flop == 0 { String::new() } else { si(sum.flop as f64) };
        let share = percent(sum.bound / total.bound);
        [sum.name.clone(), sum.launches.to_string(), bytes(sum.bytes), flop, time(sum.bound), share]
    });
    page += &format!(
        "\n{}",
        text::table(&[headings].into_iter().chain(sums).collect::<Vec<_>>(), &[1, 2, 3, 4, 5])
    );
    let headings = ["memory", "at the peak", "at most"].map(String::from);
    let classes = memory
        .iter()
        .map(|ClassBytes { class, at_peak, most }| [class.to_string(), bytes(*at_peak), bytes(*most)]);
    let all = [("all buffers", peak), ("allocated", held)];
    let all = all.map(|(name, total)| [name.to_owned(), bytes(*total), String::new()]);
    let rows: Vec<_> = [headings].into_iter().chain(classes).chain(all).collect();
    page + &format!("\n{}", text::table(&rows, &[1, 2]))
}

/// The table of launches: a line for each section, and below it its rows with their numbers in the step.
fn launches(sections: &[Section]) -> Vec<Vec<String>> {
    let headings = ["", "kernel", "layer", "shape", "read", "written", "FLOP", "", "at least", "bound by"];
    let mut table = vec![headings.map(String::from).to_vec()];
    for section in sections {
        let steps = match section.attack_steps {
            Some([first, last]) if first < last => format!(", steps {first}..{last}:"),
            Some([step, _]) => format!(", step {step}:"),
            None => ":".into(),
        };
        table.push(vec![String::new(), format!("{}{steps}", section.phase)]);
        let mut number = section.first;
        for row in &section.rows {
            table.push(line(row, number));
            number += row.launches;
        }
    }
    table
}

fn line(row: &Row, number: u64) -> Vec<String> {
    let times = if row.launches == 1 { String::new() } else { format!(" x {}", row.launches) };
    vec![
        number.to_string(),
        format!("  {}{times}", row.kernel),
        row.layer.clone().unwrap_or_default(),
        row.shape.clone(),
        bytes(row.read),
        bytes(row.written),
        row.flop.map(|flop| si(flop as f64)).unwrap_or_default(),
        row.precision.to_string(),
        time(row.bound),
        row.binding.to_string(),
    ]
}
