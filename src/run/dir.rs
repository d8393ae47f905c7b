//! The run directory: `run.json`, `metrics.jsonl`, `log.csv`, `summary.json` and `checkpoints/`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::data;
use crate::error::{Error, Result, ensure};
use crate::files::{read_text, write_atomic};
use crate::nn::Arch;

/// The record of what was asked for, and of how the run was called.
const RUN: &str = "run.json";

/// The files of records in a run directory, and the folder of its checkpoints.
const RECORDS: [&str; 5] = [RUN, "metrics.jsonl", "log.csv", "summary.json", "checkpoints"];

/// The records of the run that `weights`, a run directory or a checkpoint in it, belongs to; none for another
/// file.
pub fn records_of(weights: &Path) -> Vec<PathBuf> {
    let of_checkpoint =
        weights.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
    let root = [Some(weights), of_checkpoint].into_iter().flatten().find(|root| root.join(RUN).is_file());
    root.map(|root| RECORDS.map(|name| root.join(name)).to_vec()).unwrap_or_default()
}

/// The results of a run: `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Accuracy on clean test images, in percent.
    pub clean_acc: f64,
    /// Accuracy under PGD-20 on test images, in percent.
    pub pgd20_acc: f64,
    /// Training images a second.
    pub images_per_s: f64,
    /// Wall time of the run.
    pub seconds: f64,
    /// The device it ran on.
    pub device: String,
    /// The seed.
    pub seed: u64,
    /// Further facts.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A folder with the records of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
    /// The content of `run.json`, which is read once.
    record: Map<String, Value>,
}

impl RunDir {
    /// Makes the folder with `checkpoints/` in it and writes `record` to `run.json`.
    ///
    /// Errors: [`Error::File`] when it already holds a run, which is left alone; [`Error::Io`] when it cannot
    /// be made or written.
    pub fn create(root: &Path, record: Map<String, Value>) -> Result<RunDir> {
        let taken =
            [RUN, "metrics.jsonl", "log.csv", "summary.json"].into_iter().find(|f| root.join(f).exists());
        if let Some(file) = taken {
            let remedy = "choose another folder with --out, or delete this one";
            return Err(Error::file(root, format!("already holds a run ({file}); {remedy}")));
        }
        fs::create_dir_all(root.join("checkpoints"))
            .map_err(Error::io(root, "cannot create the run directory"))?;
        let dir = RunDir { root: root.to_owned(), record };
        dir.write_json(RUN, &dir.record)?;
        Ok(dir)
    }

