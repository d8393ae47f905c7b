//! The report of an evaluation.

use super::record::Record;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::report::AttackAccuracy;
use crate::run::provenance::Provenance;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The accuracies that an evaluation measured, and what it evaluated.
#[derive(Serialize)]
pub struct Report {
    pub architecture: String,
    pub weights: PathBuf,
    pub dataset: String,
    pub images: usize,
    pub norm: String,
    /// As it was given.
    pub eps: String,
    pub seed: u64,
    pub device: String,
    /// Of the network's convolutions.
    pub precision: String,
    pub provenance: Provenance,
    #[serde(skip)]
    pub rows: Vec<AttackAccuracy>,
    /// Of a protocol: the content of the result file.
    #[serde(skip)]
    pub record: Option<Record>,
    /// Why a file could not be written; the result is here all the same.
    #[serde(skip)]
    pub unwritten: Option<Error>,
}

impl Report {
    /// The report of which all files were written. Errors: one could not be.
    pub fn written(self) -> Result<Report> {
        match self.unwritten {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// The report as it is written to a file.
    pub fn to_json(&self) -> Value {
        if let Some(record) = &self.record {
            return record.to_json();
        }
        let mut object = self.facts();
        object.insert("results".into(), json!(self.rows));
        Value::Object(object)
    }

    /// The failures of the verification, of a protocol whose result does not count.
    pub fn complaint(&self) -> Option<String> {
        self.record.as_ref()?.outcome.verification.complaint()
    }

    /// The evaluated weights, images and ball.
    pub(super) fn facts(&self) -> Map<String, Value> {
        json!(self).as_object().cloned().unwrap_or_default()
    }
}

/// Writes a result, indented.
pub fn write_result(path: &Path, result: &Value) -> Result<()> {
    write_atomic(path, format!("{result:#}\n").as_bytes())
}
