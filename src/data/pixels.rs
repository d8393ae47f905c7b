//! The pixels of a data set in main memory.

use std::ops::Range;

use crate::error::{Error, Result};

/// Images `[N, H, W, C]`, row-major. Bytes stay bytes, which take a quarter of the memory; floats stay as
/// they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Pixels {
        Pixels::Bytes(bytes)
    }
}

impl Pixels {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Pixels::Bytes(bytes) => bytes.len(),
            Pixels::Floats(floats) => floats.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory of all values, for fingerprints.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Pixels::Bytes(bytes) => bytes,
            Pixels::Floats(floats) => bytemuck::cast_slice(floats),
        }
    }

    /// The values in `range` as floats; `None` if it reaches past the end.
    pub(super) fn floats(&self, range: Range<usize>) -> Option<Vec<f32>> {
        match self {
            Pixels::Bytes(bytes) => Some(bytes.get(range)?.iter().map(|byte| f32::from(*byte)).collect()),
            Pixels::Floats(floats) => Some(floats.get(range)?.to_vec()),
        }
    }

    /// The images of `size` values at `indices`, which exist.
    pub(super) fn gather(&self, indices: &[usize], size: usize) -> Pixels {
        fn gathered<T: Copy>(values: &[T], indices: &[usize], size: usize) -> Vec<T> {
            let mut images = Vec::with_capacity(indices.len() * size);
            indices.iter().for_each(|&i| images.extend_from_slice(&values[i * size..(i + 1) * size]));
            images
        }
        match self {
            Pixels::Bytes(bytes) => Pixels::Bytes(gathered(bytes, indices, size)),
            Pixels::Floats(floats) => Pixels::Floats(gathered(floats, indices, size)),
        }
    }

    /// Takes off the values from `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> Pixels {
        match self {
            Pixels::Bytes(bytes) => Pixels::Bytes(bytes.split_off(at)),
            Pixels::Floats(floats) => Pixels::Floats(floats.split_off(at)),
        }
    }

    /// Adds values of the same type.
    pub(super) fn append(&mut self, more: Pixels) -> Result<()> {
        match (self, more) {
            (Pixels::Bytes(bytes), Pixels::Bytes(more)) => bytes.extend(more),
            (Pixels::Floats(floats), Pixels::Floats(more)) => floats.extend(more),
            _ => return Err(Error::Internal { what: "bytes and floats in one data set".into() }),
        }
        Ok(())
    }
}
