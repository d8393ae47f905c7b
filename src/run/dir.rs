//! The run directory: `run.json`, `metrics.jsonl`, `log.csv`, `summary.json` and `checkpoints/`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// One line of `log.csv`: losses, and accuracies in `[0, 1]`, times in seconds; what was not measured stays
/// empty.
#[derive(Clone, Debug, Default)]
pub struct LogRow {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Seconds of training.
    pub train_time: f64,
    /// Seconds of evaluation.
    pub test_time: Option<f64>,
    /// The learning rate at the end of the epoch.
    pub lr: f64,
    /// Mean loss on clean training images.
    pub train_loss: Option<f64>,
    /// Accuracy on clean training images.
    pub train_acc: Option<f64>,
    /// Mean loss on adversarial training images.
    pub train_robust_loss: Option<f64>,
    /// Accuracy on adversarial training images.
    pub train_robust_acc: Option<f64>,
    /// Mean loss on clean evaluation images.
    pub test_loss: Option<f64>,
    /// Accuracy on clean evaluation images.
    pub test_acc: Option<f64>,
    /// Mean loss on adversarial evaluation images.
    pub test_robust_loss: Option<f64>,
    /// Accuracy on adversarial evaluation images.
    pub test_robust_acc: Option<f64>,
}

/// The first line of `log.csv`.
const LOG_HEADER: &str = "Epoch,Train Time,Test Time,LR,Train Loss,Train Acc,Train Robust Loss,Train Robust Acc,\
                          Test Loss,Test Acc,Test Robust Loss,Test Robust Acc\n";

impl LogRow {
    fn line(&self) -> String {
        let numbers = [
            Some(self.train_time),
            self.test_time,
            Some(self.lr),
            self.train_loss,
            self.train_acc,
            self.train_robust_loss,
            self.train_robust_acc,
            self.test_loss,
            self.test_acc,
            self.test_robust_loss,
            self.test_robust_acc,
        ];
        let cells = numbers.map(|number| number.map(|number| number.to_string()).unwrap_or_default());
        format!("{},{}\n", self.epoch, cells.join(","))
    }
}

/// What a run came to: `summary.json`.
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
    /// Whatever else is known.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What `run.json` in `folder` says.
