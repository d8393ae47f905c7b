//! `cp.async`: copies that arrive when they are waited for, and not before.
//!
//! Copies by the tensor memory accelerator would be entries of the same queue, which an mbarrier completes.

use crate::access::{Access, Target, addresses, lanes};
use crate::block::{Common, Machine};
use crate::check::Check;
use crate::counts::Raw;
use crate::fault::{FaultKind, Space, Touch};
use crate::instruction::Instruction;
use crate::lanes::{LANES, Registers};
use crate::memory::{load8, store8};
use crate::warp::{Failure, Warp};

/// A `cp.async` in flight, for the lanes of `mask`.
#[derive(Clone, Debug)]
pub struct Pending {
    pub mask: u32,
    pub size: usize,
    pub destinations: [u32; LANES],
    pub sources: [u64; LANES],
    /// Bytes to read; the rest are zeros.
    pub read: [u8; LANES],
    pub group: [u32; LANES],
}

impl Machine<'_> {
    /// The first half of `cp.async`: checks the source and marks the destination as in flight.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn issue(
        &self,
        common: &mut Common,
        registers: &Registers,
        (instruction, access): (&Instruction, &Access),
        target: &Target,
        mask: u32,
        thread_base: usize,
        raw: &mut Raw,
    ) -> Result<Pending, Failure> {
        let constants = &self.code.constants;
        let slots = instruction.operands.slots;
        let wanted = registers.word(constants, slots[0]);
        let size = access.size as usize;
        let mut pending = Pending {
            mask,
            size,
            destinations: target.offsets.map(|offset| offset as u32),
            sources: [0; LANES],
            read: wanted.map(|bytes| bytes.min(size as u32) as u8),
            group: [0; LANES],
        };
        let reading =
            lanes(mask).filter(|&lane| pending.read[lane] > 0).fold(0, |part, lane| part | 1 << lane);
        if reading != 0 {
            let all = addresses(
                registers,
                constants,
                slots[1],
                access.double_source,
                access.source_offset,
                reading,
            );
            let mut sources = pending.sources;
            let mut found = Ok(());
            // A copy that reads fewer bytes than it writes may start right before the end of its buffer.
            let least = lanes(reading).map(|lane| pending.read[lane] as usize).min().unwrap_or(size);
            let bytes = if least.is_power_of_two() { least } else { 1 };
            self.resolve(
                common,
                std::ptr::null_mut(),
                Space::Global,
                &all,
                bytes,
                (false, reading),
                &mut |source, part| {
                    if self.options.count {
                        raw.access(&source, part, size);
                        if let Some(footprint) = &self.footprint {
                            footprint.touch(&source, part, size, false);
                        }
                    }
                    if self.checking {
                        let check = Check { machine: self, common, local: None, thread_base };
                        found = check.touch(&source, part, (bytes, bytes), false, false, false);
                    }
                    for lane in lanes(part) {
                        sources[lane] = all[lane];
                    }
                    std::mem::replace(&mut found, Ok(()))
                },
            )?;
            for lane in lanes(reading).filter(|_| pending.read.iter().any(|&n| n as usize != bytes)) {
                let last = all[lane] + pending.read[lane] as u64 - 1;
                if self.allocation(last).is_none() {
                    let touch = Touch {
                        space: Space::Global,
                        address: all[lane],
                        bytes: pending.read[lane] as usize,
                        write: false,
                    };
                    let detail = self.memory.describe(all[lane], pending.read[lane] as usize);
                    return Err(Failure { lane, what: FaultKind::OutOfBounds(touch, detail) });
                }
            }
            pending.sources = sources;
        }
        raw.async_bytes += mask.count_ones() as u64 * size as u64;
        for lane in lanes(mask) {
            common.set_in_flight(target.offsets[lane], size, true);
        }
        Ok(pending)
    }
}

impl Warp {
    /// Lets the copies arrive that a wait waits for.
    pub(crate) fn wait(
        &mut self,
        machine: &Machine,
        common: &mut Common,
        groups: Option<u32>,
        mask: u32,
    ) -> Result<(), Failure> {
        for mut pending in std::mem::take(&mut self.queue) {
            let arrives = |lane: usize| match groups {
                None => true,
                Some(groups) => pending.group[lane] as u64 + (groups as u64) < self.groups[lane] as u64,
            };
            let now =
                lanes(pending.mask & mask).filter(|&lane| arrives(lane)).fold(0, |all, lane| all | 1 << lane);
            for lane in lanes(now) {
                let at = pending.destinations[lane] as usize;
                for byte in 0..pending.size {
                    // SAFETY: both ends were checked at the issue, and memory lives as long as the
                    // launch.
                    unsafe {
                        let value = if byte < pending.read[lane] as usize {
                            load8((pending.sources[lane] as *mut u8).add(byte))
                        } else {
                            0
                        };
                        store8(common.shared.buffer.base().add(at + byte), value);
                    }
                }
                common.set_in_flight(at, pending.size, false);
            }
            if now != 0 && machine.checking {
                let target = Target {
                    base: common.shared.buffer.base(),
                    offsets: pending.destinations.map(|at| at as usize),
                    space: Space::Shared,
                    origin: 0,
                    contiguous: false,
                };
                let check = Check { machine, common, local: None, thread_base: self.index * LANES };
                lanes(now).for_each(|lane| common.shared.set_written(target.offsets[lane], pending.size));
                check.touch(&target, now, (pending.size, pending.size), true, false, true)?;
            }
            pending.mask &= !now;
            if pending.mask != 0 {
                self.queue.push(pending);
            }
        }
        Ok(())
    }
}
