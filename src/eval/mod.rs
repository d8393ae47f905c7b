//! Evaluation of saved weights: clean accuracy and accuracy under attacks.

pub mod accuracy;
pub mod corruptions;
pub mod craft;
pub mod page;

use crate::attack::{self, Norm, Settings};
use crate::data::{self, resident::Resident};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::train::checkpoint;
use crate::train::config::DeviceChoice;
use crate::train::observer::Observer;
use crate::train::rundir::write_atomic;
use accuracy::{accuracy, robust};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is to be evaluated.
pub struct Request {
    /// A safetensors file, or a run directory, whose `best` (else `last`) checkpoint is taken.
    pub weights: PathBuf,
    pub dataset: String,
    pub data: Option<PathBuf>,
    /// Names that [`attack::by_name`] knows; clean accuracy always comes first.
    pub attacks: Vec<String>,
    pub norm: Norm,
    pub eps: f32,
    /// `None`: the usual step for the norm.
    pub step: Option<f32>,
    /// Only the first n test images.
    pub n: Option<usize>,
    pub batch: usize,
    pub seed: u64,
    pub device: DeviceChoice,
    /// Where the report is written as JSON.
    pub out: Option<PathBuf>,
}

/// One line of a report.
pub struct Row {
    /// `clean`, or the attack.
    pub name: String,
    /// In percent.
    pub accuracy: f64,
    pub seconds: f64,
}

/// What an evaluation found.
pub struct Report {
    pub rows: Vec<Row>,
    pub weights: PathBuf,
    pub arch: String,
    pub dataset: String,
    pub images: usize,
    pub norm: Norm,
    pub eps: f32,
    pub seed: u64,
    pub device: String,
}

impl Report {
    /// The report as it is written to a file.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|r| json!({ "attack": r.name, "accuracy": r.accuracy, "seconds": r.seconds }));
        json!({
            "architecture": self.arch,
            "weights": self.weights,
            "dataset": self.dataset,
            "images": self.images,
            "norm": match self.norm { Norm::Linf => "linf", Norm::L2 => "l2" },
            "eps": self.eps,
            "seed": self.seed,
            "device": self.device,
            "results": rows.collect::<Vec<_>>(),
        })
    }
}

/// Evaluates; the report is written to `out` if that is given.
///
/// Errors: unknown attacks, weights that do not fit the data, an empty selection; nothing is written then.
pub fn run(request: &Request, observer: &mut dyn Observer) -> Result<Report> {
    let &Request { norm, eps, step, seed, .. } = request;
    let settings = Settings { norm, eps, step, seed, ..Settings::default() };
    let attack = |name: &String| Ok((name.clone(), attack::by_name(name, &settings)?));
    let attacks = request.attacks.iter().map(attack).collect::<Result<Vec<_>>>()?;
    let mut test = data::load(&request.dataset, request.data.as_deref())?.test;
    if let Some(n) = request.n {
        if n == 0 {
            return Err(Error::value("--n", n, "no image would be evaluated; expected at least 1"));
        }
        test = test.subset(&(0..n.min(test.len())).collect::<Vec<_>>())?;
    }
    if let Some(out) = &request.out {
        // An hour of evaluation is not to end at a folder that cannot be written.
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tempfile::NamedTempFile::new_in(folder).map_err(Error::io(out, "cannot write the report"))?;
    }
    let path = weight_file(&request.weights)?;
    let device = Device::by_name(&request.device.to_string())?;
    let (mut net, file) = checkpoint::open(&device, &path, (test.classes, test.shape.channels, test.shape.height))?;
    let resident = Resident::new(&device, &test)?;
    let mut rows = Vec::new();
    for (name, attack) in
        [("clean".to_owned(), None)].into_iter().chain(attacks.iter().map(|(name, attack)| (name.clone(), Some(attack))))
    {
        let began = Instant::now();
        let progress = |done| {
            observer.evaluating(&name, done, resident.len);
            Ok(())
        };
        let percent = match attack {
            Some(attack) => robust(&mut net, &resident, &**attack, request.batch, progress)?,
            None => accuracy(&mut net, &resident, None, request.batch, request.seed, progress)?.percent,
        };
        rows.push(Row { name, accuracy: percent, seconds: began.elapsed().as_secs_f64() });
    }
    observer.finished();
    let report = Report {
        rows,
        weights: path,
        arch: file.metadata.get("arch").cloned().unwrap_or_default(),
        dataset: test.name.clone(),
        images: resident.len,
        norm: request.norm,
        eps: request.eps,
        seed: request.seed,
        device: device.describe(),
    };
    if let Some(out) = &request.out {
        write_atomic(out, format!("{:#}\n", report.to_json()).as_bytes())?;
    }
    Ok(report)
}

/// The weight file that a path stands for: of a run directory its `best` checkpoint, else `last`.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let candidates = ["best", "last"].map(|name| path.join("checkpoints").join(format!("{name}.safetensors")));
    let found = candidates.into_iter().find(|file| file.exists());
    found.ok_or_else(|| {
        Error::file(path, "holds no checkpoints/best.safetensors or last.safetensors; expected a weight file or a run directory")
    })
}
