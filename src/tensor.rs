//! An array on a device with a run-time shape, of float32 or bf16. Activations are `[N,H,W,C]`; a clone
//! shares the memory.

use crate::device::kernels::Output;
use crate::device::{Buffer, Device, Real};
use crate::error::{Error, Result};
use std::ops::Deref;
use std::sync::Arc;

/// A buffer with a shape. Values are shared between clones and replaced, not changed: [`Tensor::make_mut`]
/// copies first when shared. For reading, a tensor is also its buffer.
///
/// A tensor has fewer than 2^31 elements: kernels count in 32 bits.
pub struct Tensor<T: Real = f32> {
    buffer: Arc<Buffer<T>>,
    shape: Vec<usize>,
}

impl<T: Real> Clone for Tensor<T> {
    fn clone(&self) -> Tensor<T> {
        Tensor { buffer: self.buffer.clone(), shape: self.shape.clone() }
    }
}

impl<T: Real> Tensor<T> {
    /// A tensor over a buffer. The product of the shape must be the length of the buffer.
    pub fn new(buffer: Buffer<T>, shape: &[usize]) -> Result<Tensor<T>> {
        if elements(shape)? != buffer.len() {
            return Err(Error::Shape {
                op: "Tensor::new",
                expected: format!("{} elements", buffer.len()),
                got: shape.to_vec(),
            });
        }
        Ok(Tensor { buffer: Arc::new(buffer), shape: shape.to_vec() })
    }

    /// A tensor with a copy of `values`.
    pub fn from_slice(device: &Device, shape: &[usize], values: &[T]) -> Result<Tensor<T>> {
        Tensor::new(Buffer::from_slice(device, values)?, shape)
    }

    /// A tensor of zeros.
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Tensor<T>> {
        Tensor::new(Buffer::zeros(device, elements(shape)?)?, shape)
    }

    /// A tensor with unspecified content.
    pub fn uninit(device: &Device, shape: &[usize]) -> Result<Tensor<T>> {
        Tensor::new(Buffer::uninit(device, elements(shape)?)?, shape)
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape as `[N,H,W,C]`; an error that names `op` when it has another rank.
    pub fn nhwc(&self, op: &'static str) -> Result<[usize; 4]> {
        self.shape.as_slice().try_into().map_err(|_| Error::Shape {
            op,
            expected: "[N,H,W,C]".into(),
            got: self.shape.clone(),
        })
    }

    /// The shape as `[rows, columns]`; an error that names `op` when it has another rank.
    pub fn matrix(&self, op: &'static str) -> Result<[usize; 2]> {
        self.shape.as_slice().try_into().map_err(|_| Error::Shape {
            op,
            expected: "[rows, columns]".into(),
            got: self.shape.clone(),
        })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    pub fn buffer(&self) -> &Buffer<T> {
        &self.buffer
    }

    /// The buffer to write to in place. When a clone still shares it, the tensor gets a copy of its own
    /// first, so that the clone keeps the old values.
    pub fn make_mut(&mut self) -> Result<&mut Buffer<T>> {
        if Arc::get_mut(&mut self.buffer).is_none() {
            self.buffer = Arc::new(self.buffer.duplicate()?);
        }
        Arc::get_mut(&mut self.buffer)
            .ok_or(Error::Internal { what: "a buffer that was just made is shared".into() })
    }

    /// The same values with another shape of as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor<T>> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::Shape {
                op: "reshape",
                expected: format!("{} elements", self.len()),
                got: shape.to_vec(),
            });
        }
        Ok(Tensor { buffer: self.buffer.clone(), shape: shape.to_vec() })
    }

    /// A copy of the values for the program; waits for the device.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.buffer.to_vec()
    }

    /// The value of a tensor of one element.
    pub fn item(&self) -> Result<T> {
        match self.to_vec()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::Shape { op: "item", expected: "one element".into(), got: self.shape.clone() }),
        }
    }
}

impl<T: Real> Deref for Tensor<T> {
    type Target = Buffer<T>;

    fn deref(&self) -> &Buffer<T> {
        &self.buffer
    }
}

impl<T: Real> Output<T> for Tensor<T> {
    fn output(&mut self) -> Result<&mut Buffer<T>> {
        self.make_mut()
    }
}

/// The elements of a tensor of this shape. Errors: 2^31 and more.
pub(crate) fn elements(shape: &[usize]) -> Result<usize> {
    let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    elements.filter(|n| i32::try_from(*n).is_ok()).ok_or_else(|| Error::Shape {
        op: "Tensor",
        expected: "fewer than 2^31 elements".into(),
        got: shape.to_vec(),
    })
}

impl<T: Real> std::fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?} on {:?}", self.shape, self.device())
    }
}
