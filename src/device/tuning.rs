//! Choices between kernels that give the same results, measured on a GPU and kept in the cache folder. Without
//! an entry, what launches estimates.

use super::cuda::{driver_version, nvrtc};
use super::kernels::{HEADERS, SOURCES};
use super::{Backend, Device};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Choices by what they are for: `forward bf16 128x32x32x64, 3x3 s1 p1 to 64` is `128x64`.
pub type Choices = BTreeMap<String, String>;

/// The choices of a device.
#[derive(Default)]
pub struct Tuning {
    file: Option<PathBuf>,
    choices: Choices,
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    gpu: String,
    choices: Choices,
}

impl Tuning {
    /// What was kept for GPUs of this name. A file that cannot be read is ignored, with a line that says so.
    pub(super) fn of_gpu(name: &str) -> Tuning {
        let file = nvrtc::cache_folder().map(|folder| folder.join(file_name(name)));
        let choices = file.as_deref().map_or(Ok(Choices::new()), read).unwrap_or_else(|line| {
            eprintln!("note: {line}");
            Choices::new()
        });
        Tuning { file, choices }
    }
}

/// The name of the file for a GPU with this driver, this NVRTC and these kernels: what was measured with
/// others says little.
fn file_name(gpu: &str) -> String {
    let mut hasher = DefaultHasher::new();
    let texts: Vec<&str> =
        SOURCES.iter().filter(|source| source.name.contains("mma")).map(|s| s.text).collect();
    let version = env!("CARGO_PKG_VERSION");
    (gpu, driver_version(), nvrtc::version().ok(), version, texts, HEADERS).hash(&mut hasher);
    let gpu = gpu.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("tuned-{gpu}-{:016x}.json", hasher.finish())
}

/// The choices in a file, none if there is no file; the error is one line.
fn read(path: &Path) -> Result<Choices, String> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Choices::new()),
        other => other.map_err(|error| error.to_string()),
    };
    let content = text.and_then(|text| {
        serde_json::from_slice::<Content>(&text).map_err(|error| format!("damaged: {error}"))
    });
    let remedy = "it is ignored; 'saddle bench kernels --tune' writes a new one";
    content
        .map(|content| content.choices)
        .map_err(|problem| format!("{}: {problem}; {remedy}", path.display()))
}

/// Adds choices to those in a file.
fn extend(path: &Path, gpu: &str, choices: Choices) -> Result<()> {
    let mut all = read(path).unwrap_or_default();
    all.extend(choices);
    let content = Content { gpu: gpu.into(), choices: all };
    let text = serde_json::to_vec_pretty(&content).map_err(|error| Error::file(path, error.to_string()))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create"))?;
    }
    write_atomic(path, &text)
}

impl Device {
    /// The choice that was measured to be the fastest for `what`.
    pub fn tuned(&self, what: impl FnOnce() -> String) -> Option<&str> {
        let choices = &self.0.tuning.choices;
        if choices.is_empty() { None } else { choices.get(&what()).map(String::as_str) }
    }

    /// How many choices were kept for this device, and the file that holds them.
    pub fn tuning(&self) -> Option<(usize, &Path)> {
        self.0.tuning.file.as_deref().map(|file| (self.0.tuning.choices.len(), file))
    }

    /// Keeps choices for devices that are opened from now on, and returns their file.
    ///
    /// Errors: this is not a GPU; there is no cache folder, or it cannot be written.
    pub fn keep_tuning(&self, choices: Choices) -> Result<&Path> {
        let unusable = |reason: &str| Error::Device { device: self.describe(), reason: reason.into() };
        let Backend::Cuda(_) = &self.0.backend else {
            return Err(unusable("kernels are tuned on a GPU; the host has no choice between them"));
        };
        let Some(file) = self.0.tuning.file.as_deref() else {
            return Err(unusable("there is no cache folder to keep choices in: set SADDLE_CACHE"));
        };
        extend(file, &self.describe(), choices)?;
        Ok(file)
    }

    /// Multiprocessors of the GPU; those of an H200 where there is none.
    pub fn multiprocessors(&self) -> usize {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.multiprocessors(),
            Backend::Host(_) | Backend::Software(_) => ptx::gpu::GPUS[0].multiprocessors as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(of: &[(&str, &str)]) -> Choices {
        of.iter().map(|(what, choice)| (what.to_string(), choice.to_string())).collect()
    }

    #[test]
    fn choices_are_added_to_those_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join(file_name("NVIDIA H200"));
        assert_eq!(read(&path), Ok(Choices::new()), "no file is no fault");
        extend(&path, "NVIDIA H200", choices(&[("a", "1"), ("b", "1")])).unwrap();
        extend(&path, "NVIDIA H200", choices(&[("b", "2"), ("c", "3")])).unwrap();
        assert_eq!(read(&path), Ok(choices(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_damaged_file_is_one_line_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuned.json");
        for damaged in
            ["", "{", "{\"gpu\": \"x\"}", "{\"gpu\": \"x\", \"choices\": {\"a\": 1}}", "\u{0}\u{1}"]
        {
            std::fs::write(&path, damaged).unwrap();
            let line = read(&path).unwrap_err();
            assert!(line.starts_with(&format!("{}: damaged: ", path.display())), "{line}");
            assert!(line.ends_with("--tune' writes a new one") && line.lines().count() == 1, "{line}");
        }
        extend(&path, "x", choices(&[("a", "1")])).unwrap();
        assert_eq!(read(&path), Ok(choices(&[("a", "1")])));
    }

    #[test]
    fn each_gpu_has_a_file() {
        let [a, b] = ["NVIDIA H200", "NVIDIA L4"].map(file_name);
        assert!(a.starts_with("tuned-NVIDIA-H200-") && a != b && a == file_name("NVIDIA H200"), "{a} {b}");
    }

    #[test]
    fn the_host_has_nothing_to_tune() {
        let device = Device::host().unwrap();
        assert!(device.tuned(|| "x".into()).is_none() && device.tuning().is_none());
        let error = device.keep_tuning(Choices::new()).unwrap_err().to_string();
        assert!(error.contains("kernels are tuned on a GPU"), "{error}");
    }
}
