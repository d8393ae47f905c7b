//! The run directory: `run.json`, `summary.json`, `checkpoints/`, and the records of `records.rs`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::records::{LOG, METRICS};
use crate::config::Config;
use crate::data;
use crate::error::{Error, Result, ensure};
use crate::files::lock::FolderLock;
use crate::files::{create_folder, read_text, sync_folder, write_atomic, write_new};
use crate::nn::Arch;

/// The record of what was asked for, and of how the run was called.
const RUN: &str = "run.json";

/// The results.
const SUMMARY: &str = "summary.json";

/// The folder of weights.
const CHECKPOINTS: &str = "checkpoints";

/// The files of records in a run directory, and the folder of its checkpoints.
const RECORDS: [&str; 5] = [RUN, METRICS, LOG, SUMMARY, CHECKPOINTS];

/// The records of the run that `weights`, a run directory or a checkpoint in it, belongs to; none for another
/// file.
pub fn records_of(weights: &Path) -> Vec<PathBuf> {
    let of_checkpoint =
        weights.parent().filter(|folder| folder.ends_with(CHECKPOINTS)).and_then(Path::parent);
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
    /// Held by the process that trains in the folder; others only read.
    lock: Option<Rc<FolderLock>>,
}

/// Errors: [`Error::File`] when `root` already holds a run.
fn check_vacant(root: &Path) -> Result<()> {
    match [RUN, METRICS, LOG, SUMMARY].into_iter().find(|file| root.join(file).exists()) {
        None => Ok(()),
        Some(file) => {
            let remedy = "continue it with --resume, choose another folder with --out, or delete this one";
            Err(Error::file(root, format!("already holds a run ({file}); {remedy}")))
        }
    }
}

impl RunDir {
    /// Makes the folder with `checkpoints/` in it, takes it for this process, and writes `record` to
    /// `run.json`. Of several processes that ask for one folder at the same time, one gets it.
    ///
    /// Errors: [`Error::File`] when it already holds a run or another process has it, and it is left alone;
    /// [`Error::Io`] when it cannot be made or written.
    pub fn create(root: &Path, record: Map<String, Value>) -> Result<RunDir> {
        check_vacant(root)?;
        create_folder(root).map_err(Error::io(root, "cannot create the run directory"))?;
        let lock = FolderLock::take(root, "choose another folder with --out")?;
        check_vacant(root)?;
        let dir = RunDir { root: root.to_owned(), record, lock: Some(Rc::new(lock)) };
        let checkpoints = root.join(CHECKPOINTS);
        create_folder(&checkpoints).map_err(Error::io(root, "cannot create the run directory"))?;
        let text = dir.json_text(RUN, &dir.record)?;
        // Where a file system has no locks, it is this file that only one process can make.
        write_new(&root.join(RUN), text.as_bytes()).or_else(|error| check_vacant(root).and(Err(error)))?;
        Ok(dir)
    }

