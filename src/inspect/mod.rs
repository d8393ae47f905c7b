//! What kernels cost a GPU, found without one: launches of an operation or of a training step run as PTX on
//! the CPU and are counted; ptxas says what registers they take; and the figures of a named GPU give bounds.

pub mod operation;
mod page;
pub mod report;
pub mod shape;
pub mod source;
pub mod words;

use std::collections::HashMap;

use rayon::prelude::*;

use crate::attack::attacks;
use crate::device::cuda::nvrtc::{self, Arch};
use crate::device::kernels::SOURCES;
use crate::device::{Coverage, Device, Kernel, LaunchCost, Source};
use crate::error::{Error, Result};
use crate::method::METHODS;
use crate::run::provenance::Provenance;
use operation::{OPERATIONS, Operation};
use ptx::cubin::{Resources, resources};
use ptx::gpu::{GPUS, Gpu};
use report::{KernelReport, Report};

/// What is inspected.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The name of an operation or of a kernel.
    pub what: String,
    /// The operation in which a kernel is looked at; found by itself if not given.
    pub within: Option<String>,
    pub settings: Settings,
}

/// The size of the work; each operation takes some of them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub shape: Option<String>,
    pub model: Option<String>,
    pub batch: Option<usize>,
    pub method: Option<String>,
    pub attack: Option<String>,
}

/// The GPU of this name. Errors: there is none; the error lists all.
pub fn gpu(name: &str) -> Result<&'static Gpu> {
    let known = GPUS.iter().map(|gpu| gpu.name);
    ptx::gpu::find(&name.to_lowercase()).ok_or_else(|| Error::unknown("GPU", name, known))
}

fn kernels() -> impl Iterator<Item = &'static Kernel> {
    SOURCES.iter().flat_map(|source| source.kernels.iter().copied())
}

/// Counts the launches of the request on a GPU.
///
/// Errors: NVRTC is missing; an unknown name; a setting that the operation does not take.
pub fn inspect(
    request: &Request,
    gpu: &'static Gpu,
    coverage: Coverage,
    command_line: &str,
) -> Result<Report> {
    let unusable = |reason| Error::Device { device: "PTX machine".into(), reason };
    let native = Arch::of_device((gpu.capability.0 as i32, gpu.capability.1 as i32)).map_err(unusable)?;
    let virtual_arch = native.name.replace("sm_", "compute_");
    let (operation, only) = subject(request, &virtual_arch)?;
    let mut request = request.clone();
    operation.apply(&mut request.settings);
    let device = Device::software(&virtual_arch, coverage, only.map(|kernel| kernel.name))?;
    let mut prepared = operation.operation.prepare(&device, &request)?;
    device.take_costs();
    prepared.works.iter_mut().try_for_each(|work| work())?;
    let mut costs = device.take_costs();
    costs.retain(|cost| only.is_none_or(|kernel| kernel.name == cost.kernel.name));
    if let Some(kernel) = only.filter(|_| costs.is_empty()) {
        let problem = format!(
            "{} ({}) does not launch {}; --in names another operation",
            operation.operation.name, prepared.detail, kernel.name
        );
        return Err(Error::value("inspect", &request.what, problem));
    }
    let resources = assembled(&costs, &native)?;
    let kernels = costs.iter().filter_map(|cost| KernelReport::of(cost, &resources, gpu).transpose());
    let mut kernels: Vec<KernelReport> = kernels.collect::<Result<_>>()?;
    kernels.sort_by(|a, b| b.all_cold().total_cmp(&a.all_cold()));
    let lines = source::annotated(&costs);
    Ok(Report {
        what: request.what.clone(),
        operation: operation.operation.name,
        detail: prepared.detail,
        gpu,
        arch: native.name,
        blocks: match coverage {
            Coverage::Sample(blocks) => Some(blocks),
            _ => None,
        },
        cold: kernels.iter().map(KernelReport::all_cold).sum(),
        warm: kernels.iter().map(KernelReport::all_warm).sum(),
        kernels,
        lines,
        provenance: Provenance::now(&device, command_line),
    })
}

/// An operation with the method or attack by which it launches a kernel.
struct Subject {
    operation: &'static Operation,
    method: Option<String>,
    attack: Option<String>,
}

impl Subject {
    fn of(operation: &'static Operation) -> Subject {
        Subject { operation, method: None, attack: None }
    }