///
/// Errors: [`Error::Io`] when it cannot be read, [`Error::File`] when it is no JSON object.
pub fn read_run(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("run.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path, "cannot read the record of a run"))?;
    serde_json::from_str(&text).map_err(|error| Error::file(&path, format!("not a JSON object: {error}")))
}

/// A folder with the records of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Makes the folder with `checkpoints/` in it and writes `run` to `run.json`.
    ///
    /// Errors: [`Error::File`] when it already holds a run, which stays as it is; [`Error::Io`] when it
    /// cannot be made or written.
    pub fn create(root: &Path, run: &Map<String, Value>) -> Result<RunDir> {
        let dir = RunDir { root: root.to_owned() };
        for file in ["run.json", "metrics.jsonl", "log.csv", "summary.json"] {
            if root.join(file).exists() {
                let problem = format!(
                    "already holds a run ({file}); choose another folder with --out, or delete this one"
                );
                return Err(Error::file(root, problem));
            }
        }
        fs::create_dir_all(root.join("checkpoints"))
            .map_err(Error::io(root, "cannot create the run directory"))?;
        dir.write_run(run)?;
        Ok(dir)
    }

    /// Opens the folder of a run that was interrupted, and what its `run.json` says; records of epochs after
    /// `epochs_done`, which will be run again, and a half-written last line are dropped.
    ///
    /// Errors: [`Error::Io`] when it holds no `run.json`, [`Error::File`] when that is no JSON object.
    pub fn resume(root: &Path, epochs_done: usize) -> Result<(RunDir, Map<String, Value>)> {
        let dir = RunDir { root: root.to_owned() };
        let run = dir.read_run()?;
        let epoch_of = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("epoch")?.as_u64();
        dir.keep_lines("metrics.jsonl", |line| {
            epoch_of(line).is_some_and(|epoch| epoch <= epochs_done as u64)
        })?;
        let row_of = |line: &str| line.split(',').next().and_then(|epoch| epoch.parse::<usize>().ok());
        dir.keep_lines("log.csv", |line| {
            line == LOG_HEADER.trim_end() || row_of(line).is_some_and(|epoch| epoch <= epochs_done)
        })?;
        Ok((dir, run))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of checkpoint `name`: `best`, `last` or `epoch-N`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.root.join("checkpoints").join(format!("{name}.safetensors"))
    }

    /// Writes `run.json` anew, for what is known only at the end, such as the wall time.
    pub fn write_run(&self, run: &Map<String, Value>) -> Result<()> {
        self.write_json("run.json", run)
    }

    /// What `run.json` says.
    pub fn read_run(&self) -> Result<Map<String, Value>> {
        read_run(&self.root)
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

    /// Appends an epoch's object to `metrics.jsonl`; it has `epoch`, counted from 1, which [`RunDir::resume`]
    /// goes by.
    pub fn append_metrics(&self, metrics: &Map<String, Value>) -> Result<()> {
        let path = self.root.join("metrics.jsonl");
        let line = serde_json::to_string(metrics).map_err(|error| Error::file(&path, error.to_string()))?;
        append(&path, &(line + "\n"))
    }

    /// Appends an epoch's row to `log.csv`.
    pub fn append_log(&self, row: &LogRow) -> Result<()> {
        let path = self.root.join("log.csv");
        let header = if path.exists() { "" } else { LOG_HEADER };
        append(&path, &format!("{header}{}", row.line()))
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

/// Appends `text` and syncs it; when that fails (a full disk), what was written of it is taken back.
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
        let run = RunDir::create(&root, &object(json!({"seed": 3, "eps": "8/255"}))).unwrap();
        assert!(run.checkpoint("best").parent().unwrap().is_dir());
        assert_eq!(run.checkpoint("epoch-2"), root.join("checkpoints/epoch-2.safetensors"));
        for epoch in 1..=2 {
            run.append_metrics(&object(json!({"epoch": epoch, "loss": 0.5}))).unwrap();
            run.append_log(&LogRow {
                epoch,
                train_time: 1.5,
                lr: 0.1,
                test_robust_acc: Some(0.25),
                ..LogRow::default()
            })
            .unwrap();
        }
        assert_eq!(
            fs::read_to_string(root.join("metrics.jsonl")).unwrap(),
            "{\"epoch\":1,\"loss\":0.5}\n{\"epoch\":2,\"loss\":0.5}\n"
        );
        let header = "Epoch,Train Time,Test Time,LR,Train Loss,Train Acc,Train Robust Loss,Train Robust Acc,Test Loss,Test Acc,\
                      Test Robust Loss,Test Robust Acc";
        let log = fs::read_to_string(root.join("log.csv")).unwrap();
        assert_eq!(log, format!("{header}\n1,1.5,,0.1,,,,,,,,0.25\n2,1.5,,0.1,,,,,,,,0.25\n"));
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
        assert_eq!(run.read_run().unwrap(), object(json!({"seed": 3, "eps": "8/255"})));
    }

    #[test]
    fn a_second_run_in_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        RunDir::create(dir.path(), &object(json!({"seed": 1}))).unwrap();
        let error = RunDir::create(dir.path(), &object(json!({"seed": 2}))).unwrap_err().to_string();
        let problem = "already holds a run (run.json); choose another folder with --out, or delete this one";
        assert_eq!(error, format!("{}: {problem}", dir.path().display()));
        assert_eq!(RunDir { root: dir.path().into() }.read_run().unwrap()["seed"], 1);
    }

    #[test]
    fn resuming_drops_what_will_be_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), &object(json!({"seed": 1}))).unwrap();
        for epoch in 1..=3 {
            run.append_metrics(&object(json!({"epoch": epoch}))).unwrap();
            run.append_log(&LogRow { epoch, ..LogRow::default() }).unwrap();
        }
        append(&dir.path().join("metrics.jsonl"), "{\"epoch\":1").unwrap();
        let (_, record) = RunDir::resume(dir.path(), 2).unwrap();
        assert_eq!(record["seed"], 1);
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
        let error = RunDir::create(&inside, &Map::new()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: cannot create the run directory: ", inside.display())),
            "{error}"
        );
        let error = RunDir::resume(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains("run.json: cannot read the record of a run: "), "{error}");
        fs::write(dir.path().join("run.json"), "[]").unwrap();
        assert!(
            RunDir::resume(dir.path(), 0).unwrap_err().to_string().contains("run.json: not a JSON object: ")
        );
    }
}
