//! `cp.async`: copies that arrive when they are waited for, and not before.
//!
//! Copies by the tensor memory accelerator would be entries of the same queue, which an mbarrier completes.

use crate::access::{Access, Request, Target, addresses, restrict};
use crate::block::{Common, Machine};
use crate::check::Check;
use crate::counts::Raw;
use crate::fault::{FaultKind, Space, Touch};
use crate::instruction::Instruction;
use crate::lanes::{LANES, lanes};
use crate::memory::{load8, store8};
use crate::transfer::copy;
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
    pub(crate) fn issue(
        &self,
        common: &mut Common,
        warp: &Warp,
        (instruction, access): (&Instruction, &Access),
        target: &Target,
        mask: u32,
        mut raw: Option<&mut Raw>,
    ) -> Result<Pending, Failure> {
        let constants = &self.code.constants;
        let slots = instruction.operands.slots;
        let wanted = warp.registers.word(constants, slots[0]);
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
            let (source, double) = (slots[1], access.double_source);
            let mut all =
                addresses(&warp.registers, constants, source, double, access.source_offset, reading);
            pending.sources = all;
            // A copy that reads fewer bytes than it writes may start right before the end of its buffer.
            let least = lanes(reading).map(|lane| pending.read[lane] as usize).min().unwrap_or(size);
            let bytes = if least.is_power_of_two() { least } else { 1 };
            let mut rest = reading;
            let local = std::ptr::null_mut();
            let request = Request { space: Space::Global, bytes, write: false, local };
            let mut source = Target::new(target.span);
            while rest != 0 {
                let part = self.resolve(common, request, &all, rest, &mut source)?;
                if let Some(raw) = raw.as_deref_mut() {
                    raw.access(&source, part, bytes);
                    if let Some(footprint) = &self.footprint {
                        footprint.touch(&source, part, bytes, false);
                    }
                }
                if self.checking {
                    let thread_base = warp.index * LANES;
                    let check = Check { machine: self, common, local: None, thread_base };
                    check.touch(&source, part, (bytes, bytes), false, false, false)?;
                }
                rest &= !part;
                if rest != 0 {
                    restrict(&mut all, rest);
                }
            }
            for lane in lanes(reading).filter(|_| pending.read.iter().any(|&n| n as usize != bytes)) {
                let last = pending.sources[lane] + pending.read[lane] as u64 - 1;
                if self.span(last).is_none() {
                    let (address, bytes) = (pending.sources[lane], pending.read[lane] as usize);
                    let touch = Touch { space: Space::Global, address, bytes, write: false };
                    let detail = self.memory.describe(address, bytes);
                    return Err(Failure { lane, what: FaultKind::OutOfBounds(touch, detail) });
                }
            }
        }
        if let Some(raw) = raw {
            raw.async_bytes += mask.count_ones() as u64 * size as u64;
        }
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
                let (at, size, read) =
                    (pending.destinations[lane] as usize, pending.size, pending.read[lane] as usize);
                // SAFETY: both ends were checked at the issue, and memory lives as long as the launch.
                unsafe {
                    let (from, to) = (pending.sources[lane] as *mut u8, common.shared.buffer.base().add(at));
                    if read == 16 && pending.sources[lane].is_multiple_of(16) {
                        copy::<16>(from, to);
                    } else {
                        (0..read).for_each(|byte| store8(to.add(byte), load8(from.add(byte))));
                        (read..size).for_each(|byte| store8(to.add(byte), 0));
                    }
                }
                common.set_in_flight(at, pending.size, false);
            }
            if now != 0 && machine.checking {
                let target = Target {
                    base: common.shared.buffer.base(),
                    offsets: pending.destinations.map(|at| at as usize),
                    space: Space::Shared,
                    hull: 0..common.shared.size,
                    ..Target::new(0)
                };
                let check = Check { machine, common, local: None, thread_base: self.index * LANES };
                let written = lanes(now).map(|lane| target.offsets[lane]);
                common.shared.set_written(written, pending.size);
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