    /// Whether the operation takes what is given.
    fn fits(&self, settings: &Settings) -> bool {
        let Settings { shape, model, batch, method, attack } = settings;
        let network = model.is_some() || batch.is_some();
        shape.as_deref().is_none_or(|shape| self.operation.takes_shape(shape))
            && (self.operation.is_job() || !network)
            && (method.is_none() || (self.operation.name == "step" && self.method.is_none()))
            && (attack.is_none() || (self.operation.name == "attack" && self.attack.is_none()))
    }

    fn apply(&self, settings: &mut Settings) {
        settings.method = settings.method.take().or(self.method.clone());
        settings.attack = settings.attack.take().or(self.attack.clone());
    }
}

/// The operation of a request, and the kernel if it names one.
fn subject(request: &Request, arch: &str) -> Result<(Subject, Option<&'static Kernel>)> {
    let operations = || OPERATIONS.iter().map(|operation| operation.name);
    let within = request.within.as_deref();
    if let Some(found) = operation::find(&request.what) {
        return match within {
            None => Ok((Subject::of(found), None)),
            Some(_) => Err(Error::value("inspect", found.name, "is an operation; --in is for kernels")),
        };
    }
    let kernel = kernels().find(|kernel| kernel.name == request.what).ok_or_else(|| {
        let known = operations().chain(kernels().map(|kernel| kernel.name));
        Error::unknown("operation or kernel", &request.what, known)
    })?;
    if let Some(name) = within {
        let found = operation::find(name).ok_or_else(|| Error::unknown("operation", name, operations()))?;
        return Ok((Subject::of(found), Some(kernel)));
    }
    let fitting = candidates().filter(|candidate| candidate.fits(&request.settings));
    for candidate in fitting {
        if launches(&candidate, request, arch)? {
            return Ok((candidate, Some(kernel)));
        }
    }
    let problem = "no operation with these settings is known to launch it; --in names one that may";
    Err(Error::value("inspect", kernel.name, problem))
}

/// Where a kernel is looked for: operations, steps of every method, attacks.
fn candidates() -> impl Iterator<Item = Subject> {
    let plain = OPERATIONS.iter().map(Subject::of);
    let steps = operation::find("step").into_iter().flat_map(|step| {
        METHODS.iter().map(|method| Subject { method: Some(method.name.into()), ..Subject::of(step) })
    });
    let run = operation::find("attack").into_iter().flat_map(|attack| {
        attacks().map(|entry| Subject { attack: Some(entry.name.replace('K', "10")), ..Subject::of(attack) })
    });
    plain.chain(steps).chain(run)
}

/// Whether the operation launches the kernel of a request, at its own sizes or on a small network. Nothing is
/// run.
fn launches(candidate: &Subject, request: &Request, arch: &str) -> Result<bool> {
    let device = Device::software(arch, Coverage::Nothing, None)?;
    let mut request = request.clone();
    candidate.apply(&mut request.settings);
    if candidate.operation.is_job() {
        request.settings.model = Some("resnet-mini".into());
        request.settings.batch = Some(8);
    }
    let mut works = candidate.operation.prepare(&device, &request)?.works;
    // On memory that no kernel has written a run may come to an error: what it launched until then counts.
    let _ = works.iter_mut().try_for_each(|work| work());
    Ok(device.take_costs().iter().any(|cost| cost.kernel.name == request.what))
}

/// What ptxas made of the kernels, by name.
fn assembled(costs: &[LaunchCost], arch: &Arch) -> Result<HashMap<String, Resources>> {
    let mut sources: Vec<&'static Source> =
        costs.iter().filter(|cost| cost.counts.is_some()).map(|cost| cost.kernel.source).collect();
    sources.sort_by_key(|source| (std::cmp::Reverse(source.text.len()), source.name));
    sources.dedup_by_key(|source| source.name);
    let compile = |source: &&'static Source| {
        let image = nvrtc::cached_or_compiled(source, arch)?;
        resources(&image).ok_or_else(|| Error::Compile {
            file: source.file.into(),
            arch: arch.name.clone(),
            log: "NVRTC's result is no cubin".into(),
        })
    };
    let all: Vec<Vec<Resources>> = sources.par_iter().map(compile).collect::<Result<_>>()?;
    Ok(all.into_iter().flatten().map(|found| (found.kernel.clone(), found)).collect())
}
