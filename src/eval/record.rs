//! The result file of an evaluation by the protocol, and the merging of shards.

use super::outcome::Outcome;
use super::protocol::AdvImages;
use super::state::differences;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files::safetensors::{self, TensorEntry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One of several parts of an evaluation: consecutive images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Counted from 1.
    pub number: usize,
    pub of: usize,
}

impl Shard {
    /// Reads `2/5`.
    pub fn read(text: &str) -> Result<Shard> {
        let wrong = || Error::value("shard", text, "expected a part and the number of parts, such as 1/4");
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let shard = Shard {
            number: number.trim().parse().map_err(|_| wrong())?,
            of: of.trim().parse().map_err(|_| wrong())?,
        };
        if (1..=shard.of).contains(&shard.number) { Ok(shard) } else { Err(wrong()) }
    }

    /// Its images of n. Errors: it has none.
    pub fn range(&self, n: usize) -> Result<Range<usize>> {
        let range = (self.number - 1) * n / self.of..self.number * n / self.of;
        if range.is_empty() {
            let problem = format!("no image would be evaluated; there are {n}");
            return Err(Error::value("shard", format!("{}/{}", self.number, self.of), problem));
        }
        Ok(range)
    }
}

/// The content of a result file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The facts that leaderboards ask for, the device, the weight file.
    pub about: Map<String, Value>,
    /// All that determines the result: two files that agree here and differ in their shards belong together.
    pub evaluation: Map<String, Value>,
    pub shard: Option<Shard>,
    pub outcome: Outcome,
}

/// The keys of a result file for what follows from its outcome, and those of the outcome.
const DERIVED: [&str; 3] = ["clean_acc", "autoattack_acc", "robust_acc"];
const OF_OUTCOME: [&str; 6] = ["version", "results", "outcomes", "warnings", "verification", "passes"];

impl Record {
    /// The file's object. Accuracies under RobustBench's names are percentages as text; only AutoAttack
    /// is called AutoAttack.
    pub fn to_json(&self) -> Value {
        let mut object = self.about.clone();
        let outcome = &self.outcome;
        let percent = |value: f64| Value::from(format!("{value:.2}"));
        object.insert("clean_acc".into(), percent(outcome.clean()));
        // A weaker set is never called AutoAttack.
        let is_autoattack = outcome.version != "custom" && !outcome.rows.iter().any(|row| row.skipped);
        object.insert(
            "autoattack_acc".into(),
            if is_autoattack { percent(outcome.robust()) } else { Value::Null },
        );
        object.insert("robust_acc".into(), percent(outcome.robust()));
        object.insert("shard".into(), json!(self.shard));
        object.insert("evaluation".into(), Value::Object(self.evaluation.clone()));
        if let Ok(Value::Object(outcome)) = serde_json::to_value(outcome) {
            object.extend(outcome);
        }
        Value::Object(object)
    }

    /// Reads a result file. Errors: [`Error::Io`]; [`Error::File`] unless it is the result of a protocol.
    pub fn read(path: &Path) -> Result<Record> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "cannot read the result"))?;
        let wrong = |problem: String| {
            Error::file(path, format!("not the result of saddle eval --attack autoattack: {problem}"))
        };
        let mut about: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let outcome: Outcome =
            serde_json::from_value(Value::Object(about.clone())).map_err(|error| wrong(error.to_string()))?;
        let mut taken = |key: &str| about.remove(key).ok_or_else(|| wrong(format!("there is no '{key}'")));
        let Value::Object(evaluation) = taken("evaluation")? else {
            return Err(wrong("'evaluation' is not an object".into()));
        };
        let shard =
            serde_json::from_value(taken("shard")?).map_err(|error| wrong(format!("shard: {error}")))?;
        for key in DERIVED.into_iter().chain(OF_OUTCOME) {
            about.remove(key);
        }
        Ok(Record { about, evaluation, shard, outcome })
    }
}

