//! The names of devices, as every `--device` takes them.

use super::{Device, Order, cuda};
use crate::error::{Error, Result};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// The device that is asked for: what `--device` and the key `device` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if one can be used, else the host.
    Auto,
    /// The CPU.
    Host,
    /// The CPU in checked mode.
    HostChecked,
    /// The CPU in checked mode, with the launch shapes and the code of CUDA.
    HostAsCuda,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device itself.
    ///
    /// Errors: [`Error::Device`] says what is missing and how to get it. `auto` never fails for want of a
    /// GPU.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceChoice::Auto => match cuda::status() {
                cuda::Status::Usable(gpus) => Device::cuda(gpus.first().map_or(0, |gpu| gpu.ordinal))
                    .or_else(|error| {
                        eprintln!("note: {error}; the host is used instead");
                        Device::host()
                    }),
                cuda::Status::Missing(_) => Device::host(),
            },
            DeviceChoice::Host => Device::host(),
            DeviceChoice::HostChecked => Device::host_checked(Order::Shuffled(1)),
            DeviceChoice::HostAsCuda => Device::host_as_cuda(Order::Shuffled(1)),
            DeviceChoice::Cuda(ordinal) => Device::cuda(ordinal),
        }
    }
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Host => f.write_str("host"),
            DeviceChoice::HostChecked => f.write_str("host-checked"),
            DeviceChoice::HostAsCuda => f.write_str("host-as-cuda"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `host`, `host-checked`, `host-as-cuda`, `cuda` (which is `cuda:0`) or `cuda:N`; case does not
    /// count, and underscores may replace hyphens.
    fn from_str(text: &str) -> Result<DeviceChoice> {
        let name = text.trim().to_lowercase().replace('_', "-");
        Ok(match name.as_str() {
            "auto" => DeviceChoice::Auto,
            "host" => DeviceChoice::Host,
            "host-checked" => DeviceChoice::HostChecked,
            "host-as-cuda" => DeviceChoice::HostAsCuda,
            "cuda" => DeviceChoice::Cuda(0),
            _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
                Some(ordinal) => DeviceChoice::Cuda(ordinal),
                None => {
                    let known = ["auto", "host", "host-checked", "host-as-cuda", "cuda", "cuda:0"];
                    return Err(Error::unknown("device", text.trim(), known));
                }
            },
        })
    }
}
