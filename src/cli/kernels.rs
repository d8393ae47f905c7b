//! `saddle kernels`: every kernel, and what NVRTC makes of it.

use std::path::Path;

use serde_json::{Value, json};

use super::text;
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
      all of them
  saddle kernels conv
      those with 'conv' in their name or file
  saddle kernels --compile sm_80,sm_90a
      registers, spills and shared memory of each; needs NVRTC, but no GPU

--compile fails when a kernel does not compile, or spills although the header of its
file promises 'No spills'.")]
pub struct Arguments {
    /// Only kernels whose name or file contains this
    filter: Option<String>,
    /// Compile with NVRTC for these architectures
    #[arg(long, value_name = "ARCH,..", value_delimiter = ',')]
    compile: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A source and those of its kernels that were asked for.
type Wanted = (&'static Source, Vec<&'static Kernel>);

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let wanted = wanted(arguments.filter.as_deref())?;
    if !arguments.compile.is_empty() {
        return compile(&wanted, &arguments.compile, arguments.json);
    }
    if arguments.json {
        let kernels = wanted.iter().flat_map(|(_, kernels)| kernels.iter().map(|kernel| described(kernel)));
        return text::print_json(&kernels.collect::<Vec<_>>());
    }
    let mut lines = String::new();
    for (source, kernels) in &wanted {
        lines += &format!("kernels/{}\n", source.file);
        for kernel in kernels {
            lines += &text::wrapped(kernel.signature, "  ", "    ", text::WIDTH);
            if !kernel.doc.is_empty() {
                lines += &text::wrapped(kernel.doc, "      ", "      ", text::WIDTH);
            }
            let (cuda, host) = (kernel.threads.cuda, kernel.threads.host);
            lines += &format!("      Threads of a block: {cuda} (CUDA), {host} (host).\n");
        }
        lines.push('\n');
    }
    let count = wanted.iter().map(|(_, kernels)| kernels.len()).sum::<usize>();
    text::print(&format!("{lines}{count} kernels in {} files\n", wanted.len()))
}

/// The kernels whose name or file contains `filter`, by source.
///
/// Errors: [`Error::Unknown`] when there is none.
fn wanted(filter: Option<&str>) -> Result<Vec<Wanted>> {
    let filter = filter.unwrap_or_default().to_lowercase();
    let matches =
        |kernel: &&&'static Kernel| kernel.name.contains(&filter) || kernel.source.file.contains(&filter);
    let wanted: Vec<Wanted> = SOURCES
        .iter()
        .map(|source| (*source, source.kernels.iter().filter(matches).copied().collect::<Vec<_>>()))
        .filter(|(_, kernels)| !kernels.is_empty())
        .collect();
    if wanted.is_empty() {
        let names = SOURCES.iter().flat_map(|source| source.kernels.iter().map(|kernel| kernel.name));
        return Err(Error::unknown("kernel", &filter, names));
    }
    Ok(wanted)
}

fn described(kernel: &Kernel) -> Value {
    json!({
        "name": kernel.name, "file": format!("kernels/{}", kernel.source.file), "signature": kernel.signature, "doc": kernel.doc,
        "threads": {"cuda": kernel.threads.cuda, "host": kernel.threads.host},
    })
}

/// Compiles the sources of `wanted` for each of `archs` and prints what the assembler said; an error comes
/// after all of them were tried.
fn compile(wanted: &[Wanted], archs: &[String], json: bool) -> Result<()> {
    nvrtc::version().map_err(|reason| Error::Device { device: "cuda".into(), reason })?;
    let mut rows = vec![
        ["architecture", "file", "kernel", "registers", "spills", "shared", ""].map(String::from).to_vec(),
    ];
    let mut records = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for (arch, (source, kernels)) in
        archs.iter().flat_map(|arch| wanted.iter().map(move |wanted| (arch.trim(), wanted)))
    {
        match check::compile(arch, source) {
            Ok(found) => found.into_iter().filter(|row| kernels.iter().any(|kernel| kernel.name == row.kernel)).for_each(|row| {
                problems.extend(row.problem());
                rows.push(cells(&row));
                records.push(json!({
                    "arch": row.arch, "file": row.file, "kernel": row.kernel, "registers": row.registers,
                    "spill_bytes": row.spill_bytes, "shared_bytes": row.shared_bytes, "broken_promise": row.broken_promise,
                }));
            }),
            Err(error) => {
                text::tell(&error.to_string());
                records.push(json!({"arch": arch, "file": source.file, "error": error.to_string()}));
                problems.push(format!("{} does not compile for {arch}", source.file));
            }
        }
    }
    if json {
        text::print_json(&records)?
    } else {
        text::print(&text::table(&rows, &[3, 4, 5]))?
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::file(Path::new("kernels"), problems.join("; "))) }
}

fn cells(row: &Row) -> Vec<String> {
    let note = if row.broken_promise { "its file promises no spills" } else { "" };
    let numbers = [row.registers, row.spill_bytes, row.shared_bytes].map(|number| number.to_string());
    [&[&row.arch, row.file, row.kernel].map(String::from)[..], &numbers, &[note.to_owned()]].concat()
}
