//! Where a result comes from: the program, its command line, the date, and the device with its software.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::device::cuda::{self, nvrtc};

/// The facts that every result file and page states about its making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of saddle.
    pub saddle: String,
    /// The commit it was built from; `-modified` where the sources differed from it.
    pub commit: String,
    /// The command line; empty where the library was called.
    pub command: String,
    /// RFC 3339, UTC: `2026-11-21T20:14:44Z`.
    pub date: String,
    pub device: String,
    /// Of a GPU: the newest CUDA version that its driver runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Of a GPU: the version of the run-time compiler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvrtc: Option<String>,
}

impl Provenance {
    /// Now, on this device.
    pub fn now(device: &Device, command: &str) -> Provenance {
        let on_gpu = !device.is_host();
        let nvrtc = || nvrtc::version().ok().map(|(major, minor)| format!("{major}.{minor}"));
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Provenance {
            saddle: env!("CARGO_PKG_VERSION").into(),
            commit: env!("SADDLE_COMMIT").into(),
            command: command.into(),
            date: rfc3339(seconds),
            device: device.describe(),
            driver: on_gpu.then(cuda::driver_version).flatten(),
            nvrtc: on_gpu.then(nvrtc).flatten(),
        }
    }

    /// The facts by name, for a page.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Provenance { saddle, commit, command, date, device, driver, nvrtc } = self.clone();
        let driver = driver.map(|version| format!("for CUDA {version} and older"));
        let facts = [
            ("saddle", Some(format!("{saddle}, commit {commit}"))),
            ("command", Some(command).filter(|command| !command.is_empty())),
            ("date", Some(date)),
            ("device", Some(device)),
            ("driver", driver),
            ("NVRTC", nvrtc),
        ];
        facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The date and time of a second since 1970, in UTC.
fn rfc3339(seconds: u64) -> String {
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (day, hour, minute, second) = (days + 1, of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_seconds() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }

    #[test]
    fn a_result_says_where_it_comes_from() {
        let device = Device::host().unwrap();
        let made = Provenance::now(&device, "saddle eval -w w");
        assert_eq!((made.device.as_str(), made.command.as_str()), (&*device.describe(), "saddle eval -w w"));
        assert!(made.date.starts_with("20") && made.date.ends_with('Z'), "{}", made.date);
        assert_eq!((&made.driver, &made.nvrtc), (&None, &None), "a CPU has neither");
        let read: Provenance = serde_json::from_value(serde_json::json!(made)).unwrap();
        assert_eq!(read, made);
        let names: Vec<&str> = made.facts().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["saddle", "command", "date", "device"]);
    }
}
