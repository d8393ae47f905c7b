//! The outcome of the protocol: which attack succeeded on which point, and all numbers that follow.

use super::post_check::Verification;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of the first row: no attack.
pub const CLEAN: &str = "clean";
/// Percentage points by which Square may lower the lowest accuracy of the other attacks before that is
/// suspicious.
const SQUARE_MARGIN: f64 = 0.2;

/// For each point the row that succeeded on it; 0 is the clean pass. In files one letter per point: `.` for a
/// robust point, else the row in base 36.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointOutcomes(pub Vec<Option<usize>>);

impl PointOutcomes {
    /// The number of points on which no row up to this one succeeded.
    pub fn robust_after(&self, row: usize) -> usize {
        self.0.iter().filter(|by| by.is_none_or(|by| by > row)).count()
    }

    /// Points that are robust so far, in order.
    pub fn robust(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, by)| by.is_none()).map(|(point, _)| point)
    }
}

impl Serialize for PointOutcomes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let letter = |by: &Option<usize>| by.map_or('.', |by| char::from_digit(by as u32, 36).unwrap_or('?'));
        serializer.serialize_str(&self.0.iter().map(letter).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for PointOutcomes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PointOutcomes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let outcome = |letter: char| match (letter, letter.to_digit(36)) {
            ('.', _) => Ok(None),
            (_, Some(by)) => Ok(Some(by as usize)),
            _ => Err(serde::de::Error::custom(format!("'{letter}' is not an outcome of a point"))),
        };
        text.chars().map(outcome).collect::<Result<_, _>>().map(PointOutcomes)
    }
}

/// One attack of the protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttackRow {
    /// `clean`, or the attack.
    pub attack: String,
    /// Points that withstood it and all before it, in percent of all points.
    pub accuracy: f64,
    /// The number of these points.
    pub robust: usize,
    /// Points that it was given.
    pub attacked: usize,
    pub seconds: f64,
    /// Whether it did not run because the network has too few classes.
    #[serde(default)]
    pub skipped: bool,
}

/// Passes of the network, in images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// Logits.
    pub forward: u64,
    /// Those of them that were differentiated.
    pub differentiated: u64,
}

/// The outcome of an evaluation by the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `standard`, `plus`, `rand` or `custom`.
    pub version: String,
    #[serde(rename = "results")]
    pub rows: Vec<AttackRow>,
    pub outcomes: PointOutcomes,
    pub warnings: Vec<String>,
    pub verification: Verification,
    /// Of the attacks and the clean pass, without checks before and after them.
    pub passes: Passes,
}

impl Outcome {
    /// Accuracy on clean images, in percent.
    pub fn clean(&self) -> f64 {
        self.rows.first().map_or(0.0, |row| row.accuracy)
    }

    /// Accuracy under all attacks together, in percent.
    pub fn robust(&self) -> f64 {
        self.rows.last().map_or(0.0, |row| row.accuracy)
    }

    /// Sets the accuracies of all rows from the outcomes, and the warnings that follow from them.
    pub fn count(&mut self) {
        let points = self.outcomes.0.len().max(1) as f64;
        for (number, row) in self.rows.iter_mut().enumerate() {
            row.robust = self.outcomes.robust_after(number);
            row.accuracy = 100.0 * row.robust as f64 / points;
        }
        self.warnings.retain(|line| !line.starts_with("square "));
        let ran = |row: &&AttackRow| row.attack != CLEAN && !row.skipped;
        let lowest = |of_square: bool| {
            let rows = self.rows.iter().filter(ran).filter(|row| (row.attack == "square") == of_square);
            rows.map(|row| row.accuracy).min_by(f64::total_cmp)
        };
        if let (Some(square), Some(others)) = (lowest(true), lowest(false))
            // A share of the points that is 0.2 % exactly may come out above it by a rounding error.
            && others - square > SQUARE_MARGIN + 1e-9
        {
            self.warnings.push(format!(
                "square lowers the robust accuracy from {others:.2} % to {square:.2} %: the gradients \
                 probably mislead the other attacks"
            ));
        }
    }

