//! Loads, stores, atomics and asynchronous copies: addresses to bytes, with bounds, alignment and checks.

use crate::block::{Common, Machine};
use crate::counts::Raw;
use crate::fault::{FaultKind, Space, Touch};
use crate::instruction::{Instruction, Slot};
use crate::lanes::{Constants, LANES, Registers};
use crate::matrix;
use crate::memory::*;
use crate::opcode_memory::ADDRESS;
use crate::shadow::Visit;
use crate::warp::{Failure, Pending, Warp};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    Add,
    AddFloat,
    Min,
    Max,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Load,
    Store,
    Atomic(Atomic),
    AsyncCopy,
    LoadMatrix { transposed: bool },
    StoreMatrix { transposed: bool },
}

/// A memory instruction. Slots: values from 0 on, the address in `ADDRESS`.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub kind: Kind,
    pub space: Space,
    /// Bytes of an element, and elements of a lane.
    pub size: u8,
    pub count: u8,
    pub signed: bool,
    /// Registers of 64 bits.
    pub double_values: bool,
    pub double_address: bool,
    pub offset: i64,
    /// The source of `cp.async`.
    pub double_source: bool,
    pub source_offset: i64,
}

/// Lanes whose addresses lie in one piece of memory.
pub struct Target {
    pub base: *mut u8,
    pub offsets: [usize; LANES],
    pub space: Space,
    /// What to add to an offset for a message.
    pub origin: u64,
    /// Each lane directly after the one before, all lanes active.
    pub contiguous: bool,
}

/// Addresses of the lanes; a lane outside the mask takes that of the first lane in it.
#[inline(always)]
pub fn addresses(
    registers: &Registers,
    constants: &Constants,
    slot: Slot,
    double: bool,
    offset: i64,
    mask: u32,
) -> [u64; LANES] {
    let mut all = [0; LANES];
    if double {
        let row = registers.double(constants, slot);
        for lane in 0..LANES {
            all[lane] = row[lane].wrapping_add(offset as u64);
        }
    } else {
        let row = registers.word(constants, slot);
        for lane in 0..LANES {
            all[lane] = row[lane].wrapping_add(offset as u32) as u64;
        }
    }
    if mask != u32::MAX {
        let first = all[mask.trailing_zeros() as usize & 31];
        for lane in 0..LANES {
            all[lane] = if mask >> lane & 1 != 0 { all[lane] } else { first };
        }
    }
    all
}

/// The least and greatest address, the bits set in any of them, and whether lanes follow one another.
#[inline(always)]
fn survey(all: &[u64; LANES], bytes: u64) -> (u64, u64, u64, bool) {
    let (mut least, mut most, mut bits, mut apart) = (all[0], all[0], 0, 0);
    for lane in 0..LANES {
        least = least.min(all[lane]);
        most = most.max(all[lane]);
        bits |= all[lane];
        apart |= all[lane] ^ all[0].wrapping_add(lane as u64 * bytes);
    }
    (least, most, bits, apart == 0)
}
type Survey = (u64, u64, u64, bool);

/// The forms of the inner loops for this processor.
#[derive(Clone, Copy)]
pub struct Loops {
    survey: unsafe fn(&[u64; LANES], u64) -> Survey,
}

impl Loops {
    pub fn new() -> Loops {
        #[inline(always)]
        fn body(all: &[u64; LANES], bytes: u64) -> Survey {
            survey(all, bytes)
        }
        Loops { survey: crate::for_this_processor!(body(all: &[u64; LANES], bytes: u64) -> Survey, crate::lanes::level()) }
    }
}

pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

