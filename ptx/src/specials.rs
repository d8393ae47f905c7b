//! Special registers: coordinates, sizes and masks.

use crate::block::{Machine, dynamic_offset, split};
use crate::instruction::*;
use crate::lanes::{LANES, Row};

/// The special values of a warp, the same in every block but for the block's own coordinates.
pub fn specials(machine: &Machine, shared: usize, warp: usize) -> Vec<Row<u64>> {
    let launch = machine.launch;
    let threads = machine.threads();
    let of_lane = |special: Special, lane: usize| -> u64 {
        let thread = split(((warp * LANES + lane) % threads.max(1)) as u64, launch.block);
        let bit = 1u32 << lane;
        let value = match special {
            Special::Tid(axis) => thread[axis],
            Special::Ntid(axis) => launch.block[axis],
            Special::Ctaid(_) => 0,
            Special::Nctaid(axis) => launch.grid[axis],
            Special::Lane => lane as u32,
            Special::Warp => warp as u32,
            Special::Warps => threads.div_ceil(LANES) as u32,
            Special::LanemaskEq => bit,
            Special::LanemaskLt => bit - 1,
            Special::LanemaskLe => bit | (bit - 1),
            Special::LanemaskGt => !(bit | (bit - 1)),
            Special::LanemaskGe => !(bit - 1),
            Special::DynamicShared => dynamic_offset(machine.kernel) as u32,
            Special::TotalShared => shared as u32,
            Special::Global(offset) => return machine.variables + offset as u64,
        };
        value as u64
    };
    let row =
        |&(special, _, _): &(Special, Class, Slot)| Row(std::array::from_fn(|lane| of_lane(special, lane)));
    machine.code.specials.iter().map(row).collect()
}
