//! The blocks of the implicit GEMM.

use crate::device::Device;
use crate::device::kernels::conv2d;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Columns of a panel (`panel_width` in `kernels/lib/gemm_tile.cuh`).
pub(super) fn panel_width(columns: usize) -> usize {
    if columns > 32 {
        64
    } else if columns > 16 {
        32
    } else {
        16
    }
}

/// The grid of the implicit GEMM, for an output of `pixels` (height, width) by `columns` channels with
/// `phases` per axis. When only some of the images may be valid (`counted`), it has enough blocks for each
/// number of them: fewer images lie in larger chunks, which may fit less well.
pub(super) fn implicit_gemm_grid(
    device: &Device,
    images: usize,
    pixels: (usize, usize),
    columns: usize,
    phases: usize,
    counted: bool,
) -> (usize, usize) {
    let grid = pixels.0.div_ceil(phases) * pixels.1.div_ceil(phases);
    let block_rows = conv2d::BLOCK_ROWS.on(device);
    let blocks = |images: usize| {
        let chunk = chunk_size(device, images, grid);
        (images * chunk).div_ceil(block_rows) * grid.div_ceil(chunk) * phases * phases
    };
    let blocks = if counted {
        let mut most = MOST_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = [block_rows, images, grid, phases];
        *most.entry(sizes).or_insert_with(|| (1..=images).map(blocks).max().unwrap_or(0))
    } else {
        blocks(images)
    };
    (blocks, columns.div_ceil(panel_width(columns)))
}

/// The blocks that are enough for each number of valid images, by rows of a block, images, pixels of a phase
/// and phases: every number is tried, once and not at every launch.
static MOST_BLOCKS: Mutex<BTreeMap<[usize; 4], usize>> = Mutex::new(BTreeMap::new());

/// `chunk_size` in `kernels/lib/implicit_gemm.cuh`.
fn chunk_size(device: &Device, images: usize, pixels: usize) -> usize {
    let block_rows = conv2d::BLOCK_ROWS.on(device);
    let least = conv2d::MIN_CHUNK_ROWS.on(device).div_ceil(images.max(1)).min(pixels);
    let enough = (images * pixels).div_ceil(block_rows) * 9 / 8;
    let (mut best, mut fewest) = (least, usize::MAX);
    for chunk in (least..=pixels).take(conv2d::CHUNK_CHOICES.on(device)) {
        let blocks = pixels / chunk * (images * chunk).div_ceil(block_rows)
            + (images * (pixels % chunk)).div_ceil(block_rows);
        if blocks < fewest {
            (best, fewest) = (chunk, blocks);
        }
        if fewest <= enough {
            break;
        }
    }
    best
}
