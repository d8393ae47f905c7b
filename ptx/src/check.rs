//! The checks of an access: copies in flight, bytes that nothing wrote, races.

use crate::access::{Target, lanes};
use crate::block::{Common, Machine};
use crate::fault::{FaultKind, Space, Touch};
use crate::lanes::LANES;
use crate::memory::Allocation;
use crate::shadow::Visit;
use crate::warp::Failure;

/// The checks of one access.
pub(crate) struct Check<'a> {
    pub machine: &'a Machine<'a>,
    pub common: &'a Common,
    pub local: Option<&'a Allocation>,
    pub thread_base: usize,
}

impl Check<'_> {
    /// Checks and records an access of `bytes` in elements of `size`.
    #[inline(always)]
    pub fn touch(
        &self,
        target: &Target,
        mask: u32,
        (bytes, size): (usize, usize),
        write: bool,
        atomic: bool,
        async_copy: bool,
    ) -> Result<(), Failure> {
        let checks = &self.machine.options.checks;
        let message = |lane: usize| Touch {
            space: target.space,
            address: target.origin + target.offsets[lane] as u64,
            bytes,
            write: write && !atomic,
        };
        let shared = target.space == Space::Shared;
        let allocation = match target.space {
            Space::Shared => &self.common.shared,
            Space::Global => match self.machine.allocation(target.origin) {
                Some((_, allocation)) => allocation,
                None => return Ok(()),
            },
            Space::Local => match self.local {
                Some(local) => local,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if shared && checks.async_copies && self.common.in_flight_bytes > 0 && !async_copy {
            for lane in lanes(mask) {
                let range = target.offsets[lane] / 4..(target.offsets[lane] + bytes).div_ceil(4);
                if self.common.in_flight[range].iter().any(|&n| n > 0) {
                    return Err(Failure { lane, what: FaultKind::InFlight(message(lane)) });
                }
            }
        }
        if checks.uninitialised {
            if !write || atomic {
                let whole = target.contiguous && allocation.is_written(target.offsets[0], bytes * LANES);
                if !whole {
                    for lane in lanes(mask) {
                        if !allocation.is_written(target.offsets[lane], bytes) {
                            return Err(Failure { lane, what: FaultKind::Uninitialised(message(lane)) });
                        }
                    }
                }
            } else if !async_copy {
                if target.contiguous {
                    allocation.set_written(target.offsets[0], bytes * LANES);
                } else {
                    for lane in lanes(mask) {
                        allocation.set_written(target.offsets[lane], bytes);
                    }
                }
            }
        }
        if checks.races && target.space != Space::Local {
            let (place, warp) = match shared {
                true => ((self.common.generation, 0), self.thread_base / LANES),
                false => {
                    ((self.machine.memory.generation, self.common.block_index), self.thread_base / LANES)
                }
            };
            let mut visit = Visit::new(&self.common.clocks, place, warp, atomic);
            // Narrow elements of a vector have cells of bytes, which whole words would not see.
            let step = if size < 4 { size } else { bytes };
            // Writes of one instruction are checked first and recorded then: they do not race with each
            // other, and `collisions` compares their values.
            let passes: &[(bool, bool)] =
                if write { &[(true, false), (false, true)] } else { &[(true, true)] };
            for &pass in passes {
                for lane in lanes(mask) {
                    for at in (0..bytes).step_by(step) {
                        let range = (target.offsets[lane] + at, step);
                        let shadow = &allocation.shadow;
                        let found = shadow.touch(allocation.size, range, &mut visit, (lane, write), pass);
                        if let Some(conflict) = found {
                            let launch = &self.machine.launch;
                            let mut party = conflict.party(launch.grid, launch.block);
                            party.same_block |= shared;
                            return Err(Failure { lane, what: FaultKind::Race(message(lane), party) });
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
