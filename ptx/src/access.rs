//! Loads, stores, atomics and asynchronous copies: addresses to bytes, with bounds, alignment and checks.

use crate::asynchronous::Pending;
use crate::block::{Common, Machine};
use crate::check::Check;
use crate::counts::Raw;
use crate::fault::{FaultKind, Space, Touch};
use crate::instruction::{Instruction, Slot};
use crate::lanes::{Constants, LANES, Registers, lanes};
use crate::matrix;
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW_SHIFT};
use crate::opcode_memory::ADDRESS;
use crate::transfer::{Atomic, atomics, collisions, load, store};
use crate::warp::{Failure, Warp};
use std::ops::Range;

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

impl Access {
    /// Bytes of a lane; for matrices, those of a row.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.size as usize * if self.size == 16 { 1 } else { self.count as usize }
    }
    pub fn is_atomic(&self) -> bool {
        matches!(self.kind, Kind::Atomic(_))
    }
    pub fn writes(&self) -> bool {
        !matches!(self.kind, Kind::Load | Kind::LoadMatrix { .. })
    }
}

/// Lanes whose addresses lie in one piece of memory.
pub struct Target {
    pub base: *mut u8,
    pub offsets: [usize; LANES],
    pub space: Space,
    /// What to add to an offset for a message.
    pub origin: u64,
    /// The place in `Machine::spans`, for global memory.
    pub span: usize,
    /// From the first byte that a lane touches to the end of the last one.
    pub hull: Range<usize>,
    /// All lanes active, each at a higher address than the one before: no two of them at the same place.
    pub ascending: bool,
    /// Ascending, and each lane directly after the one before.
    pub contiguous: bool,
}

/// What an access asks of memory, but for its addresses.
#[derive(Clone, Copy)]
pub struct Request {
    pub space: Space,
    pub bytes: usize,
    pub write: bool,
    /// The local memory of the warp.
    pub local: *mut u8,
}

/// A piece of memory: its bytes, the address of the first one, and its place in `Machine::spans`.
struct Piece {
    base: *mut u8,
    start: u64,
    size: usize,
    span: usize,
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

impl Target {
    /// No lanes yet; `span` is where to look first.
    pub fn new(span: usize) -> Target {
        Target {
            base: std::ptr::null_mut(),
            offsets: [0; LANES],
            space: Space::Generic,
            origin: 0,
            span,
            hull: 0..0,
            ascending: false,
            contiguous: false,
        }
    }

    #[inline(always)]
    fn set(
        &mut self,
        piece: Piece,
        space: Space,
        all: &[u64; LANES],
        bytes: usize,
        (least, most, ascending): (u64, u64, bool),
    ) {
        for lane in 0..LANES {
            self.offsets[lane] = (all[lane] - piece.start) as usize;
        }
        self.hull = (least - piece.start) as usize..(most - piece.start) as usize + bytes;
        (self.base, self.origin, self.span, self.space) = (piece.base, piece.start, piece.span, space);
        self.ascending = ascending;
        self.contiguous = ascending && self.hull.len() == LANES * bytes;
        if space == Space::Local {
            self.contiguous = false;
            self.hull = 0..LANES * piece.size;
            for lane in 0..LANES {
                self.offsets[lane] += lane * piece.size;
            }
        }
    }
}

/// Lanes outside `part` take the address of the first lane in it.
pub fn restrict(all: &mut [u64; LANES], part: u32) {
    let first = all[part.trailing_zeros() as usize & 31];
    lanes(!part).for_each(|lane| all[lane] = first);
}

/// The least and the greatest address, bits that are set in any of them, and whether they ascend.
struct Survey {
    least: u64,
    most: u64,
    bits: u64,
    ascending: bool,
}

#[inline(always)]
fn survey(all: &[u64; LANES]) -> Survey {
    // Mostly the lanes lie at equal distances.
    let stride = all[1].wrapping_sub(all[0]) as u32 as u64;
    let mut apart = 0;
    for lane in 0..LANES {
        apart |= all[lane] ^ all[0].wrapping_add(stride * lane as u64);
    }
    let (least, most) = (all[0], all[LANES - 1]);
    if apart == 0 && least <= most {
        return Survey { least, most, bits: least | stride, ascending: least < most };
    }
    let (mut least, mut most, mut bits, mut ascending) = (all[0], all[0], all[0], true);
    for lane in 1..LANES {
        least = least.min(all[lane]);
        most = most.max(all[lane]);
        bits |= all[lane];
        ascending &= all[lane - 1] < all[lane];
    }
    Survey { least, most, bits, ascending }
}

impl Machine<'_> {
    /// The piece of memory that an address lies in; `span` is a guess for global memory.
    #[inline(always)]
    fn piece(&self, common: &Common, request: Request, (at, span): (u64, usize)) -> Option<Piece> {
        let Request { space, write, local, .. } = request;
        let of = |base, size| Some(Piece { base, start: 0, size, span });
        match space {
            Space::Shared => of(common.shared.buffer.base(), common.shared.size),
            Space::Local => of(local, self.code.local_size),
            Space::Param => of(self.params.base(), if write { 0 } else { self.launch.params.len() }),
            _ => {
                let mut span = span;
                if !self.spans.get(span).is_some_and(|&(start, end, _)| (start..end).contains(&at)) {
                    span = self.span(at)?;
                }
                let (start, _, allocation) = self.spans[span];
                Some(Piece { base: allocation.buffer.base(), start, size: allocation.size, span })
            }
        }
    }