    /// [`RunDir::create`] in `first` or, if there is such a folder, in the first of `first-2`, `first-3`, ..
    /// that this process can make.
    pub fn create_numbered(first: &Path, record: Map<String, Value>) -> Result<RunDir> {
        let failed = "cannot create the run directory";
        let folder = first.parent().unwrap_or(first);
        create_folder(folder).map_err(Error::io(folder, failed))?;
        let mut root = first.to_owned();
        for number in 2.. {
            match fs::create_dir(&root) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(Error::io(&root, failed))?;
                    sync_folder(folder);
                    break;
                }
            }
            root = PathBuf::from(format!("{}-{number}", first.display()));
        }
        RunDir::create(&root, record)
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
        Ok(RunDir { root: root.to_owned(), record, lock: None })
    }

    /// The same folder, taken for this process, with its record as it is now. Temporary files of killed
    /// processes are removed.
    ///
    /// Errors: as [`RunDir::open`]; [`Error::File`] when another process has it.
    pub fn take(self) -> Result<RunDir> {
        if self.lock.is_some() {
            return Ok(self);
        }
        let lock = FolderLock::take(&self.root, "wait until it has ended, or stop it")?;
        lock.remove_temporaries(&self.root.join(CHECKPOINTS));
        Ok(RunDir { lock: Some(Rc::new(lock)), ..RunDir::open(&self.root)? })
    }

    /// Removes a run that has saved nothing, so that its folder is free for another; one that has is left
    /// alone.
    pub fn discard(self) {
        // Only an empty folder can be removed.
        if let (Ok(()), Some(lock)) = (fs::remove_dir(self.root.join(CHECKPOINTS)), &self.lock) {
            fs::remove_file(self.root.join(RUN)).ok();
            lock.remove_empty_folder();
        }
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

    /// The facts about the run's data when it began; `None` in records of older versions.
    pub fn data(&self) -> Option<&Map<String, Value>> {
        self.record.get("data").and_then(Value::as_object)
    }

    /// Records another place of the same data.
    pub fn set_data_path(&mut self, path: &Path) -> Result<()> {
        if let Some(Value::Object(config)) = self.record.get_mut("config") {
            config.insert("data".into(), json!(path));
        }
        self.write_json(RUN, &self.record)
    }

    /// Whether the run has come to its end.
    pub fn is_finished(&self) -> bool {
        self.root.join(SUMMARY).exists()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of checkpoint `name`: `best`, `last` or `epoch-N`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.root.join(CHECKPOINTS).join(format!("{name}.safetensors"))
    }

    /// The names and files of all checkpoints: those of numbered epochs in their order, then best and last.
    ///
    /// Errors: there is none.
    pub fn checkpoints(&self) -> Result<Vec<(String, PathBuf)>> {
        let folder = self.root.join(CHECKPOINTS);
        let entries = std::fs::read_dir(&folder).map_err(Error::io(&folder, "cannot list"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let number = |name: String| name.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.parse().ok();
        let mut epochs: Vec<usize> = names.filter_map(number).collect();
        epochs.sort_unstable();
        let numbered = epochs.into_iter().map(|epoch| format!("epoch-{epoch}"));
        let names = numbered.chain(["best", "last"].map(String::from));
        let found: Vec<_> = names
            .map(|name| (name.clone(), self.checkpoint(&name)))
            .filter(|(_, path)| path.exists())
            .collect();
        ensure(!found.is_empty(), || Error::file(&folder, "holds no checkpoint")).map(|()| found)
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
        self.write_json(SUMMARY, summary)
    }

    /// Writes `value` as indented JSON to `file` in the folder.
    ///
    /// Errors: [`Error::Io`]; the old file stays then.
    pub fn write_json(&self, file: &str, value: &impl Serialize) -> Result<()> {
        write_atomic(&self.root.join(file), self.json_text(file, value)?.as_bytes())
    }

    /// `value` as indented JSON for `file` in the folder.
    fn json_text(&self, file: &str, value: &impl Serialize) -> Result<String> {
        let text = serde_json::to_string_pretty(value);
        text.map(|text| text + "\n").map_err(|error| Error::file(&self.root.join(file), error.to_string()))
    }
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
        let problem = "already holds a run (run.json); continue it with --resume, choose another folder with \
                       --out, or delete this one";
        assert_eq!(error, format!("{}: {problem}", dir.path().display()));
        assert_eq!(RunDir::open(dir.path()).unwrap().record["seed"], 1);
    }

    #[test]
    fn a_run_in_use_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let run = RunDir::create(&root, object(json!({"seed": 1}))).unwrap();
        let in_use = "is in use by another process; wait until it has ended, or stop it";
        let second = RunDir::open(&root).unwrap().take().unwrap_err().to_string();
        assert_eq!(second, format!("{}: {in_use}", root.display()));
        assert!(run.clone().take().is_ok(), "a process that has the folder keeps it");
        fs::write(root.join("checkpoints/.saddle-x.tmp"), "half").unwrap();
        drop(run);
        let run = RunDir::open(&root).unwrap().take().unwrap();
        assert_eq!(fs::read_dir(root.join("checkpoints")).unwrap().count(), 0);

        fs::write(run.state(), "state").unwrap();
        run.clone().discard();
        assert!(root.join("run.json").exists(), "a run that has saved something stays");
        fs::remove_file(run.state()).unwrap();
        fs::write(root.join("notes"), "").unwrap();
        run.discard();
        let run = RunDir::create(&root, Map::new()).unwrap();
        fs::remove_file(root.join("notes")).unwrap();
        run.discard();
        assert!(!root.exists());
    }

    #[test]
    fn numbered_folders_are_each_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("runs/a-seed0");
        let roots = |_| {
            let run = RunDir::create_numbered(&first, Map::new()).unwrap();
            run.root().file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!([(); 3].map(roots), ["a-seed0", "a-seed0-2", "a-seed0-3"]);
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
