//! The flag `--device` of commands without flags for hyper-parameters.

use crate::device::DeviceChoice;
use crate::error::Result;

#[derive(clap::Args)]
pub struct DeviceFlag {
    /// The device to run on [auto, host, host-checked, host-as-cuda, cuda, cuda:N]
    #[arg(long = "device", value_name = "WORD", default_value = "auto")]
    name: String,
}

impl DeviceFlag {
    /// Errors: not the name of a device.
    pub fn choice(&self) -> Result<DeviceChoice> {
        self.name.parse()
    }
}
