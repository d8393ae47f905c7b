//! Accuracy under common corruptions: CIFAR-10-C and CIFAR-100-C.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::accuracy::accuracy;
use crate::data::corruptions::{Corruptions, SEVERITIES, SHAPE, STANDARD};
use crate::data::device_dataset::DeviceDataset;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::files::weights::WeightFile;
use crate::files::{check_outputs, check_writable};
use crate::run::network::{self, Classes, WeightOverrides};
use crate::run::observer::Observer;
use crate::run::provenance::Provenance;

/// Weights and corrupted images of an evaluation.
pub struct CorruptionsRequest {
    pub weights: WeightFile,
    /// `None`: the architecture in the weights' metadata.
    pub model: Option<String>,
    /// The folder of `NAME.npy` and `labels.npy`.
    pub data: PathBuf,
    /// 1 to 5, in the order of the result; empty means all.
    pub severities: Vec<usize>,
    /// Only the first n images of each corruption and severity.
    pub n: Option<usize>,
    pub batch: usize,
    pub device: DeviceChoice,
    /// The command line, for the records.
    pub command: String,
    /// Where the report will be written as JSON: checked at the start.
    pub out: Option<PathBuf>,
}

/// The accuracy under every corruption, in percent.
pub struct CorruptionsReport {
    pub weights: PathBuf,
    pub dataset: String,
    /// For each corruption and severity.
    pub images: usize,
    pub severities: Vec<usize>,
    /// The corruptions in the paper's order, each with its accuracy by severity.
    pub rows: Vec<(String, Vec<f64>)>,
    pub provenance: Provenance,
}

/// The mean of accuracies.
pub fn mean(accuracies: &[f64]) -> f64 {
    accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64
}

impl CorruptionsReport {
    /// The mean over all corruptions and severities.
    pub fn mean(&self) -> f64 {
        mean(&self.rows.iter().flat_map(|(_, row)| row.iter().copied()).collect::<Vec<_>>())
    }

    /// The report as it is written to a file.
    pub fn to_json(&self) -> Value {
        let row = |(name, row): &(String, Vec<f64>)| {
            let cells = self.severities.iter().map(usize::to_string).zip(row.iter().copied());
            (name.clone(), json!({ "mean": mean(row), "severities": cells.collect::<Value>() }))
        };
        json!({
            "weights": self.weights,
            "dataset": self.dataset,
            "images": self.images,
            "severities": self.severities,
            "device": self.provenance.device,
            "provenance": self.provenance,
            "corruptions_acc": self.mean(),
            "corruptions": self.rows.iter().map(row).collect::<Value>(),
        })
    }
}

/// Measures the accuracy under the 15 standard corruptions; the caller writes the report to `out`.
///
/// Errors: missing files, files of the wrong content, weights that do not fit them, no permission to write
/// `out`.
pub fn run(request: &CorruptionsRequest, observer: &mut dyn Observer) -> Result<CorruptionsReport> {
    if request.n == Some(0) {
        return Err(Error::value("n", 0, "must be 1 or more"));
    }
    let severities = match request.severities.as_slice() {
        [] => (1..=SEVERITIES).collect(),
        given => given.to_vec(),
    };
    if let Some(severity) = severities.iter().find(|severity| !(1..=SEVERITIES).contains(*severity)) {
        return Err(Error::value("severity", severity, format!("expected 1 to {SEVERITIES}")));
    }
    if request.batch == 0 {
        return Err(Error::value("batch", 0, "must be 1 or more"));
    }
    let classes = request.weights.classes()?;
    let set = Corruptions::open(&request.data, classes)?;
    if let Some(out) = &request.out {
        check_outputs(&[("out", out)], &[("--weights", &request.weights.path), ("--data", &request.data)])?;
        check_writable(out)?;
    }
    let device = request.device.open()?;
    let overrides = WeightOverrides { model: request.model.clone(), ..WeightOverrides::default() };
    let data = (Classes::Exactly(classes), SHAPE);
    let (mut net, _) = network::open(&device, request.weights.clone(), &overrides, data)?;
    let mut report = CorruptionsReport {
        weights: request.weights.path.clone(),
        dataset: String::new(),
        images: 0,
        severities,
        rows: vec![],
        provenance: Provenance::now(&device, &request.command),
    };
    let cells = STANDARD.len() * report.severities.len();
    let mut cells_done = 0;
    for name in STANDARD {
        let mut row = Vec::new();
        for &severity in &report.severities {
            let mut cell = set.load(name, severity)?;
            if let Some(n) = request.n.filter(|n| *n < cell.len()) {
                cell = cell.subset(&(0..n).collect::<Vec<_>>())?;
            }
            let (what, before) = (format!("{name} {severity}"), cells_done * cell.len());
            let progress = |done| {
                observer.evaluating(&what, before + done, cells * cell.len());
                Ok(())
            };
            let data = DeviceDataset::new(&device, &cell)?;
            row.push(accuracy(&mut net, &data, None, request.batch, 0, progress)?.percent);
            (report.images, report.dataset) = (cell.len(), cell.name);
            cells_done += 1;
        }
        report.rows.push((name.to_owned(), row));
    }
    observer.finished();
    Ok(report)
}
