//! Typed memory of a device.

use super::memory::Policy;
use super::{Backend, Device};
use crate::error::{Error, Result};
use half::bf16;
use std::marker::PhantomData;

/// The type of a buffer's elements.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    /// The content of new buffers in checked mode.
    const POISON: Self;
}
impl Element for f32 {
    const POISON: f32 = f32::NAN;
}
impl Element for bf16 {
    const POISON: bf16 = bf16::NAN;
}
impl Element for i32 {
    const POISON: i32 = i32::MIN + 7;
}
impl Element for u32 {
    const POISON: u32 = 0xdead_beef;
}
impl Element for u64 {
    const POISON: u64 = 0xdead_beef_dead_beef;
}
impl Element for u8 {
    const POISON: u8 = 0xa5;
}

/// A type of the numbers of feature maps: float32, or bf16, which rounds to 8 bits and takes half the memory.
/// Kernels compute in float32 either way.
pub trait Real: Element + Copy {
    /// The one of two values that is for this type.
    fn of<'a, V: ?Sized>(f32: &'a V, bf16: &'a V) -> &'a V;
}
impl Real for f32 {
    fn of<'a, V: ?Sized>(f32: &'a V, _: &'a V) -> &'a V {
        f32
    }
}
impl Real for bf16 {
    fn of<'a, V: ?Sized>(_: &'a V, bf16: &'a V) -> &'a V {
        bf16
    }
}

/// `len` elements in the memory of a device, returned to the device's pool when dropped.
pub struct Buffer<T: Element> {
    device: Device,
    address: u64,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// A buffer with unspecified content (NaN in checked mode). Errors: out of memory.
    pub fn uninit(device: &Device, len: usize) -> Result<Buffer<T>> {
        // A size beyond all memory is refused by the allocator, with the numbers.
        let bytes = len.saturating_mul(size_of::<T>());
        let address = device.0.memory.allocate(&device.0.backend, bytes)?;
        if device.0.tracer.is_on() {
            device.0.tracer.allocated(address, bytes as u64);
        }
        let buffer = Buffer { device: device.clone(), address, len, kind: PhantomData };
        if device.0.memory.policy == Policy::Guarded {
            // SAFETY: checked devices are hosts; the memory was just allocated with at least `bytes` bytes.
            unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }.fill(T::POISON);
        }
        Ok(buffer)
    }

    /// A buffer of zeros.
    pub fn zeros(device: &Device, len: usize) -> Result<Buffer<T>> {
        let buffer = Buffer::uninit(device, len)?;
        let bytes = len * size_of::<T>();
        match &device.0.backend {
            Backend::Host(host) => host.zero(buffer.address, bytes),
            Backend::Cuda(cuda) => cuda.zero(buffer.address, bytes)?,
            Backend::Software(software) => software.zero(buffer.address, bytes)?,
        }
        Ok(buffer)
    }

    /// A buffer with a copy of `values`.
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = Buffer::uninit(device, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Overwrites the buffer. Errors: `values` has a different length.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.same_length("Buffer::write", values.len())?;
        self.device.0.backend.write(self.address, bytemuck::cast_slice(values))
    }

    /// Copies the content to the program; waits for everything launched so far.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        match &self.device.0.backend {
            Backend::Host(host) => {
                host.recorder.refuse_while_capturing("read a buffer")?;
                // SAFETY: the buffer has exactly as many bytes, and host kernels are done when their launch
                // returns.
                unsafe {
                    std::ptr::copy_nonoverlapping(self.address as *const u8, bytes.as_mut_ptr(), bytes.len())
                };
            }
            Backend::Cuda(cuda) => cuda.read(self.address, bytes)?,
            Backend::Software(software) => software.read(self.address, bytes)?,
        }
        Ok(values)
    }

    /// A copy on the same device.
    pub fn duplicate(&self) -> Result<Buffer<T>> {
        let mut copy = Buffer::uninit(&self.device, self.len)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// Overwrites the buffer with the content of another. Errors: different lengths.
    pub fn copy_from(&mut self, other: &Buffer<T>) -> Result<()> {
        self.same_length("Buffer::copy_from", other.len)?;
        let bytes = self.len * size_of::<T>();
        if self.device.0.memory.capturing() {
            self.device.0.memory.record_use([self.address, other.address]);
        }
        match &self.device.0.backend {
            Backend::Host(host) => host.copy(other.address, self.address, bytes),
            Backend::Cuda(cuda) => cuda.copy(other.address, self.address, bytes)?,
            Backend::Software(software) => software.copy(other.address, self.address, bytes)?,
        }
        Ok(())
    }

    fn same_length(&self, op: &'static str, len: usize) -> Result<()> {
        if len == self.len {
            Ok(())
        } else {
            Err(Error::Shape { op, expected: format!("{} elements", self.len), got: vec![len] })
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where it lies in the memory of the device.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Backend {
    /// Writes to memory that the caller owns.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Backend::Host(host) => {
                host.recorder.refuse_while_capturing("write to a buffer")?;
                // SAFETY: the caller owns as many bytes, and host kernels are done when their launch returns.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
                Ok(())
            }
            Backend::Cuda(cuda) => cuda.write(address, bytes),
            Backend::Software(software) => software.write(address, bytes),
        }
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.device.0.tracer.is_on() {
            self.device.0.tracer.freed(self.address);
        }
        self.device.0.memory.release(&self.device.0.backend, self.address);
    }
}
