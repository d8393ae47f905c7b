//! The kernels of the forward pass, and how they share the work.

use super::{ChunkStatistics, EPS, MOMENTUM};
use crate::ops::prelude::*;
use crate::ops::valid::Rows;
use kernels::batch_norm;

/// How the kernels share the work; it depends on the sizes and the kind of device alone, so that results do
/// not depend on its cores.
pub(super) struct Plan {
    pub(super) device: Device,
    /// Which images the statistics are of, and the rows of each.
    pub(super) images: Rows,
    pub(super) rows_per_image: usize,
    /// Pixels of all images.
    pub(super) rows: usize,
    pub(super) channels: usize,
    /// Vectors of channels.
    pub(super) groups: usize,
    /// Groups side by side in a block.
    pub(super) side: usize,
    pub(super) rows_per_block: usize,
}

impl Plan {
    pub(super) fn new<T: Real>(x: &Tensor<T>, images: &Rows) -> Plan {
        let (device, channels) = (x.device(), x.shape().last().copied().unwrap_or(1));
        let rows = x.len() / channels;
        let rows_per_image = rows / if x.shape().len() > 1 { x.shape()[0] } else { 1 };
        let groups = channels.div_ceil(kernels::VEC.on(device));
        let (tile, threads) = (batch_norm::TILE.on(device), batch_norm::THREADS.on(device));
        let side = groups.next_power_of_two().min(tile).min(threads);
        // As many rows as a block's threads hold at once are the least; beyond that, enough blocks for a
        // large GPU, or chunks that stay in a core's first-level cache.
        let least = threads / side * batch_norm::BATCH.on(device);
        let rows_per_block = if device.has_one_thread_blocks() {
            (8192 / channels).max(rows.div_ceil(1024))
        } else {
            rows.div_ceil(1024usize.div_ceil(groups.div_ceil(tile)))
        };
        Plan {
            device: device.clone(),
            images: images.clone(),
            rows_per_image,
            rows,
            channels,
            groups,
            side,
            rows_per_block: rows_per_block.max(1).next_multiple_of(least),
        }
    }

    /// `[4,C]` of the running statistics.
    pub(super) fn running_stats(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
    ) -> Result<Buffer<f32>> {
        let mut stats = self.stats()?;
        let (device, grid) = (&self.device, self.groups.div_ceil(32));
        batch_norm::running(device, grid, mean, var, weight, bias, &mut stats, self.channels, EPS)?;
        Ok(stats)
    }

    fn chunk_statistics<T: Real>(&self, x: &Tensor<T>) -> Result<ChunkStatistics> {
        let Plan { rows, channels, side, rows_per_block, .. } = *self;
        let mut partial = self.partial()?;
        let (num_valid, per_image) = self.images.of_images(self.rows_per_image)?;
        batch_norm::statistics::<T>(
            &self.device,
            self.columns(),
            x,
            &mut partial,
            num_valid,
            per_image,
            rows,
            channels,
            side,
            rows_per_block,
        )?;
        Ok(ChunkStatistics { partial, rows_per_chunk: rows_per_block })
    }

    /// `[4,C]` of the batch; the running mean and variance move towards it.
    pub(super) fn batch_stats<T: Real>(
        &self,
        x: &Tensor<T>,
        statistics: Option<ChunkStatistics>,
        weight: &Tensor,
        bias: &Tensor,
        running: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Result<Buffer<f32>> {
        let mut stats = self.stats()?;
        let ChunkStatistics { partial, rows_per_chunk } = match statistics {
            Some(statistics) => statistics,
            None => self.chunk_statistics(x)?,
        };
        let (num_valid, per_image) = self.images.of_images(self.rows_per_image)?;
        let (running_mean, running_var) = match running {
            Some((mean, var)) => (Some(mean.make_mut()?), Some(var.make_mut()?)),
            None => (None, None),
        };
        batch_norm::Finish {
            partial: &partial,
            weight,
            bias,
            running_mean,
            running_var,
            stats: &mut stats,
            num_valid,
            per_image,
            rows: self.rows,
            channels: self.channels,
            rows_per_block: rows_per_chunk,
            eps: EPS,
            momentum: MOMENTUM,
        }
        .launch(&self.device, self.groups)?;
        Ok(stats)
    }

    /// x normalised, and the bits of the ReLU where they are to be kept.
    pub(super) fn apply<T: Real>(
        &self,
        x: &Tensor<T>,
        stats: &Buffer<f32>,
        relu: bool,
        keep_mask: bool,
    ) -> Result<(Tensor<T>, Option<Buffer<u8>>)> {
        let mut y = Tensor::<T>::uninit(&self.device, x.shape())?;
        let mut mask =
            keep_mask.then(|| Buffer::<u8>::uninit(&self.device, mask_bytes(x.len()))).transpose()?;
        let (num_valid, per_image) = self.images.of_images(self.rows_per_image)?;
        let Plan { rows, channels, .. } = *self;
        batch_norm::Apply {
            x,
            stats,
            y: &mut y,
            mask: mask.as_mut(),
            num_valid,
            per_image,
            rows,
            channels,
            relu,
        }
        .launch(&self.device, self.elements())?;
        Ok((y, mask))
    }

    /// The grid of a kernel that walks down columns.
    pub(super) fn columns(&self) -> (usize, usize) {
        (self.chunks(), self.groups.div_ceil(batch_norm::TILE.on(&self.device)))
    }

    /// The grid of a kernel that works on single elements.
    pub(super) fn elements(&self) -> usize {
        (self.rows * self.groups).div_ceil(batch_norm::PAIRS.on(&self.device))
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block)
    }

    pub(super) fn padded(&self) -> usize {
        self.groups * kernels::VEC.on(&self.device)
    }

    fn stats(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, 4 * self.padded())
    }

    pub(super) fn partial(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, self.chunks() * 2 * self.padded())
    }
}
