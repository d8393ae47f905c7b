//! `saddle inspect`: what kernels cost a GPU, without one.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::flags::JsonFlag;
use super::{Run, text};
use crate::device::Coverage;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::inspect::operation::{OPERATIONS, Takes};
use crate::inspect::report::{KernelReport, Report};
use crate::inspect::source::{SourceFile, SourceLine};
use crate::inspect::words::{HEADINGS, KERNEL_HEADINGS, LINE_HEADINGS, NUMBERS};
use crate::inspect::{Request, Settings, gpu, inspect};

/// The choices of lines.
const LINES: [&str; 3] = ["hot", "all", "none"];

/// More kernels than this are a table alone.
const DETAILED: usize = 4;

/// Count what kernels cost a GPU, and bound their time, without one.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct InspectArgs {
    /// An operation, or a kernel by its name ('saddle kernels' lists them)
    #[arg(value_name = "WHAT")]
    what: String,
    /// The GPU
    #[arg(long, value_name = "NAME", default_value = "h200")]
    gpu: String,
    /// Sizes of an operation, in the form that the list below gives
    #[arg(long, value_name = "SHAPE")]
    shape: Option<String>,
    /// A kernel: the operation in which it is looked at [default: the first that launches it]
    #[arg(long = "in", value_name = "OPERATION")]
    within: Option<String>,
    /// Operations on a network: resnet18, resnet-mini or wrn-28-10 [default: resnet18]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Operations on a network: images of a batch [default: 128]
    #[arg(long, value_name = "COUNT")]
    batch: Option<usize>,
    /// step: the training method [default: pgd-at]
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// attack: the attack [default: apgd-ce]
    #[arg(long, value_name = "NAME")]
    attack: Option<String>,
    /// Blocks of each different launch that run and are counted, or 'all', which computes values too
    #[arg(long, value_name = "COUNT", default_value = "32")]
    blocks: String,
    /// Lines of source to print
    #[arg(long, value_name = "WHICH", default_value = "hot", value_parser = PossibleValuesParser::new(LINES))]
    lines: String,
    /// Write a page with everything: table, bounds, and all lines of source
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    json: JsonFlag,
}

/// Examples, and the operations with their sizes.
fn help() -> String {
    let operations = OPERATIONS.iter().map(|operation| {
        let sizes = match &operation.takes {
            Takes::Shape(grammar, default, _) => format!("--shape {} [{default}]", grammar.form()),
            Takes::Job(own, _) => {
                let own = own.map(|flag| format!(" --{flag}")).unwrap_or_default();
                format!("--model --batch{own}")
            }
        };
        format!("  {:<24}{}\n  {:<24}{sizes}\n", operation.name, operation.about, "")
    });
    let gpus: Vec<&str> = ptx::gpu::GPUS.iter().map(|gpu| gpu.name).collect();
    format!(
        "\
Examples:
  saddle inspect conv2d-forward --shape 128x16x16x128,out=256,stride=2
      counts, occupancy, bounds and the lines that cost most; N, height, width, channels
  saddle inspect conv2d_input_grad --gpu a100-80gb --html page.html
      one kernel, and a page with its whole source
  saddle inspect step --model resnet18 --batch 128 --method pgd-at
      every launch of a training step, by its bound

Operations:
{}
GPUs: {}

Needs NVRTC, but no GPU. A bound is a time below which the kernel cannot go; it is no
prediction of the time that it takes.",
        operations.collect::<String>(),
        gpus.join(", ")
    )
}

impl Run for InspectArgs {
    fn run(self, command_line: String) -> Result<()> {
        let InspectArgs { what, within, shape, model, batch, method, attack, .. } = self;
        let coverage = match self.blocks.as_str() {
            "all" => Coverage::All,
            count => {
                let blocks = count.parse().ok().filter(|blocks| *blocks > 0).map(Coverage::Sample);
                blocks
                    .ok_or_else(|| Error::value("--blocks", count, "must be a number from 1 on, or 'all'"))?
            }
        };
        let gpu = gpu(&self.gpu)?;
        let settings = Settings { shape, model, batch, method, attack };
        let report = inspect(&Request { what, within, settings }, gpu, coverage, &command_line)?;
        if let Some(path) = &self.html {
            write_atomic(path, report.to_html()?.as_bytes())?;
        }
        let written = text::written(self.html.as_deref());
        self.json.print(|| json!(report), || page(&report, &self.lines) + &written)
    }
}

fn page(report: &Report, lines: &str) -> String {
    let mut page = format!("{}\n\n", report.title());
    page += &text::wrapped(&report.sum(), "", "", text::WIDTH);
    page += &text::wrapped(&report.method(), "", "", text::WIDTH);
    let rows = report.kernels.iter().map(KernelReport::cells);
    let rows: Vec<_> = [HEADINGS.map(String::from)].into_iter().chain(rows).collect();
    page += &format!("\n{}", text::table(&rows, &NUMBERS));
    if report.kernels.len() > DETAILED {
        let rows: Vec<_> =
            [KERNEL_HEADINGS.map(String::from)].into_iter().chain(report.by_kernel()).collect();
        page += &format!("\n{}", text::table(&rows, &[1, 2, 3]));
    } else {
        for kernel in &report.kernels {
            page += &format!("\n{}\n", kernel.title());
            for (name, value) in kernel.facts() {
                page += &text::wrapped(&value, &format!("  {name:<17}"), &" ".repeat(19), text::WIDTH);
            }
            for (name, value) in kernel.limits() {
                page += &format!("    {name:<21}{value}\n");
            }
        }
    }
    let shown: fn(&SourceLine) -> bool = match lines {
        "none" => return page,
        "all" => SourceLine::ran,
        _ => SourceLine::is_notable,
    };
    report.lines.iter().for_each(|file| page += &source(file, shown));
    page
}

/// The lines of a file that are shown; `...` stands for the others, `#` marks the hot ones.
fn source(file: &SourceFile, shown: fn(&SourceLine) -> bool) -> String {
    let headings = [file.file.clone()].into_iter().chain(LINE_HEADINGS.map(String::from));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut last = 0;
    for line in file.lines.iter().filter(|line| shown(line)) {
        if last > 0 && line.number > last + 1 {
            rows.push(vec!["...".into()]);
        }
        last = line.number;
        let mark = if line.is_hot() { "#" } else { "" };
        let cells = [line.number.to_string()].into_iter().chain(line.cells());
        rows.push(cells.chain([mark.into(), line.text.clone()]).collect());
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.insert(0, headings.collect());
    format!("\n{}", text::table(&rows, &[1, 2, 3, 4, 5, 6]))
}
