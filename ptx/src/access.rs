//! Loads, stores, atomics and asynchronous copies: addresses to bytes, with bounds, alignment and checks.

use crate::asynchronous::Pending;
use crate::block::{Common, Machine};
use crate::check::Check;
use crate::counts::Raw;
use crate::fault::{FaultKind, Space, Touch};
use crate::for_this_processor;
use crate::instruction::{Instruction, Slot};
use crate::lanes::{Constants, LANES, Registers, level};
use crate::matrix;
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW_SHIFT};
use crate::opcode_memory::ADDRESS;
use crate::transfer::{Atomic, atomics, collisions, load, store};
use crate::warp::{Failure, Warp};

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
        Loops { survey: for_this_processor!(body(all: &[u64; LANES], bytes: u64) -> Survey, level()) }
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
    #[allow(clippy::too_many_arguments)]
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
            let lane = lanes(mask).find(|&lane| !all[lane].is_multiple_of(bytes as u64)).unwrap_or(0);
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
                    return ends_at(size, &|past| {
                        format!("{past} bytes past the {size} bytes of parameters")
                    });
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
                let inside =
                    |&lane: &usize| all[lane] >= at && all[lane].saturating_add(bytes as u64) <= limit;
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
        let mut all =
            addresses(&warp.registers, constants, slots[ADDRESS], access.double_address, access.offset, mask);
        let bytes = access.size as usize * if access.size == 16 { 1 } else { access.count as usize };
        let write = !matches!(access.kind, Kind::Load | Kind::LoadMatrix { .. });
        let mut wanted = mask;
        if let Kind::LoadMatrix { .. } | Kind::StoreMatrix { .. } = access.kind {
            if mask != u32::MAX {
                let what =
                    FaultKind::Mask("ldmatrix or stmatrix not reached by all 32 lanes of the warp".into());
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
                if let Some(footprint) = &self.footprint {
                    footprint.touch(&target, part, bytes, write);
                }
            }
            let check = Check { machine: self, common, local: local_allocation, thread_base };
            let atomic = matches!(access.kind, Kind::Atomic(_));
            if self.checking {
                check.touch(
                    &target,
                    part,
                    (bytes, access.size as usize),
                    write,
                    atomic,
                    access.kind == Kind::AsyncCopy,
                )?;
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
                Kind::LoadMatrix { transposed } => {
                    matrix::load(registers, &slots, &target, access.count, transposed)
                }
                Kind::StoreMatrix { transposed } => {
                    matrix::store(registers, constants, &slots, &target, access.count, transposed)
                }
                Kind::AsyncCopy => {
                    let pending = self.issue(
                        common,
                        registers,
                        (instruction, access),
                        &target,
                        part,
                        thread_base,
                        raw,
                    )?;
                    queue.push(pending);
                    let bytes = |copy: &Pending| copy.mask.count_ones() as usize * copy.size;
                    let most = &mut common.most_in_flight[thread_base / LANES];
                    *most = queue.iter().map(bytes).sum::<usize>().max(*most);
                }
            }
        }
        Ok(())
    }
}
