//! A data set in device memory, as bytes or floats; one kernel makes batches from it.

use super::{Dataset, ImageShape, Pixels};
use crate::device::trace::Range;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ops::augment::{Augmentation, StoredImages, augment, gather_i32};
use crate::rng::Stream;
use crate::tensor::Tensor;

/// Images and labels on a device.
pub struct DeviceDataset {
    images: StoredImages,
    labels: Buffer<i32>,
    /// Per channel, the factor from a stored value to a pixel in `[0,1]`.
    scale: Tensor,
    /// Per channel, the offset added to it: 0.
    shift: Tensor,
    pub shape: ImageShape,
    pub len: usize,
}

impl DeviceDataset {
    /// Copies a data set to the device.
    pub fn new(device: &Device, data: &Dataset) -> Result<DeviceDataset> {
        let _data = device.scope(Range::Data);
        let channels = data.shape.channels;
        Ok(DeviceDataset {
            images: match &data.images {
                Pixels::Bytes(bytes) => StoredImages::Bytes(Buffer::from_slice(device, bytes)?),
                Pixels::Floats(floats) => StoredImages::Floats(Buffer::from_slice(device, floats)?),
            },
            labels: Buffer::from_slice(device, &data.labels)?,
            scale: Tensor::from_slice(device, &[channels], &vec![data.byte_scale; channels])?,
            shift: Tensor::zeros(device, &[channels])?,
            shape: data.shape,
            len: data.len(),
        })
    }

    pub fn device(&self) -> &Device {
        self.labels.device()
    }

    /// The images `[B,H,W,C]` in `[0,1]`, augmented as requested, and the labels `[B]` at `indices`.
    pub fn batch(&self, indices: &Buffer<i32>, augmentation: &Augmentation) -> Result<(Tensor, Buffer<i32>)> {
        Ok((self.images(indices, augmentation)?, gather_i32(&self.labels, indices)?))
    }

    /// The images alone.
    pub fn images(&self, indices: &Buffer<i32>, augmentation: &Augmentation) -> Result<Tensor> {
        let _data = self.device().scope(Range::Data);
        let shape = [self.shape.height, self.shape.width, self.shape.channels];
        augment(&self.images, shape, indices, &self.scale, &self.shift, augmentation)
    }

    /// The labels of all images.
    pub fn labels(&self) -> &Buffer<i32> {
        &self.labels
    }
}

/// The index buffers of the batches of a pass in order; the last may be smaller.
pub fn in_order(device: &Device, len: usize, batch: usize) -> Result<Vec<Buffer<i32>>> {
    let order: Vec<i32> = (0..len as i32).collect();
    order.chunks(batch.max(1)).map(|indices| Buffer::from_slice(device, indices)).collect()
}

/// The order of the images of a training epoch, which seed and epoch determine.
pub fn shuffled(len: usize, seed: u64, epoch: usize) -> Vec<i32> {
    let mut order: Vec<i32> = (0..len as i32).collect();
    Stream::new(seed, &format!("order of epoch {epoch}")).shuffle(&mut order);
    order
}
