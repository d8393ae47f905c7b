//! The progress of an evaluation in a folder: an interrupted one goes on as if nothing had happened.

use super::protocol::{AdvImages, Progress};
use crate::error::{Error, Result};
use crate::files::safetensors::{self, SafeTensorError, SafeTensors, TensorEntry, floats, integers};
use crate::files::write_atomic;
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
}

/// `progress.json`.
#[derive(Serialize, Deserialize)]
struct SavedProgress {
    evaluation: Map<String, Value>,
    files: usize,
    progress: Progress,
}

impl State {
    /// Takes the folder, which is made if it is missing, for the evaluation that `identity` describes.
    ///
    /// Errors: [`Error::File`] when it holds the progress of another evaluation, with what differs;
    /// [`Error::Io`].
    pub fn open(folder: &Path, identity: Map<String, Value>) -> Result<State> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder for --state"))?;
        let state = State { folder: folder.to_owned(), identity, files: Cell::new(0) };
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
        let text = std::fs::read_to_string(&path)
            .map_err(Error::io(&path, "cannot read the progress of an evaluation"))?;
        let wrong = |error: serde_json::Error| {
            Error::file(&path, format!("not the progress of an evaluation: {error}"))
        };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    /// The progress that was saved last, and its images.
    pub fn load(&self) -> Result<Option<(Progress, AdvImages)>> {
        let Some(saved) = self.read()? else { return Ok(None) };
        let mut images = AdvImages::new();
        for number in 0..saved.files {
            images.extend(read_images(&self.images(number))?);
        }
        self.files.set(saved.files);
        Ok(Some((saved.progress, images)))
    }

    /// Saves the progress, and the images that are new in it. A batch that a crash cut off is made again, and
    /// its file replaced.
    pub fn save(&self, progress: &Progress, fresh: &AdvImages) -> Result<()> {
        if !fresh.is_empty() {
            write_images(&self.images(self.files.get()), fresh)?;
            self.files.set(self.files.get() + 1);
        }
        let (path, evaluation) = (self.folder.join(PROGRESS), self.identity.clone());
        let saved = SavedProgress { evaluation, files: self.files.get(), progress: progress.clone() };
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

fn read_images(path: &Path) -> Result<AdvImages> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read the images of an evaluation"))?;
    let not_images =
        |problem: String| Error::file(path, format!("not the images of an evaluation: {problem}"));
    let wrong = |error: SafeTensorError| not_images(error.to_string());
    let content = SafeTensors::deserialize(&bytes).map_err(wrong)?;
    let (points, images) = (content.tensor("point").map_err(wrong)?, content.tensor("image").map_err(wrong)?);
    let size = images.shape().last().copied().unwrap_or(0).max(1);
    let (Some(points), Some(pixels)) = (integers(&points), floats::<f32>(&images, |value| value as f32))
    else {
        return Err(not_images(format!("point is {:?}, image {:?}", points.dtype(), images.dtype())));
    };
    Ok(points.into_iter().map(|point| point as usize).zip(pixels.chunks(size).map(<[f32]>::to_vec)).collect())
}
