//! Counts per kernel, written to the file of `SOFTGPU_REPORT` when the process ends.

use crate::driver;
use crate::handles::lock;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Default)]
pub struct Report {
    kernels: Mutex<BTreeMap<String, Kernel>>,
}

#[derive(Default)]
struct Kernel {
    launches: u64,
    time: Duration,
    counts: Value,
    /// The sources, by the number that an instruction names.
    files: Vec<String>,
    instructions: Vec<ptx::InstructionCount>,
}

impl Report {
    pub fn add(&self, name: &str, files: &[String], mut counts: ptx::Counts, time: Duration) {
        // Thousands in each launch: JSON would cost more than many a kernel.
        let instructions = std::mem::take(&mut counts.instructions);
        let counts = serde_json::to_value(counts).unwrap_or_default();
        let mut kernels = lock(&self.kernels);
        let kernel = kernels.entry(name.into()).or_default();
        kernel.launches += 1;
        kernel.time += time;
        sum(&mut kernel.counts, counts);
        if kernel.instructions.len() != instructions.len() {
            // The first launch, or another kernel of the same name.
            kernel.instructions = instructions;
            kernel.files = files.to_vec();
            return;
        }
        for (total, instruction) in kernel.instructions.iter_mut().zip(instructions) {
            total.warps += instruction.warps;
            total.lanes += instruction.lanes;
        }
    }

    fn json(&self) -> Value {
        let kernels = lock(&self.kernels);
        let row = |kernel: &Kernel| {
            let seconds = kernel.time.as_secs_f64();
            let mut counts = kernel.counts.clone();
            counts["instructions"] = serde_json::to_value(&kernel.instructions).unwrap_or_default();
            let (launches, files) = (kernel.launches, &kernel.files);
            json!({ "launches": launches, "seconds": seconds, "files": files, "counts": counts })
        };
        kernels.iter().map(|(name, kernel)| (name.clone(), row(kernel))).collect::<Map<_, _>>().into()
    }
}

/// Numbers that say what is counted, and are the same in every launch.
const NO_COUNTS: [&str; 7] =
    ["file", "line", "source", "threads_per_block", "static_shared", "dynamic_shared", "async_in_flight"];

/// Adds the numbers of `other` to those at the same places of `total`.
fn sum(total: &mut Value, other: Value) {
    match (total, other) {
        (Value::Object(total), Value::Object(other)) => {
            for (key, value) in other {
                if NO_COUNTS.contains(&key.as_str()) {
                    total.insert(key, value);
                } else {
                    sum(total.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(total), Value::Array(other)) if total.len() == other.len() => {
            total.iter_mut().zip(other).for_each(|(total, other)| sum(total, other));
        }
        (Value::Number(total), Value::Number(other)) => {
            let added = total.as_u64().zip(other.as_u64()).map(|(a, b)| a.saturating_add(b).into());
            let float = || serde_json::Number::from_f64(total.as_f64()? + other.as_f64()?);
            *total = added.or_else(float).unwrap_or(other);
        }
        (total, other) => *total = other,
    }
}

/// Writes the report; called once by the C library when the process ends.
pub extern "C" fn write_at_exit() {
    let Some(driver) = driver::get() else { return };
    let Some(path) = &driver.options.report else { return };
    let (blocks, bytes) = lock(&driver.blocks).live();
    let report = json!({
        "arch": driver.options.arch.name(),
        "peak_bytes": lock(&driver.blocks).peak,
        "blocks_not_freed": blocks,
        "bytes_not_freed": bytes,
        "fault": driver.fault().map(|code| code.to_string()),
        "kernels": driver.report.json(),
    });
    if let Err(error) = std::fs::write(path, format!("{report:#}\n")) {
        crate::call::say(&format!("{}: {error}", path.display()));
    }
}
