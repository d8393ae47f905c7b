//! The banks of shared memory: 32, each of which delivers one word of 4 bytes a wavefront, to any number of
//! lanes.

use crate::lanes::{LANES, lanes};

/// Bytes of a wavefront, from all banks.
pub const WAVEFRONT: usize = 128;

/// The wavefronts of a shared access.
pub struct Wavefronts {
    /// By a model: words of 4 bytes for the whole warp, 8 bytes for half of it, 16 bytes for a quarter at a
    /// time. NVIDIA does not document accesses that are wider than a word.
    pub model: usize,
    /// The fewest for as many bytes in as many phases.
    pub least: usize,
    /// If phases could share wavefronts: no hardware with these banks needs less.
    pub merged: usize,
}

impl Wavefronts {
    /// Of lanes that each access `bytes`, of which `distinct` are different ones.
    pub fn of(offsets: &[usize; LANES], mask: u32, bytes: usize, distinct: usize) -> Wavefronts {
        let width = bytes.max(4);
        // Lanes and groups of banks of one phase; no lane's words straddle a group.
        let (at_once, shift) = (WAVEFRONT / width, width.trailing_zeros());
        let (mut units, mut n) = ([0; LANES], 0);
        let (mut model, mut phases) = (0, 0);
        for phase in 0..LANES / at_once {
            let start = n;
            for lane in lanes(mask >> (phase * at_once) & (u32::MAX >> (LANES - at_once))) {
                units[n] = (offsets[phase * at_once + lane] >> shift) as u32;
                n += 1;
            }
            model += longest(&units[start..n], at_once);
            phases += (n > start) as usize;
        }
        let merged = if at_once < LANES { longest(&units[..n], at_once) } else { model };
        Wavefronts { model, least: phases.max(distinct.div_ceil(WAVEFRONT)), merged }
    }
}

/// The most different units in one group of banks.
fn longest(units: &[u32], groups: usize) -> usize {
    let mut counts = [0; LANES];
    for (at, &unit) in units.iter().enumerate() {
        counts[unit as usize % groups] += !units[..at].contains(&unit) as usize;
    }
    counts.into_iter().max().unwrap_or(0)
}