    /// Opens the folder of an earlier run and reads its `run.json`.
    ///
    /// Errors: [`Error::File`] when there is none, or it is not a JSON object; [`Error::Io`] when it cannot
    /// be read.
    pub fn open(root: &Path) -> Result<RunDir> {
        let path = root.join(RUN);
        let no_run = || Error::file(root, format!("holds no run (there is no {RUN} in it)"));
        ensure(path.is_file(), no_run)?;
        let text = read_text(&path, "cannot read the record of a run")?;
        let record = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("not the record of a run: {error}")))?;
        Ok(RunDir { root: root.to_owned(), record })
    }

    /// The hyper-parameters of the run.
    ///
    /// Errors, all naming `run.json`: it holds no configuration, a key that is not known, or a wrong value.
    pub fn config(&self) -> Result<Config> {
        let path = self.root.join(RUN);
        let keys = self.record.get("config").and_then(Value::as_object);
        let keys = keys.ok_or_else(|| Error::file(&path, "holds no 'config'"))?;
        let config = Config::from_json(keys).and_then(|config| {
            Arch::find(&config.model)?;
            data::find(&config.dataset)?;
            config.validate().map(|()| config)
        });
        config.map_err(|error| Error::file(&path, error.to_string()))
    }

    /// The name of the run's recipe.
    pub fn recipe(&self) -> &str {
        self.record.get("recipe").and_then(Value::as_str).unwrap_or("custom")
    }

    /// Drops the records of epochs after `epochs_done`, which will be run again, and a half-written last
    /// line.
    pub fn forget_after(&self, epochs_done: usize) -> Result<()> {
        let epoch_of = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("epoch")?.as_u64();
        self.keep_lines("metrics.jsonl", |line| {
            epoch_of(line).is_some_and(|epoch| epoch <= epochs_done as u64)
        })?;
        let row_of = |line: &str| line.split(',').next().and_then(|epoch| epoch.parse::<usize>().ok());
        self.keep_lines("log.csv", |line| {
            line.starts_with("Epoch,") || row_of(line).is_some_and(|epoch| epoch <= epochs_done)
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of checkpoint `name`: `best`, `last` or `epoch-N`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.root.join("checkpoints").join(format!("{name}.safetensors"))
    }

    /// The file that holds the whole state of an unfinished run.
    pub fn state(&self) -> PathBuf {
        self.checkpoint("state")
    }

    /// Adds a fact that is known only at the end, such as the wall time, to `run.json`.
    pub fn add_fact(&mut self, name: &str, value: Value) -> Result<()> {
        self.record.insert(name.to_owned(), value);
        self.write_json(RUN, &self.record)
    }

    /// Writes `summary.json`.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        self.write_json("summary.json", summary)
    }

    /// Writes `value` as indented JSON to `file` in the folder.
    ///
    /// Errors: [`Error::Io`]; the old file stays then.
    pub fn write_json(&self, file: &str, value: &impl Serialize) -> Result<()> {
        let path = self.root.join(file);
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Error::file(&path, error.to_string()))?;
        write_atomic(&path, (text + "\n").as_bytes())
    }

    /// Appends an epoch's object to `metrics.jsonl`; it has `epoch`, counted from 1, which
    /// [`RunDir::forget_after`] goes by.
    pub fn append_metrics(&self, metrics: &Map<String, Value>) -> Result<()> {
        let path = self.root.join("metrics.jsonl");
        let line = serde_json::to_string(metrics).map_err(|error| Error::file(&path, error.to_string()))?;
        append(&path, &(line + "\n"))
    }

    /// Appends the row of an epoch, counted from 1, to `log.csv`: columns with their names, empty where
    /// nothing was measured.
    pub fn append_log(&self, epoch: usize, columns: &[(&str, Option<f64>)]) -> Result<()> {
        let path = self.root.join("log.csv");
        let names: String = columns.iter().map(|(name, _)| format!(",{name}")).collect();
        let header = if path.exists() { String::new() } else { format!("Epoch{names}\n") };
        let cells = columns.iter().map(|(_, cell)| cell.map(|number| number.to_string()).unwrap_or_default());
        let row: String = cells.map(|cell| format!(",{cell}")).collect();
        append(&path, &format!("{header}{epoch}{row}\n"))
    }

    /// Rewrites `file`, if it is there, with only the whole lines that `keep` accepts.
    fn keep_lines(&self, file: &str, keep: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.root.join(file);
        if !path.exists() {
            return Ok(());
        }
        let old = fs::read_to_string(&path).map_err(Error::io(&path, "cannot read"))?;
        let whole = |line: &&str| line.ends_with('\n') && keep(line.trim_end());
        let new: String = old.split_inclusive('\n').filter(whole).collect();
        if new == old { Ok(()) } else { write_atomic(&path, new.as_bytes()) }
    }
}

