//! The checks of an access: copies in flight, bytes that nothing wrote, races.

use crate::access::Target;
use crate::block::{Common, Machine};
use crate::fault::{FaultKind, Space, Touch};
use crate::lanes::{LANES, lanes};
use crate::memory::Allocation;
use crate::shadow::{Conflict, Each, Run, Visit};
use crate::warp::Failure;
use std::ops::Range;

/// Accesses whose lanes lie within so many bytes are looked at as a whole first.
const DENSE: usize = 4096;

/// The checks of one access.
pub(crate) struct Check<'a> {
    pub machine: &'a Machine<'a>,
    pub common: &'a Common,
    pub local: Option<&'a Allocation>,
    pub thread_base: usize,
}

impl Check<'_> {
    /// Checks and records an access of `bytes` in elements of `size`.
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
            Space::Global => self.machine.spans[target.span].2,
            Space::Local => match self.local {
                Some(local) => local,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let hull = target.hull.clone();
        // One look at all bytes from the first to the last decides for most accesses.
        let dense = hull.len() <= DENSE;
        if shared && checks.async_copies && self.common.in_flight_bytes > 0 && !async_copy {
            let counts = |range: Range<usize>| &self.common.in_flight[range.start / 4..range.end.div_ceil(4)];
            let any = |range: Range<usize>| counts(range).iter().fold(0, |all, count| all | count) > 0;
            if !dense || any(hull.clone()) {
                let waits = |&lane: &usize| any(target.offsets[lane]..target.offsets[lane] + bytes);
                if let Some(lane) = lanes(mask).find(waits) {
                    return Err(Failure { lane, what: FaultKind::InFlight(message(lane)) });
                }
            }
        }
        if checks.uninitialised && !(dense && allocation.is_written(hull.start, hull.len())) {
            if !write || atomic {
                let unwritten = |&lane: &usize| !allocation.is_written(target.offsets[lane], bytes);
                if let Some(lane) = lanes(mask).find(unwritten) {
                    return Err(Failure { lane, what: FaultKind::Uninitialised(message(lane)) });
                }
            } else if !async_copy {
                allocation.set_written(lanes(mask).map(|lane| target.offsets[lane]), bytes);
            }
        }
        if checks.races && target.space != Space::Local {
            let warp = self.thread_base / LANES;
            let place = match shared {
                true => (self.common.generation, 0),
                false => (self.machine.memory.generation, self.common.block_index),
            };
            let mut visit = Visit::new(&self.common.clocks, place, (warp, write, atomic));
            let (size, each) = (allocation.size, Each { bytes, narrow: size < 4 });
            let run = |lane: usize| Run { at: target.offsets[lane], lane, lanes: 1 };
            let race = |(lane, conflict): (usize, Conflict)| {
                let launch = &self.machine.launch;
                let mut party = conflict.party(launch.grid, launch.block);
                party.same_block |= shared;
                Err(Failure { lane, what: FaultKind::Race(message(lane), party) })
            };
            let shadow = &allocation.shadow;
            // All lanes are checked before any is recorded: those of one instruction do not race with each
            // other, and `collisions` compares what they write.
            let places = hull.len() / bytes;
            let whole = (places <= LANES).then_some(Run { at: hull.start, lane: 0, lanes: places });
            let runs = lanes(mask).map(run);
            if let Some(found) = shadow.check(size, (whole, runs.clone()), each, &mut visit) {
                return race(found);
            }
            if target.contiguous && !each.narrow {
                shadow.record(whole.into_iter(), each, &visit);
            } else if whole.is_some() && !write {
                // Two lanes that read a place are as good as all.
                let mut readers = [0u8; LANES];
                let first_two = runs.filter(|run| {
                    let readers = &mut readers[(run.at - hull.start) / bytes];
                    *readers += 1;
                    *readers <= 2
                });
                shadow.record(first_two, each, &visit);
            } else {
                shadow.record(runs, each, &visit);
            }
        }
        Ok(())
    }
}
