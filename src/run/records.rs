//! The records of a run's epochs: a line each in `metrics.jsonl` and `log.csv`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::dir::RunDir;
use crate::error::{Error, Result};
use crate::files::{self, sync_folder, write_atomic};

pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const LOG: &str = "log.csv";

/// The epoch of a line of `metrics.jsonl`, counted from 1.
fn epoch_of(line: &str) -> Option<usize> {
    let epoch = serde_json::from_str::<Value>(line).ok()?.get("epoch")?.as_u64()?;
    usize::try_from(epoch).ok()
}

/// The epoch of a row of `log.csv`; 0 for the headings.
fn row_of(line: &str) -> Option<usize> {
    let first = line.split(',').next()?;
    if first == "Epoch" { Some(0) } else { first.parse().ok() }
}

impl RunDir {
    /// Appends an epoch's object to `metrics.jsonl`; it has `epoch`, counted from 1, which
    /// [`RunDir::forget_after`] goes by.
    pub fn append_metrics(&self, metrics: &Map<String, Value>) -> Result<()> {
        let path = self.root().join(METRICS);
        let line = serde_json::to_string(metrics).map_err(|error| Error::file(&path, error.to_string()))?;
        append(&path, &(line + "\n"))
    }

    /// Appends the row of an epoch, counted from 1, to `log.csv`: columns with their names, empty where
    /// nothing was measured.
    pub fn append_log(&self, epoch: usize, columns: &[(&str, Option<f64>)]) -> Result<()> {
        let path = self.root().join(LOG);
        let names: String = columns.iter().map(|(name, _)| format!(",{name}")).collect();
        let begun = fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        let header = if begun { String::new() } else { format!("Epoch{names}\n") };
        let cells = columns.iter().map(|(_, cell)| cell.map(|number| number.to_string()).unwrap_or_default());
        let row: String = cells.map(|cell| format!(",{cell}")).collect();
        append(&path, &format!("{header}{epoch}{row}\n"))
    }

    /// The last epoch that `metrics.jsonl` records; 0 if it records none.
    pub fn last_recorded_epoch(&self) -> Result<usize> {
        Ok(read(&self.root().join(METRICS))?.lines().filter_map(epoch_of).max().unwrap_or(0))
    }

    /// Drops the records of epochs after `epochs_done`, which will be run again, and lines that cannot be
    /// read, such as a half-written last one. Returns a complaint about each file that then lacks records of
    /// finished epochs.
    pub fn forget_after(&self, epochs_done: usize) -> Result<Vec<String>> {
        let metrics = self.keep_epochs(METRICS, epochs_done, epoch_of)?;
        let log = self.keep_epochs(LOG, epochs_done, row_of)?;
        Ok([metrics, log].into_iter().flatten().collect())
    }

    fn keep_epochs(
        &self,
        file: &str,
        epochs_done: usize,
        epoch: impl Fn(&str) -> Option<usize>,
    ) -> Result<Option<String>> {
        let path = self.root().join(file);
        let old = read(&path)?;
        let kept = |line: &&str| {
            line.ends_with('\n') && epoch(line.trim_end()).is_some_and(|epoch| epoch <= epochs_done)
        };
        let new: String = old.split_inclusive('\n').filter(kept).collect();
        if new != old {
            write_atomic(&path, new.as_bytes())?;
        }
        let recorded: Vec<usize> = new.lines().filter_map(epoch).collect();
        let missing: Vec<usize> = (1..=epochs_done).filter(|epoch| !recorded.contains(epoch)).collect();
        let complaint = |first: &usize| {
            let (file, missing) = (path.display(), missing.len());
            format!(
                "note: {file} lacks the records of {missing} of {epochs_done} finished epochs, the first of \
                 them epoch {first}: they were removed or damaged, and are not made again"
            )
        };
        Ok(missing.first().map(complaint))
    }
}

/// The text of a file, with a mark for what is no text; empty if there is no file.
fn read(path: &Path) -> Result<String> {
    if !path.exists() {
        return Ok(String::new());
    }
    let bytes = files::read(path, "cannot read")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Appends `text` and syncs it; when that fails (a full disk), the part that was written is removed.
fn append(path: &Path, text: &str) -> Result<()> {
    let add = || {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        written.inspect_err(|_| {
            file.set_len(before).ok();
        })?;
        Ok(before == 0)
    };
    let is_new = add().map_err(Error::io(path, "cannot append"))?;
    if let (true, Some(folder)) = (is_new, path.parent()) {
        sync_folder(folder);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A run with the records of three epochs.
    fn three_epochs(root: &Path) -> RunDir {
        let run = RunDir::create(root, Map::new()).unwrap();
        for epoch in 1..=3 {
            run.append_metrics(json!({"epoch": epoch}).as_object().unwrap()).unwrap();
            run.append_log(epoch, &[("LR", None)]).unwrap();
        }
        run
    }

    #[test]
    fn resuming_drops_what_will_be_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = three_epochs(dir.path());
        append(&dir.path().join(METRICS), "{\"epoch\":1").unwrap();
        assert_eq!(run.last_recorded_epoch().unwrap(), 3);
        assert_eq!(run.forget_after(2).unwrap(), [""; 0]);
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(text(METRICS), "{\"epoch\":1}\n{\"epoch\":2}\n");
        assert_eq!(text(LOG), "Epoch,LR\n1,\n2,\n");
    }

    #[test]
    fn lost_records_of_finished_epochs_are_noted() {
        let dir = tempfile::tempdir().unwrap();
        let run = three_epochs(dir.path());
        fs::write(dir.path().join(METRICS), b"{\"epoch\":1}\n{\"epo\xff\xfe:2}\n{\"epoch\":3}\n").unwrap();
        fs::remove_file(dir.path().join(LOG)).unwrap();
        let complaints = run.forget_after(3).unwrap();
        let folder = dir.path().display();
        let of = |file: &str, missing: usize, first: usize| {
            format!(
                "note: {folder}/{file} lacks the records of {missing} of 3 finished epochs, the first of \
                 them epoch {first}: they were removed or damaged, and are not made again"
            )
        };
        assert_eq!(complaints, [of(METRICS, 1, 2), of(LOG, 3, 1)]);
        run.append_log(4, &[("LR", None)]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(LOG)).unwrap(), "Epoch,LR\n4,\n");
    }
}