    /// Finds the piece of memory that the first lane of `mask` lies in, and returns the lanes that lie in
    /// it too. Checks bounds and alignment. `target.span` is a guess for global memory.
    #[inline(always)]
    pub(crate) fn resolve(
        &self,
        common: &Common,
        request: Request,
        all: &[u64; LANES],
        mask: u32,
        target: &mut Target,
    ) -> Result<u32, Failure> {
        let Request { space, bytes, .. } = request;
        let Survey { least, most, bits, ascending } = survey(all);
        let ascending = ascending && mask == u32::MAX;
        if space != Space::Generic
            && bits & (bytes as u64 - 1) == 0
            && let Some(piece) = self.piece(common, request, (least, target.span))
            && most.wrapping_sub(piece.start) <= piece.size.wrapping_sub(bytes) as u64
            && bytes <= piece.size
        {
            target.set(piece, space, all, bytes, (least, most, ascending));
            return Ok(mask);
        }
        self.resolve_part(common, request, all, mask, target)
    }

    /// `resolve` for accesses that are not all in one place, or at fault.
    #[cold]
    #[inline(never)]
    fn resolve_part(
        &self,
        common: &Common,
        request: Request,
        all: &[u64; LANES],
        mask: u32,
        target: &mut Target,
    ) -> Result<u32, Failure> {
        let Request { mut space, bytes, write, .. } = request;
        let (mut all, mut mask) = (*all, mask);
        let first = mask.trailing_zeros() as usize & 31;
        if space == Space::Generic {
            let window = all[first] >> WINDOW_SHIFT;
            let same = |&lane: &usize| all[lane] >> WINDOW_SHIFT == window;
            mask = lanes(mask).filter(same).fold(0, |part, lane| part | 1 << lane);
            space = match window {
                SHARED_WINDOW => Space::Shared,
                LOCAL_WINDOW => Space::Local,
                _ => Space::Global,
            };
            if space != Space::Global {
                all.iter_mut().for_each(|at| *at &= (1 << WINDOW_SHIFT) - 1);
            }
        }
        let touch = |lane: usize| Touch { space, address: all[lane], bytes, write };
        if let Some(lane) = lanes(mask).find(|&lane| !all[lane].is_multiple_of(bytes as u64)) {
            return Err(Failure { lane, what: FaultKind::Misaligned(touch(lane)) });
        }
        let outside = |lane: usize, detail: String| {
            Err(Failure { lane, what: FaultKind::OutOfBounds(touch(lane), detail) })
        };
        let Some(piece) = self.piece(common, Request { space, ..request }, (all[first], usize::MAX)) else {
            return outside(first, self.memory.describe(all[first], bytes));
        };
        let end = piece.start + piece.size as u64;
        let inside = |lane: usize| all[lane] >= piece.start && all[lane].saturating_add(bytes as u64) <= end;
        let part = lanes(mask).filter(|&lane| inside(lane)).fold(0, |part, lane| part | 1 << lane);
        if space != Space::Global
            && let Some(lane) = lanes(mask & !part).next()
        {
            let past = all[lane].saturating_add(bytes as u64) - end;
            let whole = match space {
                Space::Shared => format!("the block's {end} bytes"),
                Space::Local => format!("the thread's {end} bytes"),
                _ => format!("the {end} bytes of parameters"),
            };
            return outside(lane, format!("{past} bytes past {whole}"));
        }
        if part >> first & 1 == 0 {
            return outside(first, self.memory.describe(all[first], bytes));
        }
        restrict(&mut all, part);
        let (least, most) = (all.iter().min().unwrap_or(&0), all.iter().max().unwrap_or(&0));
        target.set(piece, space, &all, bytes, (*least, *most, false));
        Ok(part)
    }

