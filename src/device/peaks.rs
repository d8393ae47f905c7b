//! What a device can do at most, for comparison with what kernels reach, and the least time of a launch.

use super::trace::Work;
use super::{Backend, Device, Precision, host};
use crate::error::Result;
use serde::Serialize;
use strum::Display;

/// The roofs of a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Operations per second with float32, an FMA as two.
    pub flops: f64,
    /// The same of tensor cores with tf32 and with bf16, where it is known.
    pub tensor: Option<[f64; 2]>,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    /// Where the figures come from.
    pub origin: String,
}

/// What a launch waits for at its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, Serialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    Memory,
    Compute,
}

impl Peaks {
    /// Operations per second with products of this precision; those with float32 where no other figure is
    /// known.
    pub fn flops_of(&self, precision: Precision) -> f64 {
        match (self.tensor, precision) {
            (Some([tf32, _]), Precision::Tf32) => tf32,
            (Some([_, bf16]), Precision::Bf16) => bf16,
            _ => self.flops,
        }
    }

    /// The least seconds of a launch, and what takes them. Bytes are taken to come from memory, each once: a
    /// launch whose data a cache holds may take less.
    pub fn bound(&self, work: &Work) -> (f64, Binding) {
        let compute = work.flop.unwrap_or(0) as f64 / self.flops_of(work.precision);
        let memory = work.bytes() as f64 / self.bandwidth;
        if compute > memory { (compute, Binding::Compute) } else { (memory, Binding::Memory) }
    }
}

impl Device {
    /// The CPU's peaks are measured, in about a second; a GPU's follow from its clocks and widths, and those
    /// of its tensor cores from its data sheet.
    pub fn peaks(&self) -> Result<Peaks> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.peaks(),
            Backend::Host(_) | Backend::Software(_) => Ok(host::peaks()),
        }
    }
}
