//! What a device can do at most, for comparison with what kernels reach.

use super::{Backend, Device, host};
use crate::error::Result;

/// The roofs of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Operations per second with float32, an FMA as two.
    pub flops: f64,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    /// Where the figures come from.
    pub origin: String,
}

impl Device {
    /// The CPU's peaks are measured, in about a second; a GPU's follow from its clocks and widths.
    pub fn peaks(&self) -> Result<Peaks> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.peaks(),
            Backend::Host(_) | Backend::Software(_) => Ok(host::peaks()),
        }
    }
}
