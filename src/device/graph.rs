//! A recorded sequence of launches that is replayed as a whole: a CUDA graph on a GPU, elsewhere a list of
//! launches.

use super::memory::Captured;
use super::{Backend, Device, cuda, recording};
use crate::error::Result;

/// Recorded work; see [`Device::capture`]. It keeps the memory that the work uses for as long as it lives.
pub struct Graph {
    device: Device,
    recorded: Recorded,
    blocks: Vec<u64>,
}

enum Recorded {
    List(Vec<recording::Recorded>),
    Cuda(cuda::CapturedGraph),
}

impl Graph {
    pub(super) fn capture(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let memory = &device.0.memory;
        match &device.0.backend {
            Backend::Host(host) => host.recorder.begin()?,
            Backend::Software(software) => software.recorder.begin()?,
            Backend::Cuda(cuda) => cuda.begin_capture()?,
        }
        memory.begin_capture();
        let outcome = work();
        let Captured { blocks, constants } = memory.end_capture();
        // The recording is ended on the error path too, so that the device goes on working.
        let recorded = match &device.0.backend {
            Backend::Host(host) => Ok(Recorded::List(host.recorder.end())),
            Backend::Software(software) => Ok(Recorded::List(software.recorder.end())),
            Backend::Cuda(cuda) => cuda.end_capture().map(Recorded::Cuda),
        };
        let write = |(address, bytes): (u64, Vec<u8>)| device.0.backend.write(address, &bytes);
        let outcome = outcome.and_then(|()| constants.into_iter().try_for_each(write));
        match (outcome, recorded) {
            (Ok(()), Ok(recorded)) => Ok(Graph { device: device.clone(), recorded, blocks }),
            (Err(error), _) | (_, Err(error)) => {
                memory.unpin(&device.0.backend, &blocks);
                Err(error)
            }
        }
    }

    /// Runs the recorded work once more.
    pub fn replay(&self) -> Result<()> {
        match (&self.recorded, &self.device.0.backend) {
            (Recorded::List(work), backend) => work.iter().try_for_each(|item| match (item, backend) {
                // As any launch, so that it is traced.
                (recording::Recorded::Launch { kernel, grid, args }, _) => {
                    self.device.launch(kernel, *grid, args)
                }
                (item, Backend::Host(host)) => host.run(item),
                (item, Backend::Software(software)) => software.run(item),
                (_, Backend::Cuda(_)) => Ok(()),
            }),
            (Recorded::Cuda(graph), _) => graph.launch(),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.0.memory.unpin(&self.device.0.backend, &self.blocks);
    }
}
