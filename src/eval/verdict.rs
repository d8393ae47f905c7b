//! What an evaluation by the protocol found: which attack broke which point, and everything that follows from
//! that.

use super::verify::Verification;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of the first row: no attack.
pub const CLEAN: &str = "clean";
/// By how many points Square may lower the least accuracy of the other attacks before that is suspicious.
const SQUARE_MARGIN: f64 = 0.2;

/// For each point the row that broke it; 0 is the clean pass. In files one letter a point: `.` withstood all,
/// else the row in base 36.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub Vec<Option<usize>>);

impl Outcomes {
    /// How many points no row up to this one broke.
    pub fn robust_after(&self, row: usize) -> usize {
        self.0.iter().filter(|broken| broken.is_none_or(|by| by > row)).count()
    }

    /// Points that have withstood everything so far, in order.
    pub fn robust(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, broken)| broken.is_none()).map(|(point, _)| point)
    }
}

impl Serialize for Outcomes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let letter = |by: &Option<usize>| by.map_or('.', |by| char::from_digit(by as u32, 36).unwrap_or('?'));
        serializer.serialize_str(&self.0.iter().map(letter).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Outcomes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outcomes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let outcome = |letter: char| match (letter, letter.to_digit(36)) {
            ('.', _) => Ok(None),
            (_, Some(by)) => Ok(Some(by as usize)),
            _ => Err(serde::de::Error::custom(format!("'{letter}' is no outcome of a point"))),
        };
        text.chars().map(outcome).collect::<Result<_, _>>().map(Outcomes)
    }
}

/// One attack of the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `clean`, or the attack.
    pub attack: String,
    /// Points that withstood it and all before it, in percent of all points.
    pub accuracy: f64,
    /// The same as a number of points.
    pub robust: usize,
    /// Points that it was given.
    pub attacked: usize,
    pub seconds: f64,
    /// Whether the network has too few classes for it, so that it did not run.
    #[serde(default)]
    pub skipped: bool,
}

/// How often the network was asked, in images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// Logits.
    pub forward: u64,
    /// Those among them that were differentiated.
    pub differentiated: u64,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `standard`, `plus`, `rand` or `custom`.
    pub version: String,
    #[serde(rename = "results")]
    pub rows: Vec<Row>,
    pub outcomes: Outcomes,
    pub warnings: Vec<String>,
    pub verification: Verification,
    /// Of the attacks and the clean pass, without checks and verification.
    pub passes: Passes,
}

impl Verdict {
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
        let ran = |row: &&Row| row.attack != CLEAN && !row.skipped;
        let least = |of_square: bool| {
            let rows = self.rows.iter().filter(ran).filter(|row| (row.attack == "square") == of_square);
            rows.map(|row| row.accuracy).min_by(f64::total_cmp)
        };
        if let (Some(square), Some(others)) = (least(true), least(false))
            // A share of the points that is 0.2 % exactly may come out above it by a rounding error.
            && others - square > SQUARE_MARGIN + 1e-9
        {
            self.warnings.push(format!(
                "square lowers the robust accuracy from {others:.2} % to {square:.2} %: the gradients probably mislead the other attacks"
            ));
        }
    }

    /// The verdict on the points of several shards, in order.
    ///
    /// Errors: [`Error::Value`] for other rows, or none at all.
    pub fn joined(parts: Vec<Verdict>) -> Result<Verdict> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().ok_or_else(|| Error::value("merge", 0, "there is nothing to merge"))?;
        for part in parts {
            let names =
                |verdict: &Verdict| verdict.rows.iter().map(|row| row.attack.clone()).collect::<Vec<_>>();
            if names(&part) != names(&whole) {
                return Err(Error::value(
                    "merge",
                    names(&part).join(","),
                    format!("other shards ran {}", names(&whole).join(",")),
                ));
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

    fn verdict(outcomes: &str, rows: &[&str]) -> Verdict {
        let row = |name: &&str| {
            let attack = (*name).to_owned();
            Row { attack, accuracy: 0.0, robust: 0, attacked: 1, seconds: 0.5, skipped: false }
        };
        let mut verdict = Verdict {
            version: "custom".into(),
            rows: rows.iter().map(row).collect(),
            outcomes: serde_json::from_value(outcomes.into()).unwrap(),
            warnings: vec![],
            verification: Verification::default(),
            passes: Passes::default(),
        };
        verdict.count();
        verdict
    }

    #[test]
    fn accuracies_follow_from_the_outcomes() {
        let verdict = verdict(".0.12..1.a", &["clean", "apgd-ce", "fab-t"]);
        assert_eq!(verdict.outcomes.0[4], Some(2));
        assert_eq!(serde_json::to_value(&verdict.outcomes).unwrap(), ".0.12..1.a");
        assert_eq!(verdict.rows.iter().map(|row| row.robust).collect::<Vec<_>>(), [9, 7, 6]);
        assert_eq!((verdict.clean(), verdict.robust()), (90.0, 60.0));
        assert!(serde_json::from_value::<Outcomes>("..!".into()).is_err());
    }

    #[test]
    fn square_is_suspicious_when_it_finds_more_than_the_others() {
        let warned = |outcomes: &str, rows: &[&str]| verdict(outcomes, rows).warnings;
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
        let mut parts = [verdict(".0", &rows), verdict("12", &rows)];
        parts[1].warnings.push("a warning".into());
        let whole = Verdict::joined(parts.to_vec()).unwrap();
        assert_eq!(
            whole.rows.iter().map(|row| (row.robust, row.attacked, row.seconds)).collect::<Vec<_>>(),
            [(3, 2, 1.0), (2, 2, 1.0), (1, 2, 1.0)]
        );
        assert_eq!(whole.warnings.len(), 2, "{:?}", whole.warnings);
        assert!(Verdict::joined(vec![verdict(".", &rows), verdict(".", &rows[..2])]).is_err());
        assert!(Verdict::joined(vec![]).is_err());
    }
}
