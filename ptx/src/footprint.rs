//! The memory that a launch touches: each sector of it once, however often it is read. No cache can spare the
//! first transfer of a sector, so this is the least traffic of DRAM that starts and ends with empty caches.

use crate::access::Target;
use crate::fault::Space;
use crate::lanes::{LANES, lanes};
use crate::memory::Buffer;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

/// A bit for each of these many bytes.
const SECTOR: usize = 32;

/// An allocation and its sectors that were read and written; a map is made at the first touch.
struct Map {
    base: u64,
    size: usize,
    touched: [OnceLock<Option<Buffer>>; 2],
}

/// The sectors that a launch has touched.
pub struct Footprint(Vec<Map>);

impl Footprint {
    /// Over allocations in the order of their addresses: base and size.
    pub fn new(allocations: impl Iterator<Item = (u64, usize)>) -> Footprint {
        Footprint(allocations.map(|(base, size)| Map { base, size, touched: Default::default() }).collect())
    }

    pub fn touch(&self, target: &Target, mask: u32, bytes: usize, write: bool) {
        if target.space != Space::Global {
            return;
        }
        let found = self.0.partition_point(|map| map.base <= target.base as u64);
        let Some(map) = found.checked_sub(1).and_then(|at| self.0.get(at)) else { return };
        let sectors = map.size.div_ceil(SECTOR);
        let bits = map.touched[write as usize].get_or_init(|| Buffer::new(sectors.div_ceil(64) * 8));
        // Without memory for the map nothing is counted, and `bytes` says less than it could.
        let Some(bits) = bits else { return };
        let mark = |sector: usize| {
            let (cell, bit) = (&bits.words()[sector / 64], 1 << (sector % 64));
            if cell.load(Relaxed) & bit == 0 {
                cell.fetch_or(bit, Relaxed);
            }
        };
        if target.contiguous {
            let (start, end) = (target.offsets[0], target.offsets[0] + LANES * bytes);
            return (start / SECTOR..end.div_ceil(SECTOR)).for_each(mark);
        }
        let mut last = usize::MAX;
        for lane in lanes(mask) {
            let sector = target.offsets[lane] / SECTOR;
            if sector != last {
                mark(sector);
                last = sector;
            }
        }
    }

    /// Bytes read and written by all blocks, when a part of them touched what is marked: as much more as
    /// there are more blocks, but no allocation more than whole.
    pub fn bytes(&self, blocks: u64, counted: u64) -> [u64; 2] {
        [0, 1].map(|write| {
            let of = |map: &Map| {
                let Some(Some(bits)) = map.touched[write].get() else { return 0 };
                let sectors: u64 = bits.words().iter().map(|w| w.load(Relaxed).count_ones() as u64).sum();
                let all = sectors as u128 * SECTOR as u128 * blocks as u128 / counted.max(1) as u128;
                all.min(map.size as u128) as u64
            };
            self.0.iter().map(of).sum()
        })
    }
}
