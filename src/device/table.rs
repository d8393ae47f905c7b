//! Arguments in device memory, for kernels that go over any number of buffers in one launch.

use super::{Arg, Buffer, Device};
use crate::error::Result;

impl Buffer<u64> {
    /// The bits of kernel arguments. In a capture, where nothing can be written, they are written when it
    /// ends, and belong to the graph.
    pub fn of_args(device: &Device, args: &[Arg]) -> Result<Buffer<u64>> {
        let words: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        let memory = &device.0.memory;
        if !memory.capturing() {
            return Buffer::from_slice(device, &words);
        }
        // Not a block that was freed in the capture: earlier launches would write to it in the next replay.
        let table = memory.outside_capture(|| Buffer::uninit(device, words.len()))?;
        // A replay reads and writes the buffers behind the addresses, too.
        memory.record_use(words.iter().copied());
        memory.record_constant(table.address(), bytemuck::cast_slice(&words));
        Ok(table)
    }
}
