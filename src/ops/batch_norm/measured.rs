//! Feature maps with the statistics of their channels.

use crate::ops::prelude::*;

/// Mean and sum of squared deviations of each channel, over chunks of rows: `[chunks,2,C]`, as
/// `batch_norm_finish` merges them. A chunk has `rows_per_chunk` valid rows, the last one the rest.
pub struct ChunkStatistics {
    pub partial: Buffer<f32>,
    pub rows_per_chunk: usize,
}

/// The input of a batch norm, with its statistics where the operation that made it has computed them: those
/// of the numbers in memory, over the rows that are valid for both.
pub struct Measured<T: Real> {
    pub x: Var<T>,
    pub statistics: Option<ChunkStatistics>,
}

impl<T: Real> From<Var<T>> for Measured<T> {
    fn from(x: Var<T>) -> Measured<T> {
        Measured { x, statistics: None }
    }
}
