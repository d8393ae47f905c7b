//! Golden files, devices and comparisons for all integration tests.
#![allow(dead_code)]

use saddle::config::recipe::Recipe;
use saddle::device::testing::device_name;
use saddle::files::safetensors::{Dtype, SafeTensors, floats, integers};
use saddle::method;
use saddle::numeric::{close, max_abs};
use saddle::run::observer::{Observer, StepInfo};
use saddle::train::TrainJob;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of tests/goldens.
pub struct Golden {
    bytes: Vec<u8>,
    pub metadata: HashMap<String, String>,
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let path = format!("{}/tests/goldens/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Golden { bytes, metadata }
    }

    fn content(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.content().names().into_iter().map(|n| n.to_owned()).collect::<Vec<_>>().into_iter()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.content().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let content = self.content();
        let tensor = content.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        floats(&tensor, |value| value as f32).unwrap()
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        let content = self.content();
        let tensor = content.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        integers(&tensor).unwrap()
    }
}

/// How far two tensors may be apart.
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// Of the largest magnitude that is expected.
    pub relative: f64,
    /// Stands for the largest magnitude where that is smaller.
    pub least: f64,
}

/// Fails unless every entry of `got` is within the tolerance of its entry of `want`; NaN fails.
pub fn assert_close<W: Copy + Into<f64>>(what: &str, got: &[f32], want: &[W], tolerance: Tolerance) {
    let largest = max_abs(want.iter().copied());
    let absolute = tolerance.relative * largest.max(tolerance.least);
    if let Err(mismatch) = close(got, want, 0.0, absolute) {
        panic!("{what}: {mismatch} (largest {largest})");
    }
}

/// A training job of a recipe with other settings, on the host, in `out`.
pub fn job(recipe: &str, out: &Path, settings: &[(&str, &str)]) -> TrainJob {
    let Recipe { name, mut config, reference, .. } = method::load_recipe(recipe).unwrap();
    let out = out.display().to_string();
    let device = device_name();
    let places = [("device", device.as_str()), ("out", out.as_str())];
    let settings: Vec<_> = places.iter().chain(settings).copied().collect();
    config.apply(&settings).unwrap();
    TrainJob { config, recipe: name, reference, command: "test".into(), resume: None }
}

/// Stops the run after this number of steps.
pub struct StopAfter<'a>(pub usize, pub &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn step(&mut self, _: &StepInfo) {
        self.0 -= 1;
        if self.0 == 0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs the command line in a folder. The word `DEVICE` stands for the device that is tested.
pub fn saddle_in(folder: &Path, line: &str) -> Output {
    let device = device_name();
    Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.split_whitespace().map(|word| if word == "DEVICE" { device.as_str() } else { word }))
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The output of a command that must succeed.
pub fn printed(folder: &Path, line: &str) -> String {
    let output = saddle_in(folder, line);
    assert!(output.status.success(), "saddle {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that a failing command writes, after `error: `.
pub fn error(folder: &Path, line: &str) -> String {
    let output = saddle_in(folder, line);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len(), text.lines().count()), (Some(1), 0, 1), "{text}");
    text.trim_end().strip_prefix("error: ").unwrap().to_owned()
}
