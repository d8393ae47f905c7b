//! Tables of arguments in device memory, for kernels that work on any number of tensors in one launch.

use super::{Arg, Buffer, Device, Element, IntoArg};
use crate::error::Result;

/// The rows of a launch, one for each tensor or layer: the number of blocks before its own, then sizes and
/// addresses. `kernels/lib/table.cuh` reads it.
pub struct Table<'a> {
    device: &'a Device,
    words: Vec<u64>,
    traffic: Traffic,
    rows: usize,
    blocks: usize,
}

/// Bytes of the buffers that a table points to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    pub read: u64,
    pub written: u64,
}

impl Table<'_> {
    pub fn new(device: &Device) -> Table<'_> {
        Table { device, words: Vec::new(), traffic: Traffic::default(), rows: 0, blocks: 0 }
    }

    /// Begins a row, whose work takes so many blocks. What follows is of this row.
    pub fn row(&mut self, blocks: usize) -> &mut Self {
        self.words.push(self.blocks as u64);
        self.blocks += blocks;
        self.rows += 1;
        self
    }

    /// A size or a flag.
    pub fn value(&mut self, value: usize) -> &mut Self {
        self.words.push(value as u64);
        self
    }

    /// A buffer that is read; without one the kernel finds 0.
    pub fn read<'b, T: Element>(&mut self, buffer: impl Into<Option<&'b Buffer<T>>>) -> &mut Self {
        let buffer = buffer.into();
        self.traffic.read += bytes(buffer);
        self.address(buffer.arg())
    }

    /// A buffer that is written.
    pub fn write<'b, T: Element>(&mut self, buffer: impl Into<Option<&'b mut Buffer<T>>>) -> &mut Self {
        let buffer = buffer.into();
        self.traffic.written += bytes(buffer.as_deref());
        self.address(buffer.arg())
    }

    /// A buffer that is changed: read and written.
    pub fn change<'b, T: Element>(&mut self, buffer: impl Into<Option<&'b mut Buffer<T>>>) -> &mut Self {
        let buffer = buffer.into();
        self.traffic.read += bytes(buffer.as_deref());
        self.write(buffer)
    }

    fn address(&mut self, arg: Arg) -> &mut Self {
        self.words.push(arg.0);
        self
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Those of all rows.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The table in device memory. In a capture, where nothing can be written, it is written when that ends,
    /// and belongs to the graph.
    pub fn buffer(&self) -> Result<Buffer<u64>> {
        let memory = &self.device.0.memory;
        let table = if memory.capturing() {
            // Not a block that was freed in the capture: earlier launches would write to it in the next
            // replay.
            let table = memory.outside_capture(|| Buffer::uninit(self.device, self.words.len()))?;
            // A replay reads and writes the buffers behind the addresses, too.
            memory.record_use(self.words.iter().copied());
            memory.record_constant(table.address(), bytemuck::cast_slice(&self.words));
            table
        } else {
            Buffer::from_slice(self.device, &self.words)?
        };
        if self.device.0.tracer.is_on() {
            self.device.0.tracer.pointed_to(table.address(), self.traffic);
        }
        Ok(table)
    }
}

fn bytes<T: Element>(buffer: Option<&Buffer<T>>) -> u64 {
    buffer.map_or(0, |buffer| (buffer.len() * size_of::<T>()) as u64)
}