/// The result of a whole evaluation from the result files of all its shards, in any order.
///
/// Errors: [`Error::File`] for a file that is not a shard, or one of another evaluation; [`Error::Value`] for
/// shards that are missing, given twice, or of another division.
pub fn merge(files: &[PathBuf]) -> Result<Record> {
    let mut records = files.iter().map(|path| Ok((path, Record::read(path)?))).collect::<Result<Vec<_>>>()?;
    let Some((first, reference)) = records.first().cloned() else {
        let problem = "there is nothing to merge; give the result files of all shards";
        return Err(Error::value("merge", 0, problem));
    };
    let parts = reference.shard.map_or(0, |shard| shard.of);
    let mut seen: Vec<Option<&PathBuf>> = vec![None; parts];
    for (path, record) in &records {
        let wrong = |problem: String| Err(Error::file(path, problem));
        let Some(shard @ Shard { number, of }) = record.shard else {
            return wrong("is the result of a whole evaluation, not of a shard".into());
        };
        let differ = differences(&reference.evaluation, &record.evaluation).join(", ");
        if !differ.is_empty() {
            return wrong(format!("belongs to another evaluation than {}: {differ}", first.display()));
        }
        let images = record.evaluation.get("images").and_then(Value::as_u64).unwrap_or(0) as usize;
        if parts != of || !(1..=of).contains(&number) {
            return wrong(format!("is shard {number} of {of}, other files are of {parts}: they overlap"));
        }
        let points = record.outcome.outcomes.0.len();
        if shard.range(images)?.len() != points {
            return wrong(format!("holds {points} points, not its shard's"));
        }
        if let Some(other) = seen[number - 1].replace(path) {
            return wrong(format!("is shard {number} of {of}, like {}", other.display()));
        }
    }
    let missing: Vec<String> = (1..)
        .zip(&seen)
        .filter(|(_, path)| path.is_none())
        .map(|(number, _)| format!("{number}/{parts}"))
        .collect();
    if !missing.is_empty() {
        let problem = format!("a shard is missing: {}", missing.join(", "));
        return Err(Error::value("merge", files.len(), problem));
    }
    records.sort_by_key(|(_, record)| record.shard.map_or(0, |shard| shard.number));
    let outcome = Outcome::joined(records.into_iter().map(|(_, record)| record.outcome).collect())?;
    Ok(Record { outcome, shard: None, ..reference })
}

/// Writes the images of an outcome: x_adv `[N,C,H,W]`, which is the clean image where all attacks failed, y,
/// pred and success `[N]`.
pub fn save_adversarial(
    path: &Path,
    data: &Dataset,
    range: Range<usize>,
    images: &AdvImages,
    predictions: &[i32],
) -> Result<()> {
    let [h, w, c] = [data.shape.height, data.shape.width, data.shape.channels];
    let labels = &data.labels[range.clone()];
    let mut pixels = Vec::with_capacity(labels.len() * data.shape.bytes());
    for (point, index) in range.enumerate() {
        let image = stored(data, index, images.get(&point));
        pixels.extend((0..c).flat_map(|channel| image.iter().copied().skip(channel).step_by(c)));
    }
    let n = labels.len();
    let long = |values: &[i32]| values.iter().map(|v| i64::from(*v)).collect::<Vec<i64>>();
    let (y, pred) = (long(labels), long(predictions));
    let success: Vec<bool> = labels.iter().zip(predictions).map(|(label, class)| label != class).collect();
    let entries = vec![
        TensorEntry::new("x_adv", &[n, c, h, w], &pixels),
        TensorEntry::new("y", &[n], &y),
        TensorEntry::new("pred", &[n], &pred),
        TensorEntry::new("success", &[n], &success),
    ];
    safetensors::write(path, None, entries)
}

/// The image of a point `[H,W,C]`: the adversarial one, else the clean one.
pub fn stored(data: &Dataset, index: usize, x_adv: Option<&Vec<f32>>) -> Vec<f32> {
    let clean = || {
        data.image(index).unwrap_or_default().iter().map(|byte| f32::from(*byte) * data.byte_scale).collect()
    };
    x_adv.cloned().unwrap_or_else(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_everything_once() {
        for (n, of) in [(10, 3), (360, 7), (5, 5)] {
            let ranges: Vec<usize> =
                (1..=of).flat_map(|number| Shard { number, of }.range(n).unwrap()).collect();
            assert_eq!(ranges, (0..n).collect::<Vec<_>>());
        }
        assert_eq!(Shard::read("2/5").unwrap(), Shard { number: 2, of: 5 });
        for wrong in ["2", "0/3", "4/3", "a/3", "1/0", "-1/3"] {
            let message = Shard::read(wrong).unwrap_err().to_string();
            assert!(message.starts_with(&format!("shard = {wrong}: expected a part")), "{message}");
        }
        let message = Shard { number: 1, of: 400 }.range(360).unwrap_err().to_string();
        assert_eq!(message, "shard = 1/400: no image would be evaluated; there are 360");
    }
}
