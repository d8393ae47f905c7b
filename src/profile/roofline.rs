//! The least time that a launch can take on a device: that of its operations, or that of its bytes.

use crate::device::trace::Work;
use crate::device::{Device, Peaks};
use crate::error::Result;
use serde::Serialize;
use strum::Display;

/// What a launch waits for at its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, Serialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    Memory,
    Compute,
}

/// The roofs of a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Operations per second with float32.
    pub flops: f64,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    pub origin: String,
}

impl Roofline {
    /// On the CPU this measures, for about a second.
    pub fn of(device: &Device) -> Result<Roofline> {
        let Peaks { flops, bandwidth, origin } = device.peaks()?;
        Ok(Roofline { flops, bandwidth, origin })
    }

    /// The least seconds of a launch, and what takes them. Bytes are taken to come from memory, each once: a
    /// launch whose data a cache holds may take less.
    pub fn bound(&self, work: &Work) -> (f64, Binding) {
        let compute = work.flop.unwrap_or(0) as f64 / self.flops;
        let memory = work.bytes() as f64 / self.bandwidth;
        if compute > memory { (compute, Binding::Compute) } else { (memory, Binding::Memory) }
    }
}
