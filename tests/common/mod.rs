//! What integration tests share: golden files, devices, comparison.
#![allow(dead_code)]

use saddle::device::{Device, Order, cuda};
use saddle::files::safetensors::{Dtype, SafeTensors, floats, integers};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

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

/// The host, and CUDA when there is one; `SADDLE_REQUIRE_CUDA=1` turns its absence into a failure.
pub fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("host".to_owned(), Device::host().unwrap())];
    match cuda::status() {
        cuda::Status::Usable(_) => devices.push(("cuda".into(), Device::cuda(0).unwrap())),
        cuda::Status::Missing(reason) => {
            assert!(
                std::env::var("SADDLE_REQUIRE_CUDA").as_deref() != Ok("1"),
                "SADDLE_REQUIRE_CUDA=1, but {reason}"
            );
        }
    }
    devices
}

/// [`devices`], and the host with the launch shapes of CUDA, in checked mode: for small jobs.
pub fn devices_and_cuda_shapes() -> Vec<(String, Device)> {
    let mut devices = devices();
    devices.push(("host as CUDA".into(), Device::host_as_cuda(Order::Shuffled(3)).unwrap()));
    devices
}

/// Fails unless every entry is within `relative` of the largest entry of `want`; NaN fails.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], relative: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs() as f64));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let difference = (*g as f64 - *w as f64).abs();
        assert!(
            difference <= relative * largest + 1e-12,
            "{what}: entry {i} is {g}, want {w} (largest {largest})"
        );
    }
}

/// Runs the command line in a folder.
pub fn saddle_in(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saddle"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What a command that must succeed prints.
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
