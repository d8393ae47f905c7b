//! The progress of an evaluation in a folder: an interrupted one goes on as if nothing had happened.

use super::plan::Plan;
use super::protocol::{AdvImages, Progress, attempts, name};
use crate::error::{Error, Result, ensure};
use crate::files::fingerprint::fingerprint;
use crate::files::lock::FolderLock;
use crate::files::safetensors::{self, SafeTensorError, SafeTensors, TensorEntry, floats, integers};
use crate::files::{create_folder, read, read_text, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// The file of a state's outcomes.
pub(super) const PROGRESS: &str = "progress.json";

/// A folder with the progress of one evaluation: `progress.json`, and one file for the images of every batch
/// in which attacks succeeded.
pub struct State {
    folder: PathBuf,
    identity: Map<String, Value>,
    /// Files of images that `progress.json` counts.
    files: Cell<usize>,
    /// Two processes would mix their progress.
    _lock: FolderLock,
}

/// The evaluation that a saved progress must be of.
pub struct SavedRun<'a> {
    pub plan: &'a Plan,
    /// Classes of the network.
    pub classes: usize,
    pub points: usize,
    /// Numbers of an image.
    pub image_size: usize,
}

/// `progress.json`.
#[derive(Serialize, Deserialize)]
struct SavedProgress {
    evaluation: Map<String, Value>,
    files: usize,
    progress: Progress,
    /// Of the progress as JSON; older versions wrote none.
    #[serde(default)]
    fingerprint: Option<String>,
}

