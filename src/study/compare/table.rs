//! The table of a comparison: accuracies by method and seed, as Markdown, CSV and JSON.

use crate::config::Select;
use crate::error::Result;
use crate::files::write_atomic;
use crate::run::provenance::Provenance;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub dataset: String,
    pub device: String,
    pub seeds: Vec<u64>,
    /// Names of the columns of accuracies.
    pub columns: Vec<String>,
    pub rows: Vec<ComparisonRow>,
}

/// The results of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// The entry's name in tables: [`display_name`](super::display_name).
    pub name: String,
    pub recipe: String,
    pub model: String,
    /// How the checkpoint was selected.
    pub select: Select,
    /// `columns[c][s]`: accuracy c with seed s, in percent.
    pub columns: Vec<Vec<f64>>,
    /// Total time of its runs.
    pub seconds: f64,
}

/// A metric's values by seed, and their mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistic {
    pub mean: f64,
    /// The sample standard deviation; `None` for a single seed.
    pub sd: Option<f64>,
    pub values: Vec<f64>,
}

impl Statistic {
    pub fn of(values: Vec<f64>) -> Statistic {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Statistic { mean, sd: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()), values }
    }

    /// `mean ± standard deviation`.
    fn text(&self) -> String {
        let Statistic { mean, sd, .. } = self;
        sd.map_or_else(|| format!("{mean:.2}"), |sd| format!("{mean:.2} ± {sd:.2}"))
    }
}

impl ComparisonRow {
    /// The accuracies, then Mean = (clean + robust) / 2 and NRR = 2 clean robust / (clean + robust), where
    /// robust is the last accuracy.
    fn metrics(&self) -> Vec<Statistic> {
        let (Some(clean), Some(robust)) = (self.columns.first(), self.columns.last()) else { return vec![] };
        let pairs = || clean.iter().zip(robust);
        let mean = pairs().map(|(c, r)| (c + r) / 2.0).collect();
        let nrr = pairs().map(|(c, r)| if c + r > 0.0 { 2.0 * c * r / (c + r) } else { 0.0 }).collect();
        self.columns.iter().cloned().chain([mean, nrr]).map(Statistic::of).collect()
    }
}

impl Comparison {
    /// The names of [`ComparisonRow::metrics`].
    fn metric_names(&self) -> Vec<String> {
        self.columns.iter().cloned().chain(["Mean".into(), "NRR".into()]).collect()
    }

    /// The table as cells: headings, then a row per entry with `mean ± standard deviation` of each metric.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let several_models = self.rows.iter().any(|row| row.model != self.rows[0].model);
        let name = |row: &ComparisonRow| match several_models {
            true => format!("{}, {}", row.name, row.model),
            false => row.name.clone(),
        };
        let head = [vec!["method".into()], self.metric_names()].concat();
        let row = |row: &ComparisonRow| {
            [name(row)].into_iter().chain(row.metrics().iter().map(Statistic::text)).collect()
        };
        [head].into_iter().chain(self.rows.iter().map(row)).collect()
    }

    pub fn markdown(&self) -> String {
        let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | "));
        let cells = self.cells();
        let rule = format!("|---|{}\n", "---:|".repeat(self.metric_names().len()));
        let note = self.note().map(|note| format!("\n{note}\n")).unwrap_or_default();
        cells.first().map(line).unwrap_or_default()
            + &rule
            + &cells.iter().skip(1).map(line).collect::<String>()
            + &note
    }

    /// A caveat that the numbers need, if any.
    pub fn note(&self) -> Option<&'static str> {
        let on_test = self.rows.iter().any(|row| row.select == Select::Test);
        on_test.then_some(
            "Checkpoints were selected on the test set (select = test): these numbers are optimistic.",
        )
    }

    /// A line per entry and metric: mean, standard deviation, then each seed's value.
    pub fn csv(&self) -> String {
        let seeds: String = self.seeds.iter().map(|seed| format!(",seed {seed}")).collect();
        let mut text = format!("method,recipe,model,select,figure,mean,sd{seeds}\n");
        for row @ ComparisonRow { name, recipe, model, select, .. } in &self.rows {
            for (metric, Statistic { mean, sd, values }) in self.metric_names().iter().zip(row.metrics()) {
                let sd = sd.map(|sd| sd.to_string()).unwrap_or_default();
                let values: String = values.iter().map(|v| format!(",{v}")).collect();
                text += &format!("{name},{recipe},{model},{select},{metric},{mean},{sd}{values}\n");
            }
        }
        text
    }

    pub fn to_json(&self, provenance: &Provenance) -> Value {
        let row = |row: &ComparisonRow| {
            let figures = self.metric_names().into_iter().zip(row.metrics());
            json!({
                "method": row.name,
                "recipe": row.recipe,
                "model": row.model,
                "select": row.select.to_string(),
                "seconds": row.seconds,
                "figures": figures.map(|(name, statistic)| (name, json!(statistic))).collect::<Value>(),
            })
        };
        json!({
            "command": provenance.command,
            "commit": provenance.commit,
            "provenance": provenance,
            "dataset": self.dataset,
            "device": self.device,
            "seeds": self.seeds,
            "rows": self.rows.iter().map(row).collect::<Value>(),
        })
    }

    /// Writes `compare.md`, `compare.csv` and `compare.json`.
    pub fn write(&self, folder: &Path, provenance: &Provenance) -> Result<()> {
        write_atomic(&folder.join("compare.md"), self.markdown().as_bytes())?;
        write_atomic(&folder.join("compare.csv"), self.csv().as_bytes())?;
        write_atomic(&folder.join("compare.json"), format!("{:#}\n", self.to_json(provenance)).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_table() {
        let row = |name: &str, clean: [f64; 2], pgd: [f64; 2]| ComparisonRow {
            name: name.into(),
            recipe: name.into(),
            model: "resnet-mini".into(),
            select: Select::Heldout,
            columns: vec![clean.to_vec(), pgd.to_vec()],
            seconds: 1.0,
        };
        let table = Comparison {
            dataset: "digits".into(),
            device: "host".into(),
            seeds: vec![0, 1],
            columns: vec!["clean".into(), "PGD-20".into()],
            rows: vec![row("pgd-at", [80.0, 90.0], [40.0, 60.0])],
        };
        let text = "| method | clean | PGD-20 | Mean | NRR |\n|---|---:|---:|---:|---:|\n\
                    | pgd-at | 85.00 ± 7.07 | 50.00 ± 14.14 | 67.50 ± 10.61 | 62.67 ± 13.20 |\n";
        assert_eq!(table.markdown(), text);
        assert!(
            table.csv().contains("pgd-at,pgd-at,resnet-mini,heldout,NRR,62.66666666666667,"),
            "{}",
            table.csv()
        );
        assert_eq!(table.to_json(&Provenance::default())["rows"][0]["figures"]["clean"]["mean"], 85.0);
        assert_eq!(Statistic::of(vec![3.0]), Statistic { mean: 3.0, sd: None, values: vec![3.0] });
    }
}