    /// Runs a memory instruction for the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn memory_instruction(
        &self,
        common: &mut Common,
        warp: &mut Warp,
        (instruction, access): (&Instruction, &Access),
        mut raw: Option<&mut Raw>,
        mask: u32,
    ) -> Result<(), Failure> {
        let slots = &instruction.operands.slots;
        let constants = &self.code.constants;
        let mut all =
            addresses(&warp.registers, constants, slots[ADDRESS], access.double_address, access.offset, mask);
        let local = warp.local.as_ref().map_or(std::ptr::null_mut(), |local| local.buffer.base());
        let (bytes, write) = (access.bytes(), access.writes());
        let request = Request { space: access.space, bytes, write, local };
        let mut rest = mask;
        if let Kind::LoadMatrix { .. } | Kind::StoreMatrix { .. } = access.kind {
            if mask != u32::MAX {
                let what =
                    FaultKind::Mask("ldmatrix or stmatrix not reached by all 32 lanes of the warp".into());
                return Err(Failure { lane: mask.trailing_zeros() as usize, what });
            }
            rest = u32::MAX >> (32 - 8 * access.count as u32);
            restrict(&mut all, rest);
        }
        let at = warp.current.pc as usize;
        let mut target = Target::new(common.last_spans[at] as usize);
        while rest != 0 {
            let part = self.resolve(common, request, &all, rest, &mut target)?;
            common.last_spans[at] = target.span as u32;
            if let Some(raw) = raw.as_deref_mut() {
                raw.access(&target, part, bytes);
                if let Some(footprint) = &self.footprint {
                    footprint.touch(&target, part, bytes, write);
                }
            }
            if self.checking {
                let check = Check {
                    machine: self,
                    common,
                    local: warp.local.as_ref(),
                    thread_base: warp.index * LANES,
                };
                let async_copy = access.kind == Kind::AsyncCopy;
                let size = access.size as usize;
                check.touch(&target, part, (bytes, size), write, access.is_atomic(), async_copy)?;
            }
            let registers = &mut warp.registers;
            match access.kind {
                Kind::Load => load(registers, access, slots, &target, part),
                Kind::Store => {
                    let written = store(registers, constants, access, slots, &target, part);
                    if self.options.checks.races && !target.ascending {
                        collisions(&written, &target, part, bytes)?;
                    }
                }
                Kind::Atomic(operation) => {
                    atomics(registers, constants, (access, operation), slots, &target, part);
                }
                Kind::LoadMatrix { transposed } => {
                    matrix::load(registers, slots, &target, access.count, transposed);
                }
                Kind::StoreMatrix { transposed } => {
                    matrix::store(registers, constants, slots, &target, access.count, transposed);
                }
                Kind::AsyncCopy => {
                    let (raw, copy) = (raw.as_deref_mut(), (instruction, access));
                    let pending = self.issue(common, warp, copy, &target, part, raw)?;
                    warp.queue.push(pending);
                    let bytes = |copy: &Pending| copy.mask.count_ones() as usize * copy.size;
                    let most = &mut common.most_in_flight[warp.index];
                    *most = warp.queue.iter().map(bytes).sum::<usize>().max(*most);
                }
            }
            rest &= !part;
            if rest != 0 {
                restrict(&mut all, rest);
            }
        }
        Ok(())
    }
}