    /// The outcome on the points of several shards, in order.
    ///
    /// Errors: [`Error::Value`] for shards with different rows, or none at all.
    pub fn joined(parts: Vec<Outcome>) -> Result<Outcome> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().ok_or_else(|| Error::value("merge", 0, "there is nothing to merge"))?;
        for part in parts {
            let names = |outcome: &Outcome| {
                outcome.rows.iter().map(|row| row.attack.as_str()).collect::<Vec<_>>().join(",")
            };
            if names(&part) != names(&whole) {
                let problem = format!("other shards ran {}", names(&whole));
                return Err(Error::value("merge", names(&part), problem));
            }
            for (row, more) in whole.rows.iter_mut().zip(&part.rows) {
                row.attacked += more.attacked;
                row.seconds += more.seconds;
            }
            whole.outcomes.0.extend(part.outcomes.0);
            for line in part.warnings {
                if !whole.warnings.contains(&line) {
                    whole.warnings.push(line);
                }
            }
            whole.verification.join(&part.verification);
            whole.passes.forward += part.passes.forward;
            whole.passes.differentiated += part.passes.differentiated;
        }
        whole.count();
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(outcomes: &str, rows: &[&str]) -> Outcome {
        let row = |name: &&str| {
            let attack = (*name).to_owned();
            AttackRow { attack, accuracy: 0.0, robust: 0, attacked: 1, seconds: 0.5, skipped: false }
        };
        let mut outcome = Outcome {
            version: "custom".into(),
            rows: rows.iter().map(row).collect(),
            outcomes: serde_json::from_value(outcomes.into()).unwrap(),
            warnings: vec![],
            verification: Verification::default(),
            passes: Passes::default(),
        };
        outcome.count();
        outcome
    }

    #[test]
    fn accuracies_follow_from_the_outcomes() {
        let outcome = outcome(".0.12..1.a", &["clean", "apgd-ce", "fab-t"]);
        assert_eq!(outcome.outcomes.0[4], Some(2));
        assert_eq!(serde_json::to_value(&outcome.outcomes).unwrap(), ".0.12..1.a");
        assert_eq!(outcome.rows.iter().map(|row| row.robust).collect::<Vec<_>>(), [9, 7, 6]);
        assert_eq!((outcome.clean(), outcome.robust()), (90.0, 60.0));
        assert!(serde_json::from_value::<PointOutcomes>("..!".into()).is_err());
    }

    #[test]
    fn square_is_suspicious_when_it_finds_more_than_the_others() {
        let warned = |outcomes: &str, rows: &[&str]| outcome(outcomes, rows).warnings;
        let many = ".".repeat(499);
        assert_eq!(
            warned(&format!("{many}2"), &["clean", "apgd-ce", "square"]),
            [""; 0],
            "0.2 points are not more than 0.2"
        );
        let line = &warned(&format!("{}22", &many[1..]), &["clean", "apgd-ce", "square"])[0];
        assert!(line.starts_with("square lowers the robust accuracy from 100.00 % to 99.60 %"), "{line}");
        assert_eq!(warned("..1", &["clean", "square"]), [""; 0], "there is nothing to compare it with");
        assert_eq!(warned("..12", &["clean", "square", "apgd-ce"]), [""; 0], "a later attack finds more");
    }

    #[test]
    fn shards_join() {
        let rows = ["clean", "apgd-ce", "square"];
        let mut parts = [outcome(".0", &rows), outcome("12", &rows)];
        parts[1].warnings.push("a warning".into());
        let whole = Outcome::joined(parts.to_vec()).unwrap();
        assert_eq!(
            whole.rows.iter().map(|row| (row.robust, row.attacked, row.seconds)).collect::<Vec<_>>(),
            [(3, 2, 1.0), (2, 2, 1.0), (1, 2, 1.0)]
        );
        assert_eq!(whole.warnings.len(), 2, "{:?}", whole.warnings);
        assert!(Outcome::joined(vec![outcome(".", &rows), outcome(".", &rows[..2])]).is_err());
        assert!(Outcome::joined(vec![]).is_err());
    }
}
