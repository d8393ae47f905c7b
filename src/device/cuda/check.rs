//! Compiles every kernel without a GPU, for any architecture, and checks the promises of their files.

use super::nvrtc::{self, Arch};
use crate::device::kernels::SOURCES;
use crate::device::{Kernel, Source};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// The assembler's report on one kernel for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub arch: String,
    /// The file in `kernels/`.
    pub file: &'static str,
    pub kernel: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread stores to and loads from memory because registers ran out.
    pub spill_bytes: u32,
    /// Shared memory of a block, static and dynamic.
    pub shared_bytes: u32,
    /// Whether it spills although the header of its file promises that nothing does.
    pub broken_promise: bool,
}

impl Row {
    /// The message about a broken promise.
    pub fn problem(&self) -> Option<String> {
        let Row { file, arch, kernel, spill_bytes, .. } = self;
        self.broken_promise
            .then(|| format!("{kernel} spills {spill_bytes} bytes on {arch}, although {file} promises none"))
    }
}

/// Compiles all sources for each of `archs` (such as `sm_90a`) and returns a row for each kernel.
///
/// Errors: NVRTC is missing; a source does not compile; the assembler reports nothing about a kernel; a
/// kernel spills although the header of its file promises none. The error names all that are wrong.
pub fn compile_all(archs: &[&str]) -> Result<Vec<Row>> {
    nvrtc::version().map_err(|reason| Error::Device { device: "cuda".into(), reason })?;
    let jobs: Vec<(&str, &Source)> =
        archs.iter().flat_map(|arch| SOURCES.iter().map(move |source| (*arch, *source))).collect();
    let compiled: Vec<Result<Vec<Row>>> =
        jobs.par_iter().map(|(arch, source)| compile(arch, source)).collect();
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for (outcome, (arch, source)) in compiled.into_iter().zip(&jobs) {
        match outcome {
            Ok(found) => {
                problems.extend(found.iter().filter_map(Row::problem));
                rows.extend(found);
            }
            Err(error) => problems.push(format!("{} for {arch}: {error}", source.file)),
        }
    }
    if problems.is_empty() { Ok(rows) } else { Err(Error::file("kernels".as_ref(), problems.join("; "))) }
}

/// Compiles one source for one architecture: a row for each of its kernels.
///
/// Errors: it does not compile; the assembler reports nothing about a kernel.
pub fn compile(arch: &str, source: &'static Source) -> Result<Vec<Row>> {
    let resources = nvrtc::compile(source, &Arch::named(arch))?.resources;
    let row = |kernel: &'static Kernel| {
        let name = kernel.name;
        let found = resources.iter().find(|r| r.kernel == name && r.registers > 0);
        let found = found.ok_or_else(|| Error::Cuda {
            call: "nvrtcCompileProgram",
            reason: format!("nothing was reported about {name}"),
        })?;
        let (registers, spill_bytes, shared_bytes) =
            (found.registers, found.spill_bytes, found.shared_bytes + kernel.dynamic.cuda as u32);
        let broken_promise = spill_bytes > 0 && promises_no_spills(source);
        Ok(Row {
            file: source.file,
            arch: arch.into(),
            kernel: name,
            registers,
            spill_bytes,
            shared_bytes,
            broken_promise,
        })
    };
    source.kernels.iter().map(|kernel| row(kernel)).collect()
}

/// Whether the comment at the head of a source says that nothing spills.
fn promises_no_spills(source: &Source) -> bool {
    source.text.lines().take_while(|line| line.starts_with("//")).any(|line| line.contains("No spills"))
}