/// Appends `text` and syncs it; when that fails (a full disk), the part that was written is removed.
fn append(path: &Path, text: &str) -> Result<()> {
    let add = || {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let before = file.metadata()?.len();
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).inspect_err(|_| {
            file.set_len(before).ok();
        })
    };
    add().map_err(Error::io(path, "cannot append"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_run_and_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("runs/one");
        let mut run = RunDir::create(&root, object(json!({"seed": 3, "recipe": "digits"}))).unwrap();
        assert!(run.checkpoint("best").parent().unwrap().is_dir());
        assert_eq!(run.checkpoint("epoch-2"), root.join("checkpoints/epoch-2.safetensors"));
        for epoch in 1..=2 {
            run.append_metrics(&object(json!({"epoch": epoch, "loss": 0.5}))).unwrap();
            run.append_log(epoch, &[("Train Time", Some(1.5)), ("Test Time", None), ("LR", Some(0.1))])
                .unwrap();
        }
        assert_eq!(
            fs::read_to_string(root.join("metrics.jsonl")).unwrap(),
            "{\"epoch\":1,\"loss\":0.5}\n{\"epoch\":2,\"loss\":0.5}\n"
        );
        let log = fs::read_to_string(root.join("log.csv")).unwrap();
        assert_eq!(log, "Epoch,Train Time,Test Time,LR\n1,1.5,,0.1\n2,1.5,,0.1\n");
        let summary = Summary {
            clean_acc: 97.5,
            pgd20_acc: 78.6,
            images_per_s: 3500.0,
            seconds: 20.0,
            device: "host".into(),
            seed: 3,
            extra: object(json!({"epochs": 2})),
        };
        run.write_summary(&summary).unwrap();
        let text = fs::read_to_string(root.join("summary.json")).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["epochs"], 2);
        run.add_fact("seconds", json!(1.5)).unwrap();
        let again = RunDir::open(&root).unwrap();
        assert_eq!(again.record, object(json!({"seed": 3, "recipe": "digits", "seconds": 1.5})));
        assert_eq!(again.recipe(), "digits");
    }

    #[test]
    fn a_second_run_in_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        RunDir::create(dir.path(), object(json!({"seed": 1}))).unwrap();
        let error = RunDir::create(dir.path(), object(json!({"seed": 2}))).unwrap_err().to_string();
        let problem = "already holds a run (run.json); choose another folder with --out, or delete this one";
        assert_eq!(error, format!("{}: {problem}", dir.path().display()));
        assert_eq!(RunDir::open(dir.path()).unwrap().record["seed"], 1);
    }

    #[test]
    fn resuming_drops_what_will_be_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), object(json!({"seed": 1}))).unwrap();
        for epoch in 1..=3 {
            run.append_metrics(&object(json!({"epoch": epoch}))).unwrap();
            run.append_log(epoch, &[("LR", None)]).unwrap();
        }
        append(&dir.path().join("metrics.jsonl"), "{\"epoch\":1").unwrap();
        RunDir::open(dir.path()).unwrap().forget_after(2).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap(),
            "{\"epoch\":1}\n{\"epoch\":2}\n"
        );
        assert_eq!(
            fs::read_to_string(dir.path().join("log.csv")).unwrap().lines().count(),
            3,
            "the header and two epochs"
        );
    }

    #[test]
    fn bad_folders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let inside = file.join("run");
        let error = RunDir::create(&inside, Map::new()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: cannot create the run directory: ", inside.display())),
            "{error}"
        );
        let record = dir.path().join("run.json");
        let opened = || RunDir::open(dir.path()).and_then(|run| run.config());
        let message = || opened().unwrap_err().to_string();
        assert_eq!(message(), format!("{}: holds no run (there is no run.json in it)", dir.path().display()));
        for (text, problem) in [
            ("[]", "not the record of a run: "),
            (r#"{"seed": 3}"#, "holds no 'config'"),
            (r#"{"config": {"lr": "fast"}}"#, "lr = fast: "),
            (r#"{"config": {"epoch": 3}}"#, "unknown key 'epoch' (did you mean 'epochs'?); known: "),
        ] {
            fs::write(&record, text).unwrap();
            assert!(
                message().starts_with(&format!("{}: {problem}", record.display())),
                "{text}: {}",
                message()
            );
        }
        fs::write(&record, r#"{"config": {"lr": 0.5}}"#).unwrap();
        assert_eq!(opened().unwrap().lr, 0.5);
    }
}
