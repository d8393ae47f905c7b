//! `saddle kernels`: the kernels, and how NVRTC compiles them.

use std::path::Path;

use serde_json::{Value, json};

use super::flags::{Filter, JsonFlag};
use super::{Run, text};
use crate::device::cuda::check::{self, Row};
use crate::device::cuda::nvrtc;
use crate::device::kernels::SOURCES;
use crate::device::{Kernel, Source};
use crate::error::{Error, Result};

/// List the kernels, or compile them for any GPU.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle kernels
      all kernels
  saddle kernels conv
      the kernels with 'conv' in their names
  saddle kernels --compile sm_80,sm_90a
      registers, spills and shared memory of each kernel; needs NVRTC, but no GPU

--compile fails if a kernel does not compile, or if it spills registers although the header
of its file promises 'No spills'.")]
pub struct KernelsArgs {
    #[command(flatten)]
    filter: Filter,
    /// Compile with NVRTC for these comma-separated architectures
    #[arg(long, value_name = "ARCH,..", value_delimiter = ',')]
    compile: Vec<String>,
    #[command(flatten)]
    json: JsonFlag,
}

/// A source file and the selected kernels in it.
type Selection = (&'static Source, Vec<&'static Kernel>);

impl Run for KernelsArgs {
    fn run(self, _: String) -> Result<()> {
        let selections = select(&self.filter)?;
        if !self.compile.is_empty() {
            return compile(&selections, &self.compile, &self.json);
        }
        let kernels = selections.iter().flat_map(|(_, kernels)| kernels);
        self.json.print(|| kernels.map(|kernel| record(kernel)).collect::<Value>(), || list(&selections))
    }
}

/// The kernels that a filter selects, by source file.
///
/// Errors: [`Error::Unknown`] if there is none.
fn select(filter: &Filter) -> Result<Vec<Selection>> {
    let all = SOURCES.iter().flat_map(|source| source.kernels.iter().copied()).collect();
    let text = |kernel: &&Kernel| (kernel.name.to_owned(), format!("{} {}", kernel.source.file, kernel.doc));
    let selected = filter.select("kernel", all, text)?;
    let of = |source: &'static Source| {
        selected.iter().copied().filter(|kernel| std::ptr::eq(kernel.source, source)).collect()
    };
    let selections = SOURCES.iter().map(|source| (*source, of(source)));
    Ok(selections.filter(|(_, kernels): &Selection| !kernels.is_empty()).collect())
}

fn list(selections: &[Selection]) -> String {
    let mut lines = String::new();
    for (source, kernels) in selections {
        lines += &format!("kernels/{}\n", source.file);
        for kernel in kernels {
            lines += &text::wrapped(kernel.signature, "  ", "    ", text::WIDTH);
            if !kernel.doc.is_empty() {
                lines += &text::wrapped(kernel.doc, "      ", "      ", text::WIDTH);
            }
            let (cuda, host) = (kernel.threads.cuda, kernel.threads.host);
            lines += &format!("      Threads per block: {cuda} (CUDA), {host} (host).\n");
        }
        lines.push('\n');
    }
    let count: usize = selections.iter().map(|(_, kernels)| kernels.len()).sum();
    lines + &format!("{} in {}\n", text::counted(count, "kernel"), text::counted(selections.len(), "file"))
}

fn record(kernel: &Kernel) -> Value {
    json!({
        "name": kernel.name,
        "file": format!("kernels/{}", kernel.source.file),
        "signature": kernel.signature,
        "doc": kernel.doc,
        "threads": {"cuda": kernel.threads.cuda, "host": kernel.threads.host},
    })
}

/// Compiles the selected kernels for each of `archs` and prints the assembler's figures. All are tried before
/// an error is returned.
fn compile(selections: &[Selection], archs: &[String], json: &JsonFlag) -> Result<()> {
    nvrtc::version().map_err(|reason| Error::Device { device: "cuda".into(), reason })?;
    let headings = ["architecture", "file", "kernel", "registers", "spills", "shared", ""];
    let (mut rows, mut records, mut problems) = (vec![headings.map(String::from)], vec![], vec![]);
    let every = archs.iter().flat_map(|arch| selections.iter().map(move |selection| (arch, selection)));
    for (arch, (source, kernels)) in every {
        let arch = arch.trim();
        match check::compile(arch, source) {
            Ok(compiled) => {
                let selected = |row: &&Row| kernels.iter().any(|kernel| kernel.name == row.kernel);
                for row in compiled.iter().filter(selected) {
                    problems.extend(row.problem());
                    rows.push(cells(row));
                    records.push(json!(row));
                }
            }
            Err(error) => {
                text::print_note(&error.to_string());
                records.push(json!({"arch": arch, "file": source.file, "error": error.to_string()}));
                problems.push(format!("{} does not compile for {arch}", source.file));
            }
        }
    }
    json.print(|| records, || text::table(&rows, &[3, 4, 5]))?;
    if problems.is_empty() { Ok(()) } else { Err(Error::file(Path::new("kernels"), problems.join("; "))) }
}

fn cells(row: &Row) -> [String; 7] {
    let [registers, spills, shared] =
        [row.registers, row.spill_bytes, row.shared_bytes].map(|number| number.to_string());
    let note = if row.broken_promise { "its file promises no spills" } else { "" };
    [row.arch.clone(), row.file.into(), row.kernel.into(), registers, spills, shared, note.into()]
}
