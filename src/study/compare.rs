//! Methods times seeds on one data set: every run in a directory of its own, so that an interrupted
//! comparison goes on where it was.

use crate::attack::Params;
use crate::config::recipe::{self, Recipe};
use crate::config::{Config, KEYS, METHOD_GROUP, Select};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::eval;
use crate::files::write_atomic;
use crate::method;
use crate::run::dir::{RunDir, Summary};
use crate::run::observer::Observer;
use crate::train::{self, TrainJob};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Keys that two runs of one experiment may differ in.
const NEUTRAL: &[&str] = &["device", "data", "out", "checkpoint_every", "log_every"];

/// What is to be compared.
pub struct Request {
    pub contenders: Vec<Recipe>,
    pub seeds: Vec<u64>,
    /// Attacks besides PGD-20, as `saddle eval` knows them. The last one is the robust accuracy of Mean and
    /// NRR.
    pub attacks: Vec<String>,
    /// Where runs and tables go.
    pub out: PathBuf,
    pub device: DeviceChoice,
    /// The command line, for the records.
    pub command: String,
}

/// The recipes for a data set, of which `methods` (none: all) and `model` (none: all) choose; each with
/// `settings` applied.
///
/// Errors: a method or model that no recipe of the data set has; a setting that cannot be read.
pub fn contenders(
    dataset: &str,
    methods: &[String],
    model: Option<&str>,
    settings: &[(String, String)],
) -> Result<Vec<Recipe>> {
    let all = recipe::names()?.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<Recipe> = all.into_iter().filter(|r| r.config.dataset == dataset).collect();
    found.sort_by_key(|r| method::METHODS.iter().position(|m| m.name == r.config.method));
    if let Some(model) = model {
        let known: std::collections::BTreeSet<String> =
            found.iter().map(|r| r.config.model.clone()).collect();
        found.retain(|r| r.config.model == model);
        if found.is_empty() {
            return Err(Error::unknown(
                &format!("model with recipes for {dataset}"),
                model,
                known.iter().map(String::as_str),
            ));
        }
    }
    if !methods.is_empty() {
        let is = |r: &Recipe, wanted: &str| {
            r.name == wanted || method::find(wanted).is_ok_and(|m| m.name == r.config.method)
        };
        if let Some(missing) = methods.iter().find(|wanted| !found.iter().any(|r| is(r, wanted))) {
            let known: Vec<&str> = found.iter().map(|r| r.config.method.as_str()).collect();
            return Err(Error::unknown(&format!("method or recipe for {dataset}"), missing, known));
        }
        found.retain(|r| methods.iter().any(|wanted| is(r, wanted)));
    }
    for recipe in &mut found {
        method::apply(&mut recipe.config, settings)?;
        train::validate(&recipe.config)?;
    }
    if found.is_empty() {
        return Err(Error::value("dataset", dataset, "no recipe is for it; 'saddle recipes' lists all"));
    }
    Ok(found)
}

/// What a contender is called in tables: its method, with what RPAT stands on, or what boundary samples and
/// others keep.
pub fn label(config: &Config) -> String {
    match method::find(&config.method) {
        Ok(entry) if entry.keys.contains(&"base") => format!("{} on {}", entry.name, config.base),
        Ok(entry) if entry.keys.contains(&"rho_boundary") => {
            format!("{} ({}; {})", entry.name, config.rho_boundary, config.rho_other)
        }
        _ => config.method.clone(),
    }
}

/// One contender's results: for each column one number a seed, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub label: String,
    pub recipe: String,
    pub model: String,
    /// What chose the checkpoint.
    pub select: Select,
    pub columns: Vec<Vec<f64>>,
    /// Seconds of all its runs.
    pub seconds: f64,
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub dataset: String,
    pub device: String,
    pub seeds: Vec<u64>,
    /// Names of the columns of accuracies.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// Mean and sample standard deviation; of a single value there is none.
