//! The result file of an evaluation by the protocol, and the merging of shards.

use super::outcome::{AttackRow, CLEAN, Outcome, Passes};
use super::post_check::Verification;
use super::protocol::ProtocolResult;
use super::state::differences;
use crate::data::Dataset;
use crate::error::{Error, Result, ensure};
use crate::files::read_text;
use crate::files::safetensors::{self, TensorEntry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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
        // A file may state any numbers.
        let bound = |number: usize| (number as u128 * n as u128 / self.of as u128) as usize;
        let range = bound(self.number - 1)..bound(self.number);
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
const DERIVED: [&str; 4] = ["clean_acc", "autoattack_acc", "robust_acc", "headline"];
const OF_OUTCOME: [&str; 6] = ["version", "results", "outcomes", "warnings", "verification", "passes"];

impl Record {
    /// The file's object. Accuracies under RobustBench's names are percentages as text; only AutoAttack
    /// is called AutoAttack. Where the verification failed all accuracies are null.
    pub fn to_json(&self) -> Value {
        let mut object = self.about.clone();
        let outcome = &self.outcome;
        let passed = outcome.verification.passed;
        let percent = |value: f64| if passed { Value::from(format!("{value:.2}")) } else { Value::Null };
        object.insert("clean_acc".into(), percent(outcome.clean()));
        let is_autoattack = self.is_autoattack();
        object.insert(
            "autoattack_acc".into(),
            if is_autoattack { percent(outcome.robust()) } else { Value::Null },
        );
        object.insert("robust_acc".into(), percent(outcome.robust()));
        object.insert("headline".into(), self.headline().into());
        object.insert("shard".into(), json!(self.shard));
        object.insert("evaluation".into(), Value::Object(self.evaluation.clone()));
        if let Ok(Value::Object(outcome)) = serde_json::to_value(outcome) {
            object.extend(outcome);
        }
        let rows = object.get_mut("results").and_then(Value::as_array_mut).filter(|_| !passed);
        for row in rows.into_iter().flatten() {
            row["accuracy"] = Value::Null;
            row["robust"] = Value::Null;
        }
        Value::Object(object)
    }

    /// Whether all attacks of a version of AutoAttack ran: a weaker set is never called so.
    fn is_autoattack(&self) -> bool {
        self.outcome.version != "custom" && !self.outcome.rows.iter().any(|row| row.skipped)
    }

    /// The result in one sentence: `82.78 % robust under AutoAttack (standard, linf, eps 8/255): 298 of 360
    /// images`.
    pub fn headline(&self) -> String {
        let Outcome { version, rows, outcomes, verification, .. } = &self.outcome;
        let attacks = if self.is_autoattack() { "AutoAttack" } else { "these attacks" };
        let word = |key: &str| self.about.get(key).and_then(Value::as_str).unwrap_or_default();
        let under = format!("under {attacks} ({version}, {}, eps {})", word("norm"), word("eps"));
        if !verification.passed {
            return format!("no accuracy {under}: the verification failed");
        }
        let (robust, points) = (rows.last().map_or(0, |row| row.robust), outcomes.0.len());
        format!("{:.2} % robust {under}: {robust} of {points} images", self.outcome.robust())
    }

    /// Reads a result file. Errors: [`Error::Io`]; [`Error::File`] unless it is the result of a protocol.
    pub fn read(path: &Path) -> Result<Record> {
        let text = read_text(path, "cannot read the result")?;
        let wrong = |problem: String| {
            Error::file(path, format!("not the result of saddle eval --attack autoattack: {problem}"))
        };
        let mut about: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if about.get("verification").is_some_and(|verification| verification["passed"] == false) {
            return Err(Error::file(path, "the verification of this result failed: evaluate it again"));
        }
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

    /// The number of images of the whole evaluation.
    fn images(&self) -> usize {
        self.evaluation.get("images").and_then(Value::as_u64).and_then(|n| n.try_into().ok()).unwrap_or(0)
    }

    /// Checks that the numbers of a shard's outcome fit its images. Errors: the first number that does not.
    fn check_shard(&self, shard: Shard) -> Result<(), String> {
        let (Shard { number, of }, images, outcome) = (shard, self.images(), &self.outcome);
        ensure((1..=of).contains(&number) && of <= images, || {
            format!("is shard {number} of {of} of {images} images; each has one image or more")
        })?;
        let points = outcome.outcomes.0.len();
        let own = shard.range(images).map_err(|error| error.to_string())?.len();
        ensure(points == own, || format!("holds {points} points, not the {own} of its shard"))?;
        let rows = &outcome.rows;
        ensure(rows.first().is_some_and(|row| row.attack == CLEAN), || {
            "its first row is not 'clean'".to_owned()
        })?;
        let unknown = outcome.outcomes.0.iter().flatten().find(|row| **row >= rows.len());
        ensure(unknown.is_none(), || {
            let row = unknown.copied().unwrap_or_default();
            format!("a point fell to row {row}, and there are {} rows, counted from 0", rows.len())
        })?;
        for row in rows {
            ensure(row.attacked <= points && row.seconds.is_finite() && row.seconds >= 0.0, || {
                let AttackRow { attack, attacked, seconds, .. } = row;
                format!("{attack} has {attacked} of {points} points and took {seconds} s")
            })?;
        }
        let Verification { outside_ball, outside_box, other_outcome, no_logits, .. } = outcome.verification;
        for count in [outside_ball, outside_box, other_outcome, no_logits] {
            ensure(count <= points, || format!("its verification counts {count} of {points} points"))?;
        }
        let Passes { forward, differentiated } = outcome.passes;
        ensure(forward.max(differentiated) <= MOST_PASSES, || {
            format!("counts {forward} passes, {differentiated} of them differentiated")
        })
    }
}

/// More passes than any evaluation takes, and few enough to be added up.
const MOST_PASSES: u64 = 1 << 53;
/// The number of missing shards that a message lists.
const LISTED: usize = 8;

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
    let mut seen: BTreeMap<usize, &PathBuf> = BTreeMap::new();
    for (path, record) in &records {
        let wrong = |problem: String| Err(Error::file(path, problem));
        let Some(shard @ Shard { number, of }) = record.shard else {
            return wrong("is the result of a whole evaluation, not of a shard".into());
        };
        let differ = differences(&reference.evaluation, &record.evaluation).join(", ");
        if !differ.is_empty() {
            return wrong(format!("belongs to another evaluation than {}: {differ}", first.display()));
        }
        if parts != of {
            return wrong(format!("is shard {number} of {of}, other files are of {parts}: they overlap"));
        }
        record.check_shard(shard).map_err(|problem| Error::file(path, problem))?;
        if let Some(other) = seen.insert(number, path) {
            return wrong(format!("is shard {number} of {of}, like {}", other.display()));
        }
    }
    let missing = parts - seen.len();
    if missing > 0 {
        let numbers = (1..=parts).filter(|number| !seen.contains_key(number)).take(LISTED);
        let mut list: Vec<String> = numbers.map(|number| format!("{number}/{parts}")).collect();
        list.extend((missing > LISTED).then(|| format!("and {} more", missing - LISTED)));
        let problem = format!("a shard is missing: {}", list.join(", "));
        return Err(Error::value("merge", files.len(), problem));
    }
    records.sort_by_key(|(_, record)| record.shard.map_or(0, |shard| shard.number));
    let outcome = Outcome::joined(records.into_iter().map(|(_, record)| record.outcome).collect())?;
    Ok(Record { outcome, shard: None, ..reference })
}

/// Writes the images of an outcome: x_adv `[N,C,H,W]`, y, pred and success `[N]`. A robust point has the
/// image of the last attack, or with `keep_clean` the clean one.
pub fn save_adversarial(
    path: &Path,
    data: &Dataset,
    range: Range<usize>,
    ProtocolResult { outcome, images, predictions }: &ProtocolResult,
    keep_clean: bool,
) -> Result<()> {
    let [h, w, c] = [data.shape.height, data.shape.width, data.shape.channels];
    let labels = &data.labels[range.clone()];
    let mut pixels = Vec::with_capacity(labels.len() * data.shape.bytes());
    for (point, index) in range.enumerate() {
        let clean = keep_clean && outcome.outcomes.0[point].is_none();
        let image = stored(data, index, images.get(&point).filter(|_| !clean));
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
    x_adv.cloned().unwrap_or_else(|| data.image(index).unwrap_or_default())
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

    type Change = fn(&mut Value);

    /// A result file with the numbers of a shard, changed by `change`.
    fn shard_file(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let counts = json!({"accuracy": 50.0, "robust": 1, "attacked": 2, "seconds": 1.0});
        let row = |attack: &str| {
            let mut row = counts.clone();
            row["attack"] = attack.into();
            row
        };
        let mut record = json!({
            "version": "custom", "results": [row("clean"), row("apgd-ce")], "outcomes": ".1", "warnings": [],
            "verification": Verification { passed: true, ..Verification::default() },
            "passes": {"forward": 10, "differentiated": 5},
            "evaluation": {"images": 4, "eps": 0.1}, "shard": {"number": 1, "of": 2},
        });
        change(&mut record);
        let path = dir.join(name);
        std::fs::write(&path, record.to_string()).unwrap();
        path
    }

    #[test]
    fn the_numbers_of_shards_are_checked_before_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let second = shard_file(dir.path(), "2.json", |record| record["shard"]["number"] = 2.into());
        let message = |change: Change| {
            let first = shard_file(dir.path(), "1.json", change);
            merge(&[first, second.clone()]).unwrap_err().to_string()
        };
        let whole = merge(&[shard_file(dir.path(), "1.json", |_| ()), second.clone()]).unwrap();
        assert_eq!((whole.outcome.outcomes.0.len(), whole.outcome.rows[1].attacked), (4, 4));
        let cases: [(Change, &str); 9] = [
            (
                |r| r["shard"]["of"] = (1u64 << 53).into(),
                "is shard 1 of 9007199254740992 of 4 images; each has",
            ),
            (
                |r| r["shard"]["of"] = (1u64 << 60).into(),
                "is shard 1 of 1152921504606846976 of 4 images; each",
            ),
            (|r| r["shard"]["number"] = 0.into(), "is shard 0 of 2 of 4 images; each has one image or more"),
            (|r| r["outcomes"] = "...".into(), "holds 3 points, not the 2 of its shard"),
            (|r| r["outcomes"] = ".z".into(), "a point fell to row 35, and there are 2 rows, counted from 0"),
            (|r| r["results"] = json!([]), "its first row is not 'clean'"),
            (
                |r| r["results"][1]["attacked"] = u64::MAX.into(),
                "apgd-ce has 18446744073709551615 of 2 points",
            ),
            (
                |r| r["verification"]["outside_box"] = u64::MAX.into(),
                "its verification counts 184467440737095",
            ),
            (|r| r["passes"]["forward"] = u64::MAX.into(), "counts 18446744073709551615 passes, 5 of them"),
        ];
        for (change, expected) in cases {
            let error = message(change);
            assert!(error.contains(&format!("1.json: {expected}")), "{error}");
        }
        // As many shards as images, and all that differs from them on one line.
        let huge = |record: &mut Value| {
            record["evaluation"]["images"] = (1u64 << 60).into();
            record["shard"]["of"] = (1u64 << 60).into();
            record["outcomes"] = ".".into();
            record["results"][0]["attacked"] = 1.into();
            record["results"][1]["attacked"] = 1.into();
        };
        let error = merge(&[shard_file(dir.path(), "3.json", huge)]).unwrap_err().to_string();
        assert!(
            error.contains("8/1152921504606846976") && error.ends_with("and 1152921504606846967 more"),
            "{error}"
        );
    }
}
