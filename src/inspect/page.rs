//! The page of a report.

use std::path::Path;

use minijinja::{Environment, context};

use super::report::{KernelReport, Report};
use super::source::{SourceFile, SourceLine};
use super::words::{HEADINGS, KERNEL_HEADINGS, LINE_HEADINGS, time};
use crate::error::{Error, Result};

impl Report {
    /// The page as HTML that needs no other file, no network and no script.
    pub fn to_html(&self) -> Result<String> {
        let kernel = |kernel: &KernelReport| {
            let longest = kernel.bounds.limits.first().map_or(1.0, |limit| limit.seconds);
            let bars: Vec<_> = kernel
                .bounds
                .limits
                .iter()
                .zip(kernel.limits())
                .map(|(limit, (name, text))| {
                    let (width, estimate) = (100.0 * limit.seconds / longest, limit.resource.is_estimate());
                    context! { name, text, width, estimate }
                })
                .collect();
            context! { title => kernel.title(), facts => kernel.facts(), bars }
        };
        let line = |line: &SourceLine| {
            let heat = (line.share / super::source::HOT).min(1.0);
            let (text, cells) = (line.text.as_str(), line.cells());
            context! { number => line.number, text, cells, hot => line.is_hot(), heat }
        };
        let file = |file: &SourceFile| {
            context! { name => file.file.as_str(), lines => file.lines.iter().map(line).collect::<Vec<_>>() }
        };
        let gpu = self.gpu;
        let facts: Vec<(String, String)> = [
            ("GPU", format!("{}, {} multiprocessors, {} MHz", gpu.title, gpu.multiprocessors, gpu.boost_mhz)),
            ("figures from", gpu.source.to_owned()),
            (
                "at least",
                format!("{} with data in DRAM, {} with data in L2", time(self.cold), time(self.warm)),
            ),
        ]
        .into_iter()
        .chain(self.provenance.facts())
        .map(|(name, text)| (name.to_owned(), text))
        .collect();
        let page = context! {
            title => self.title(),
            sum => self.sum(),
            method => self.method(),
            facts,
            kernel_headings => KERNEL_HEADINGS,
            by_kernel => self.by_kernel(),
            headings => HEADINGS,
            rows => self.kernels.iter().map(KernelReport::cells).collect::<Vec<_>>(),
            kernels => self.kernels.iter().map(kernel).collect::<Vec<_>>(),
            line_headings => LINE_HEADINGS,
            files => self.lines.iter().map(file).collect::<Vec<_>>(),
        };
        let html = Environment::new().render_named_str("inspect.html", include_str!("inspect.html"), page);
        html.map_err(|error| {
            Error::file(Path::new("inspect.html"), format!("the page cannot be rendered: {error}"))
        })
    }
}
