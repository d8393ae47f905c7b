//! The report of an evaluation.

use super::record::Record;
use crate::attack::Norm;
use crate::error::Result;
use crate::files::write_atomic;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The accuracies that an evaluation measured, and what it evaluated.
pub struct Report {
    pub rows: Vec<ReportRow>,
    pub weights: PathBuf,
    pub arch: String,
    pub dataset: String,
    pub images: usize,
    pub norm: Norm,
    /// As it was given.
    pub eps: String,
    pub seed: u64,
    pub device: String,
    /// Of a protocol: the content of the result file.
    pub record: Option<Record>,
}

/// One line of a report.
pub struct ReportRow {
    /// `clean`, or the attack.
    pub name: String,
    /// The same with all parameters that are not the default.
    pub about: String,
    /// In percent; in a protocol of the points that withstood this attack and all before it.
    pub accuracy: f64,
    pub seconds: f64,
    /// Images that it was given.
    pub attacked: usize,
}

impl Report {
    /// The report as it is written to a file.
    pub fn to_json(&self) -> Value {
        if let Some(record) = &self.record {
            return record.to_json();
        }
        let row = |r: &ReportRow| {
            json!({
                "attack": r.name, "about": r.about, "accuracy": r.accuracy, "seconds": r.seconds
            })
        };
        let mut object = self.facts();
        object.insert("results".into(), self.rows.iter().map(row).collect());
        Value::Object(object)
    }

    /// The evaluated weights, images and ball.
    pub(super) fn facts(&self) -> Map<String, Value> {
        let facts = [
            ("architecture", json!(self.arch)),
            ("weights", json!(self.weights)),
            ("dataset", json!(self.dataset)),
            ("images", json!(self.images)),
            ("norm", json!(self.norm.to_string())),
            ("eps", json!(self.eps)),
            ("seed", json!(self.seed)),
            ("device", json!(self.device)),
        ];
        facts.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }
}

/// Writes a result, indented.
pub fn write_result(path: &Path, result: &Value) -> Result<()> {
    write_atomic(path, format!("{result:#}\n").as_bytes())
}