impl State {
    /// Takes the folder, which is made if it is missing, for the evaluation that `identity` describes.
    ///
    /// Errors: [`Error::File`] when another process has it, or it holds the progress of another evaluation,
    /// with what differs; [`Error::Io`].
    pub fn open(folder: &Path, identity: Map<String, Value>) -> Result<State> {
        create_folder(folder).map_err(Error::io(folder, "cannot create the folder for --state"))?;
        let lock = FolderLock::take(folder, "wait until it has ended, or choose another --state")?;
        let state = State { folder: folder.to_owned(), identity, files: Cell::new(0), _lock: lock };
        if let Some(saved) = state.read()? {
            let differ = differences(&saved.evaluation, &state.identity);
            if !differ.is_empty() {
                let problem = format!(
                    "holds the progress of another evaluation: {}; choose another --state",
                    differ.join(", ")
                );
                return Err(Error::file(folder, problem));
            }
        }
        Ok(state)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn read(&self) -> Result<Option<SavedProgress>> {
        let path = self.folder.join(PROGRESS);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path, "cannot read the progress of an evaluation")?;
        let wrong = |error: serde_json::Error| {
            Error::file(&path, format!("not the progress of an evaluation: {error}"))
        };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    /// The progress that was saved last, and its images.
    ///
    /// Errors: [`Error::File`] for what cannot be the progress of `run`.
    pub fn load(&self, run: &SavedRun) -> Result<Option<(Progress, AdvImages)>> {
        let Some(SavedProgress { files, progress, fingerprint, .. }) = self.read()? else { return Ok(None) };
        let path = self.folder.join("progress.json");
        let wrong = |problem: String| Error::file(&path, format!("{problem}; choose another --state"));
        run.check(&progress).map_err(wrong)?;
        let saved = content(&path, &progress)?;
        let problem = || wrong("the progress is not what was saved: it was changed or is damaged".into());
        ensure(fingerprint.is_none_or(|fingerprint| fingerprint == saved), problem)?;
        let mut images = AdvImages::new();
        for number in 0..files {
            images.extend(run.read_images(&self.images(number))?);
        }
        let broken = |(point, by): (usize, &Option<usize>)| by.is_some_and(|by| by > 0).then_some(point);
        let mut broken = progress.outcomes.0.iter().enumerate().filter_map(broken);
        if let Some(point) = broken.find(|point| !images.contains_key(point)) {
            return Err(wrong(format!("an attack succeeded on point {point}, of which there is no image")));
        }
        self.files.set(files);
        Ok(Some((progress, images)))
    }

    /// Saves the progress, and the images that are new in it. A batch that a crash cut off is made again, and
    /// its file replaced.
    pub fn save(&self, progress: &Progress, fresh: &AdvImages) -> Result<()> {
        if !fresh.is_empty() {
            write_images(&self.images(self.files.get()), fresh)?;
            self.files.set(self.files.get() + 1);
        }
        let (path, evaluation) = (self.folder.join(PROGRESS), self.identity.clone());
        let fingerprint = Some(content(&path, progress)?);
        let files = self.files.get();
        let saved = SavedProgress { evaluation, files, progress: progress.clone(), fingerprint };
        let text = serde_json::to_string(&saved).map_err(|error| Error::file(&path, error.to_string()))?;
        write_atomic(&path, (text + "\n").as_bytes())
    }

    fn images(&self, number: usize) -> PathBuf {
        self.folder.join(format!("images-{number:06}.safetensors"))
    }
}

/// The differences between two descriptions of evaluations: `eps is 0.1 there, not 0.2`.
pub fn differences(there: &Map<String, Value>, here: &Map<String, Value>) -> Vec<String> {
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let keys = here.keys().chain(there.keys().filter(|key| !here.contains_key(*key)));
    let differ = keys.filter(|key| there.get(*key) != here.get(*key));
    differ
        .map(|key| format!("{key} is {} there, not {}", text(there.get(key)), text(here.get(key))))
        .collect()
}

fn write_images(path: &Path, images: &AdvImages) -> Result<()> {
    let points: Vec<u64> = images.keys().map(|point| *point as u64).collect();
    let pixels: Vec<f32> = images.values().flatten().copied().collect();
    let shape = [images.len(), images.values().next().map_or(0, Vec::len)];
    let entries =
        vec![TensorEntry::new("point", &[images.len()], &points), TensorEntry::new("image", &shape, &pixels)];
    safetensors::write(path, None, entries)
}

/// The fingerprint of the progress that is kept at `path`.
fn content(path: &Path, progress: &Progress) -> Result<String> {
    let text = serde_json::to_string(progress).map_err(|error| Error::file(path, error.to_string()))?;
    Ok(fingerprint(&[text.as_bytes()]))
}

impl SavedRun<'_> {
    /// Errors: what in `progress` cannot be of this evaluation.
    fn check(&self, progress: &Progress) -> Result<(), String> {
        let Progress { outcomes, tried, rows, .. } = progress;
        let points = self.points;
        let count = |what: &str, found: usize| {
            ensure(found == points, || format!("holds {what} of {found} points, the evaluation has {points}"))
        };
        count("outcomes", outcomes.0.len())?;
        count("attempts", tried.len())?;
        let stages: Vec<_> = [None].into_iter().chain(self.plan.stages.iter().map(Some)).collect();
        let fitting = rows.len() <= stages.len()
            && rows.iter().zip(&stages).all(|(row, stage)| row.attack == name(*stage));
        ensure(fitting, || "its attacks are not those of the evaluation".to_owned())?;
        let known = |by: &Option<usize>| by.is_none_or(|by| by < rows.len());
        ensure(outcomes.0.iter().all(known), || {
            "holds the outcome of an attack that has not begun".to_owned()
        })?;
        let Some((row, stage)) = rows.iter().zip(stages).next_back() else { return Ok(()) };
        let (most, attempts) = (tried.iter().max().copied().unwrap_or(0), attempts(stage, self.classes));
        ensure(most <= attempts, || {
            format!("holds {most} attempts of {}, which makes {attempts}", row.attack)
        })
    }

    /// The images in the file at `path`.
    fn read_images(&self, path: &Path) -> Result<AdvImages> {
        let bytes = read(path, "cannot read the images of an evaluation")?;
        let not_images =
            |problem: String| Error::file(path, format!("not the images of this evaluation: {problem}"));
        let wrong = |error: SafeTensorError| not_images(error.to_string());
        let content = SafeTensors::deserialize(&bytes).map_err(wrong)?;
        let (points, images) =
            (content.tensor("point").map_err(wrong)?, content.tensor("image").map_err(wrong)?);
        let (Some(numbers), Some(pixels)) = (integers(&points), floats::<f32>(&images, |value| value as f32))
        else {
            return Err(not_images(format!("point is {:?}, image {:?}", points.dtype(), images.dtype())));
        };
        let expected = [numbers.len(), self.image_size];
        let problem = || not_images(format!("image is {:?}, expected {expected:?}", images.shape()));
        ensure(images.shape() == expected, problem)?;
        let point = |number: i64| {
            let point = usize::try_from(number).ok().filter(|point| *point < self.points);
            point.ok_or_else(|| not_images(format!("point {number} of {}", self.points)))
        };
        let points = numbers.into_iter().map(point).collect::<Result<Vec<_>>>()?;
        Ok(points.into_iter().zip(pixels.chunks(self.image_size.max(1)).map(<[f32]>::to_vec)).collect())
    }
}
