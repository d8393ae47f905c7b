//! The origin of a result: program, command, time and machine.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::device::Device;
use crate::device::cuda::{driver_version, nvrtc};

/// The facts about a result that is made now, on `device`, by the command line `command`.
pub fn provenance(command: &str, device: &Device) -> Map<String, Value> {
    let facts = [
        ("command", json!(command)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(env!("SADDLE_COMMIT"))),
        ("date", json!(humantime::format_rfc3339_seconds(SystemTime::now()).to_string())),
        ("device", json!(device.describe())),
        ("driver", json!(driver_version())),
        ("nvrtc", json!(nvrtc::version().ok().map(|(major, minor)| format!("{major}.{minor}")))),
    ];
    facts.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}