impl Machine<'_> {
    /// Runs `each` for the lanes of each piece of memory that the addresses lie in.
    pub(crate) fn resolve(
        &self,
        common: &Common,
        warp_base: *mut u8,
        space: Space,
        all: &[u64; LANES],
        bytes: usize,
        (write, mask): (bool, u32),
        each: &mut dyn FnMut(Target, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // SAFETY: chosen for this processor.
        let (least, most, bits, contiguous) = unsafe { (self.loops.survey)(all, bytes as u64) };
        let (mut least, mut most) = (least, most);
        let mut space = space;
        let mut shift = 0;
        let fault = |lane: usize, what: FaultKind| Err(Failure { lane, what });
        if space == Space::Generic {
            if least >> WINDOW_SHIFT != most >> WINDOW_SHIFT {
                return self.split(common, warp_base, all, bytes, (write, mask), each);
            }
            shift = least >> WINDOW_SHIFT << WINDOW_SHIFT;
            space = match least >> WINDOW_SHIFT {
                SHARED_WINDOW => Space::Shared,
                LOCAL_WINDOW => Space::Local,
                _ => Space::Global,
            };
            if space == Space::Global {
                shift = 0;
            }
            (least, most) = (least - shift, most - shift);
        }
        let touch = |lane: usize| Touch { space, address: all[lane] - shift, bytes, write };
        if bits & (bytes as u64 - 1) != 0 {
            let lane = lanes(mask).find(|&lane| all[lane] % bytes as u64 != 0).unwrap_or(0);
            return fault(lane, FaultKind::Misaligned(touch(lane)));
        }
        let offsets = |origin: u64| all.map(|at| at.wrapping_sub(origin) as usize);
        let end = most.checked_add(bytes as u64);
        let ends_at = |limit: usize, detail: &dyn Fn(u64) -> String| {
            let beyond = |&lane: &usize| (all[lane] - shift).saturating_add(bytes as u64) > limit as u64;
            let lane = lanes(mask).find(beyond).unwrap_or(0);
            let past = (all[lane] - shift).saturating_add(bytes as u64).saturating_sub(limit as u64);
            fault(lane, FaultKind::OutOfBounds(touch(lane), detail(past)))
        };
        let contiguous = contiguous && mask == u32::MAX;
        match space {
            Space::Shared => {
                if end.is_none_or(|end| end > common.shared.size as u64) {
                    return ends_at(common.shared.size, &|past| {
                        format!("{past} bytes past the block's {} bytes", common.shared.size)
                    });
                }
                let base = common.shared.buffer.base();
                each(Target { base, offsets: offsets(shift), space, origin: 0, contiguous }, mask)
            }
            Space::Local => {
                let size = self.code.local_size;
                if end.is_none_or(|end| end > size as u64) {
                    return ends_at(size, &|past| format!("{past} bytes past the thread's {size} bytes"));
                }
                let mut offsets = offsets(shift);
                for (lane, offset) in offsets.iter_mut().enumerate() {
                    *offset += lane * size;
                }
                each(Target { base: warp_base, offsets, space, origin: 0, contiguous: false }, mask)
            }
            Space::Param => {
                let size = self.launch.params.len();
                if write || end.is_none_or(|end| end > size as u64) {
                    return ends_at(size, &|past| format!("{past} bytes past the {size} bytes of parameters"));
                }
                let base = self.params.base();
                each(Target { base, offsets: offsets(0), space, origin: 0, contiguous: false }, mask)
            }
            _ => {
                let first = mask.trailing_zeros() as usize & 31;
                let Some((at, allocation)) = self.allocation(all[first]) else {
                    let what = FaultKind::OutOfBounds(touch(first), self.memory.describe(all[first], bytes));
                    return fault(first, what);
                };
                let limit = at + allocation.size as u64;
                if least >= at && end.is_some_and(|end| end <= limit) {
                    let base = allocation.buffer.base();
                    return each(
                        Target { base, offsets: offsets(at), space: Space::Global, origin: at, contiguous },
                        mask,
                    );
                }
                // Some lanes lie elsewhere: those inside go first, the others by themselves.
                let inside = |&lane: &usize| all[lane] >= at && all[lane].saturating_add(bytes as u64) <= limit;
                let here = lanes(mask).filter(inside).fold(0, |lanes, lane| lanes | 1 << lane);
                if here == 0 {
                    let what = FaultKind::OutOfBounds(touch(first), self.memory.describe(all[first], bytes));
                    return fault(first, what);
                }
                for part in [here, mask & !here] {
                    let first = all[part.trailing_zeros() as usize & 31];
                    let mut some = *all;
                    for lane in (0..LANES).filter(|lane| part >> lane & 1 == 0) {
                        some[lane] = first;
                    }
                    self.resolve(common, warp_base, Space::Global, &some, bytes, (write, part), each)?;
                }
                Ok(())
            }
        }
    }

    /// Generic addresses of several windows: one window after the other.
    fn split(
        &self,
        common: &Common,
        warp_base: *mut u8,
        all: &[u64; LANES],
        bytes: usize,
        (write, mask): (bool, u32),
        each: &mut dyn FnMut(Target, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut rest = mask;
        while rest != 0 {
            let first = all[rest.trailing_zeros() as usize];
            let same = |lane: &usize| all[*lane] >> WINDOW_SHIFT == first >> WINDOW_SHIFT;
            let part = lanes(rest).filter(same).fold(0, |part, lane| part | 1 << lane);
            let mut some = *all;
            for lane in (0..LANES).filter(|lane| part >> lane & 1 == 0) {
                some[lane] = first;
            }
            self.resolve(common, warp_base, Space::Generic, &some, bytes, (write, part), each)?;
            rest &= !part;
        }
        Ok(())
    }

    /// Runs a memory instruction for the lanes of `mask`.
    pub(crate) fn memory_instruction(
        &self,
        common: &mut Common,
        warp: &mut Warp,
        (instruction, access): (&Instruction, &Access),
        raw: &mut Raw,
        mask: u32,
    ) -> Result<(), Failure> {
        let slots = instruction.operands.slots;
        let constants = &self.code.constants;
        let mut all = addresses(
            &warp.registers,
            constants,
            slots[ADDRESS],
            access.double_address,
            access.offset,
            mask,
        );
        let bytes = access.size as usize * if access.size == 16 { 1 } else { access.count as usize };
        let write = !matches!(access.kind, Kind::Load | Kind::LoadMatrix { .. });
        let mut wanted = mask;
        if let Kind::LoadMatrix { .. } | Kind::StoreMatrix { .. } = access.kind {
            if mask != u32::MAX {
                let what = FaultKind::Mask("ldmatrix or stmatrix not reached by all 32 lanes of the warp".into());
                return Err(Failure { lane: mask.trailing_zeros() as usize, what });
            }
            wanted = u32::MAX >> (32 - 8 * access.count as u32);
            for lane in 8 * access.count as usize..LANES {
                all[lane] = all[0];
            }
        }
        let local = warp.local.as_ref().map_or(std::ptr::null_mut(), |local| local.buffer.base());
        let registers = &mut warp.registers;
        let thread_base = warp.index * LANES;
        let local_allocation = warp.local.as_ref();
        let queue = &mut warp.queue;
        // The borrow of `common` ends before the parts run, because `resolve` only compares addresses.
        let mut parts: Vec<(Target, u32)> = Vec::new();
        let mut single: Option<(Target, u32)> = None;
        self.resolve(common, local, access.space, &all, bytes, (write, wanted), &mut |target, part| {
            match &single {
                None => single = Some((target, part)),
                Some(_) => parts.push((target, part)),
            }
            Ok(())
        })?;
        for (target, part) in single.into_iter().chain(parts) {
            if self.options.count {
                raw.access(&target, part, bytes);
            }
            let check = Check { machine: self, common, local: local_allocation, thread_base };
            let atomic = matches!(access.kind, Kind::Atomic(_));
            if self.checking {
                check.touch(&target, part, (bytes, access.size as usize), write, atomic, access.kind == Kind::AsyncCopy)?;
            }
            match access.kind {
                Kind::Load => load(registers, access, &slots, &target, part),
                Kind::Store => {
                    store(registers, constants, access, &slots, &target, part);
                    if self.options.checks.races && !target.contiguous {
                        collisions(registers, constants, access, &slots, &target, part)?;
                    }
                }
                Kind::Atomic(operation) => {
                    atomics(registers, constants, (access, operation), &slots, &target, part)
                }
                Kind::LoadMatrix { transposed } => matrix::load(registers, &slots, &target, access.count, transposed),
                Kind::StoreMatrix { transposed } => {
                    matrix::store(registers, constants, &slots, &target, access.count, transposed)
                }
                Kind::AsyncCopy => {
                    let pending = self.issue(common, registers, (instruction, access), &target, part, thread_base, raw)?;
                    queue.push(pending);
                }
            }
        }
        Ok(())
    }

    /// The first half of `cp.async`: checks the source and marks the destination as in flight.
    #[allow(clippy::too_many_arguments)]
    fn issue(
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
        let reading = lanes(mask).filter(|&lane| pending.read[lane] > 0).fold(0, |part, lane| part | 1 << lane);
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
            self.resolve(common, std::ptr::null_mut(), Space::Global, &all, bytes, (false, reading), &mut |source, part| {
                if self.options.count {
                    raw.access(&source, part, size);
                }
                if self.checking {
                    let check = Check { machine: self, common, local: None, thread_base };
                    found = check.touch(&source, part, (bytes, bytes), false, false, false);
                }
                for lane in lanes(part) {
                    sources[lane] = all[lane];
                }
                std::mem::replace(&mut found, Ok(()))
            })?;
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
                false => ((self.machine.memory.generation, self.common.block_index), self.thread_base / LANES),
            };
            let mut visit = Visit::new(&self.common.clocks, place, warp, atomic);
            // Narrow elements of a vector have cells of bytes, which whole words would not see.
            let step = if size < 4 { size } else { bytes };
            // Writes of one instruction are checked first and recorded then: they do not race with each other,
            // and `collisions` compares their values.
            let passes: &[(bool, bool)] = if write { &[(true, false), (false, true)] } else { &[(true, true)] };
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

fn load(registers: &mut Registers, access: &Access, slots: &[Slot], target: &Target, mask: u32) {
    let size = access.size as usize;
    for element in 0..access.count as usize {
        let at = |lane: usize| {
            // SAFETY: `resolve` has checked the whole of the access, and lanes outside the mask repeat one.
            unsafe { target.base.add(target.offsets[lane] + element * size) }
        };
        let slot = slots[element];
        // SAFETY: aligned and in bounds, as above.
        unsafe {
            if size == 4 && !access.double_values {
                let mut row = [0; LANES];
                for lane in 0..LANES {
                    row[lane] = load32(at(lane));
                }
                registers.set_word(slot, &row, mask);
                continue;
            }
            let mut row = [0u64; LANES];
            for lane in 0..LANES {
                row[lane] = match (size, access.signed) {
                    (1, false) => load8(at(lane)) as u64,
                    (1, true) => load8(at(lane)) as i8 as u64,
                    (2, false) => load16(at(lane)) as u64,
                    (2, true) => load16(at(lane)) as i16 as u64,
                    (4, false) => load32(at(lane)) as u64,
                    (4, true) => load32(at(lane)) as i32 as u64,
                    _ => load64(at(lane)),
                };
            }
            if access.double_values {
                registers.set_double(slot, &row, mask);
            } else {
                registers.set_word(slot, &row.map(|x| x as u32), mask);
            }
        }
    }
}

/// The value of a lane, as wide as its register.
#[inline(always)]
fn value(registers: &Registers, constants: &Constants, double: bool, slot: Slot, lane: usize) -> u64 {
    if double { registers.double(constants, slot)[lane] } else { registers.word(constants, slot)[lane] as u64 }
}

fn store(
    registers: &Registers,
    constants: &Constants,
    access: &Access,
    slots: &[Slot],
    target: &Target,
    mask: u32,
) {
    let size = access.size as usize;
    for element in 0..access.count as usize {
        let slot = slots[element];
        // SAFETY: `resolve` has checked bounds and alignment of the lanes in the mask.
        unsafe {
            let at = |lane: usize| target.base.add(target.offsets[lane] + element * size);
            if size == 4 && !access.double_values {
                let row = registers.word(constants, slot);
                if mask == u32::MAX {
                    for lane in 0..LANES {
                        store32(at(lane), row[lane]);
                    }
                } else {
                    lanes(mask).for_each(|lane| store32(at(lane), row[lane]));
                }
                continue;
            }
            for lane in lanes(mask) {
                let value = value(registers, constants, access.double_values, slot, lane);
                match size {
                    1 => store8(at(lane), value as u8),
                    2 => store16(at(lane), value as u16),
                    4 => store32(at(lane), value as u32),
                    _ => store64(at(lane), value),
                }
            }
        }
    }
}

/// Two lanes that wrote different values to one place: the later one's is there, not the earlier one's.
fn collisions(
    registers: &Registers,
    constants: &Constants,
    access: &Access,
    slots: &[Slot],
    target: &Target,
    mask: u32,
) -> Result<(), Failure> {
    let size = access.size as usize;
    for element in 0..access.count as usize {
        for lane in lanes(mask) {
            let value = value(registers, constants, access.double_values, slots[element], lane);
            // SAFETY: as in `store`.
            let (found, value) = unsafe {
                let at = target.base.add(target.offsets[lane] + element * size);
                match size {
                    1 => (load8(at) as u64, value as u8 as u64),
                    2 => (load16(at) as u64, value as u16 as u64),
                    4 => (load32(at) as u64, value as u32 as u64),
                    _ => (load64(at), value),
                }
            };
            if found != value {
                let address = target.origin + target.offsets[lane] as u64;
                let bytes = size * access.count as usize;
                let touch = Touch { space: target.space, address, bytes, write: true };
                return Err(Failure { lane, what: FaultKind::Collision(touch) });
            }
        }
    }
    Ok(())
}

fn atomics(
    registers: &mut Registers,
    constants: &Constants,
    (access, operation): (&Access, Atomic),
    slots: &[Slot],
    target: &Target,
    mask: u32,
) {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
    let double = access.size == 8;
    let (mut words, mut doubles) = ([0; LANES], [0; LANES]);
    for lane in lanes(mask) {
        let b = value(registers, constants, double, slots[1], lane);
        let c = value(registers, constants, double, slots[2], lane);
        // SAFETY: `resolve` has checked bounds and alignment.
        unsafe {
            let at = target.base.add(target.offsets[lane]);
            if double {
                let update = |old| Some(combine64(operation, old, b, c));
                let cell = AtomicU64::from_ptr(at.cast());
                doubles[lane] = cell.fetch_update(SeqCst, SeqCst, update).unwrap_or(0);
            } else {
                let update = |old| Some(combine32(operation, old, b as u32, c as u32));
                let cell = AtomicU32::from_ptr(at.cast());
                words[lane] = cell.fetch_update(SeqCst, SeqCst, update).unwrap_or(0);
            }
        }
    }
    if double {
        registers.set_double(slots[0], &doubles, mask);
    } else {
        registers.set_word(slots[0], &words, mask);
    }
}

macro_rules! combine {
    ($name:ident, $u:ty, $s:ty, $f:ty) => {
        fn $name(operation: Atomic, a: $u, b: $u, c: $u) -> $u {
            match operation {
                Atomic::Add => a.wrapping_add(b),
                Atomic::AddFloat => (<$f>::from_bits(a) + <$f>::from_bits(b)).to_bits(),
                Atomic::Min => a.min(b),
                Atomic::Max => a.max(b),
                Atomic::MinSigned => (a as $s).min(b as $s) as $u,
                Atomic::MaxSigned => (a as $s).max(b as $s) as $u,
                Atomic::And => a & b,
                Atomic::Or => a | b,
                Atomic::Xor => a ^ b,
                Atomic::Exchange => b,
                Atomic::CompareAndSwap => if a == b { c } else { a },
                Atomic::Increment => if a >= b { 0 } else { a + 1 },
                Atomic::Decrement => if a == 0 || a > b { b } else { a - 1 },
            }
        }
    };
}
combine!(combine32, u32, i32, f32);
combine!(combine64, u64, i64, f64);