pub fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

impl Row {
    /// The accuracies, then Mean = (clean + robust) / 2 and NRR = 2 clean robust / (clean + robust), robust
    /// being the last column.
    fn figures(&self) -> Vec<Vec<f64>> {
        let (Some(clean), Some(robust)) = (self.columns.first(), self.columns.last()) else { return vec![] };
        let pairs = || clean.iter().zip(robust);
        let mean = pairs().map(|(c, r)| (c + r) / 2.0).collect();
        let nrr = pairs().map(|(c, r)| if c + r > 0.0 { 2.0 * c * r / (c + r) } else { 0.0 }).collect();
        self.columns.iter().cloned().chain([mean, nrr]).collect()
    }
}

impl Table {
    fn headings(&self) -> Vec<String> {
        self.columns.iter().cloned().chain(["Mean".into(), "NRR".into()]).collect()
    }

    /// The table as cells: headings, then a row for each contender; `mean ± standard deviation`.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let models = self.rows.iter().any(|row| row.model != self.rows[0].model);
        let name =
            |row: &Row| if models { format!("{}, {}", row.label, row.model) } else { row.label.clone() };
        let text = |values: &Vec<f64>| match mean_and_deviation(values) {
            (mean, Some(deviation)) => format!("{mean:.2} ± {deviation:.2}"),
            (mean, None) => format!("{mean:.2}"),
        };
        let head = ["method".into()].into_iter().chain(self.headings()).collect();
        let row = |row: &Row| [name(row)].into_iter().chain(row.figures().iter().map(text)).collect();
        [head].into_iter().chain(self.rows.iter().map(row)).collect()
    }

    pub fn markdown(&self) -> String {
        let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | "));
        let cells = self.cells();
        let rule = format!("|---|{}\n", "---:|".repeat(self.headings().len()));
        let note = self.note().map(|note| format!("\n{note}\n")).unwrap_or_default();
        cells.first().map(line).unwrap_or_default()
            + &rule
            + &cells.iter().skip(1).map(line).collect::<String>()
            + &note
    }

    /// What must be said of the figures.
    pub fn note(&self) -> Option<&'static str> {
        let on_test = self.rows.iter().any(|row| row.select == Select::Test);
        on_test
            .then_some("Checkpoints were selected on the test set (select = test): the figures are too good.")
    }

    /// A line for each contender and figure: mean, standard deviation, then every seed's value.
    pub fn csv(&self) -> String {
        let seeds: String = self.seeds.iter().map(|seed| format!(",seed {seed}")).collect();
        let mut text = format!("method,recipe,model,select,figure,mean,sd{seeds}\n");
        for row in &self.rows {
            for (figure, values) in self.headings().iter().zip(row.figures()) {
                let (mean, deviation) = mean_and_deviation(&values);
                let deviation = deviation.map(|d| d.to_string()).unwrap_or_default();
                let values: String = values.iter().map(|v| format!(",{v}")).collect();
                let of = format!("{},{},{},{}", row.label, row.recipe, row.model, row.select);
                text += &format!("{of},{figure},{mean},{deviation}{values}\n");
            }
        }
        text
    }

    pub fn to_json(&self, command: &str) -> Value {
        let row = |row: &Row| {
            let figures: serde_json::Map<String, Value> = self
                .headings()
                .into_iter()
                .zip(row.figures())
                .map(|(name, values)| {
                    let (mean, sd) = mean_and_deviation(&values);
                    (name, json!({ "mean": mean, "sd": sd, "values": values }))
                })
                .collect();
            json!({
                "method": row.label,
                "recipe": row.recipe,
                "model": row.model,
                "select": row.select.to_string(),
                "seconds": row.seconds,
                "figures": figures,
            })
        };
        json!({
            "command": command,
            "commit": env!("SADDLE_COMMIT"),
            "dataset": self.dataset,
            "device": self.device,
            "seeds": self.seeds,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Writes `compare.md`, `compare.csv` and `compare.json`.
    pub fn write(&self, folder: &Path, command: &str) -> Result<()> {
        write_atomic(&folder.join("compare.md"), self.markdown().as_bytes())?;
        write_atomic(&folder.join("compare.csv"), self.csv().as_bytes())?;
        write_atomic(&folder.join("compare.json"), format!("{:#}\n", self.to_json(command)).as_bytes())
    }
}

/// Runs what is missing, evaluates, and writes the tables, which are up to date after every contender.
pub fn run(request: &Request, observer: &mut dyn Observer, stop: &Arc<AtomicBool>) -> Result<Table> {
    let Request { contenders, seeds, attacks, out, .. } = request;
    let mut columns = vec!["clean".to_owned(), "PGD-20".to_owned()];
    columns.extend(attacks.iter().cloned());
    let dataset = contenders.first().map(|r| r.config.dataset.clone()).unwrap_or_default();
    let mut table = Table { dataset, device: String::new(), seeds: seeds.clone(), columns, rows: vec![] };
    let (of, mut number) = (contenders.len() * seeds.len(), 0);
    std::fs::create_dir_all(out).map_err(Error::io(out, "cannot create the folder"))?;
    for recipe in contenders {
        let mut row = Row {
            label: label(&recipe.config),
            recipe: recipe.name.clone(),
            model: recipe.config.model.clone(),
            select: recipe.config.select,
            columns: vec![vec![]; table.columns.len()],
            seconds: 0.0,
        };
        for seed in seeds {
            number += 1;
            observer.begins(number, of, &format!("{}, seed {seed}", row.label));
            let (dir, summary) = one(request, recipe, *seed, observer, stop)?;
            let mut values = vec![summary.clean_acc, summary.pgd20_acc];
            for attack in attacks {
                values.push(judged(request, recipe, &dir, attack, observer, stop)?);
            }
            row.columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
            row.seconds += summary.seconds;
            table.device = summary.device;
        }
        table.rows.push(row);
        table.write(out, &request.command)?;
    }
    observer.finished();
    Ok(table)
}

/// One run: read if it is there, resumed if it was interrupted, else trained.
fn one(
    request: &Request,
    recipe: &Recipe,
    seed: u64,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<(PathBuf, Summary)> {
    let dir = request.out.join("runs").join(format!("{}-seed{seed}", recipe.name));
    let mut config = recipe.config.clone();
    (config.seed, config.out, config.device) = (seed, Some(dir.clone()), request.device);
    let begun = dir.join("run.json").is_file().then(|| RunDir::open(&dir)).transpose()?;
    if let Some(run) = &begun {
        let recorded = run.config()?;
        same_settings(&dir, &recorded, &config)?;
        config = Config { device: request.device, ..recorded };
    }
    let finished = dir.join("summary.json");
    if finished.is_file() {
        let text =
            std::fs::read_to_string(&finished).map_err(Error::io(&finished, "cannot read the summary"))?;
        let summary =
            serde_json::from_str(&text).map_err(|e| Error::file(&finished, format!("not a summary: {e}")))?;
        return Ok((dir, summary));
    }
    let job = TrainJob {
        config,
        recipe: recipe.name.clone(),
        reference: recipe.reference.clone(),
        command: request.command.clone(),
        resume: begun,
    };
    let trained = train::run(&job, observer, stop).map_err(|error| interrupted(error, &job.command))?;
    Ok((trained.dir, trained.summary))
}

/// It is the comparison that goes on, not the run.
fn interrupted(error: Error, command: &str) -> Error {
    match error {
        Error::Interrupted { saved, .. } => Error::Interrupted { saved, resume: command.to_owned() },
        other => other,
    }
}

/// Errors: a run directory whose settings are others, with the first that differs.
fn same_settings(dir: &Path, there: &Config, config: &Config) -> Result<()> {
    let read = method::find(&config.method).map(|m| m.keys).unwrap_or_default();
    let matters = |key: &&crate::config::Key| {
        !NEUTRAL.contains(&key.name) && (key.group != METHOD_GROUP || read.contains(&key.name))
    };
    match KEYS.iter().filter(matters).find(|key| (key.get)(there) != (key.get)(config)) {
        Some(key) => {
            let (name, had, wants) = (key.name, key.text(there), key.text(config));
            Err(Error::file(
                dir,
                format!("holds a run with {name} = {had}, not {wants}; choose another --out, or delete it"),
            ))
        }
        None => Ok(()),
    }
}

/// A run's accuracy under one more attack, measured once and kept in its directory; also the progress of
/// AutoAttack.
fn judged(
    request: &Request,
    recipe: &Recipe,
    dir: &Path,
    attack: &str,
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<f64> {
    let out = dir.join(format!("eval-{attack}.json"));
    let state = attack.starts_with("autoattack").then(|| dir.join(format!("eval-{attack}.state")));
    if !out.is_file() {
        let config = &recipe.config;
        eval::run(
            &eval::EvalRequest {
                weights: dir.to_owned(),
                dataset: config.dataset.clone(),
                data: config.data.clone(),
                attacks: vec![attack.to_owned()],
                params: Params { ball: config.ball(), ..Params::default() },
                n: None,
                batch: Config::default().batch,
                device: request.device,
                out: Some(out.clone()),
                extras: eval::Extras { state, stop: stop.clone(), ..eval::Extras::default() },
            },
            observer,
        )
        .map_err(|error| interrupted(error, &request.command))?;
    }
    let text = std::fs::read_to_string(&out).map_err(Error::io(&out, "cannot read the evaluation"))?;
    let report: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(&out, format!("not an evaluation: {e}")))?;
    // The last row is the attack's, or what AutoAttack's last attack left.
    let accuracy = report["results"].as_array().and_then(|rows| rows.last()?["accuracy"].as_f64());
    accuracy.ok_or_else(|| Error::file(&out, format!("holds no accuracy under {attack}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_table() {
        let row = |label: &str, clean: [f64; 2], pgd: [f64; 2]| Row {
            label: label.into(),
            recipe: label.into(),
            model: "resnet-mini".into(),
            select: Select::Heldout,
            columns: vec![clean.to_vec(), pgd.to_vec()],
            seconds: 1.0,
        };
        let table = Table {
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
        assert_eq!(table.to_json("x")["rows"][0]["figures"]["clean"]["mean"], 85.0);
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, None));
    }

    #[test]
    fn contenders_by_method_and_model() {
        let names = |methods: &[&str]| -> Vec<String> {
            let methods: Vec<String> = methods.iter().map(|m| (*m).to_owned()).collect();
            contenders("digits", &methods, None, &[]).unwrap().into_iter().map(|r| label(&r.config)).collect()
        };
        assert_eq!(names(&["pgd-at", "raat"]), ["pgd-at", "raat"]);
        assert_eq!(names(&["rpat"]).len(), 4);
        let every: std::collections::BTreeSet<String> =
            contenders("digits", &[], None, &[]).unwrap().into_iter().map(|r| r.config.method).collect();
        let known =
            method::METHODS.iter().map(|m| m.name.to_owned()).filter(|name| name != "boundary-at").collect();
        assert_eq!(every, known, "every method has a digits recipe");
        let unknown = contenders("digits", &["tradez".into()], None, &[]).unwrap_err().to_string();
        assert!(
            unknown.starts_with("unknown method or recipe for digits 'tradez' (did you mean 'trades'?)"),
            "{unknown}"
        );
        assert!(
            contenders("digits", &[], Some("resnet19"), &[])
                .unwrap_err()
                .to_string()
                .starts_with("unknown model with recipes for digits"),
            "model"
        );
    }
}
