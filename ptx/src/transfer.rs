//! Bytes between registers and memory that `access` has resolved: loads, stores and atomics.

use crate::access::{Access, Target};
use crate::fault::{FaultKind, Touch};
use crate::instruction::Slot;
use crate::lanes::{Constants, LANES, Registers, lanes};
use crate::memory::*;
use crate::warp::Failure;

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

/// The bytes of an access on their way: those of lane 0, of lane 1, and so on.
#[repr(C, align(128))]
pub struct Staging([u64; MOST_BYTES * LANES / 8]);

const MOST_BYTES: usize = 16;

impl Staging {
    #[inline(always)]
    fn new() -> Staging {
        Staging([0; MOST_BYTES * LANES / 8])
    }
    /// The values of all lanes, as types of any size.
    #[inline(always)]
    fn values<T: Bits>(&self) -> &[T] {
        // SAFETY: any bits are a value of these types, and the alignment is more than theirs.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of::<Staging>() / size_of::<T>()) }
    }
    #[inline(always)]
    fn values_mut<T: Bits>(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of::<Staging>() / size_of::<T>())
        }
    }

    /// # Safety
    /// `resolve` has checked the target's lanes for accesses of `bytes`.
    #[inline(always)]
    unsafe fn fetch(target: &Target, bytes: usize) -> Staging {
        let mut staging = Staging::new();
        let to = staging.0.as_mut_ptr().cast::<u8>();
        let from = |lane: usize| unsafe { target.base.add(target.offsets[lane]) };
        unsafe {
            if target.contiguous && target.offsets[0].is_multiple_of(8) {
                for at in (0..LANES * bytes).step_by(8) {
                    copy::<8>(from(0).add(at), to.add(at));
                }
                return staging;
            }
            match bytes {
                1 => (0..LANES).for_each(|lane| copy::<1>(from(lane), to.add(lane))),
                2 => (0..LANES).for_each(|lane| copy::<2>(from(lane), to.add(2 * lane))),
                4 => (0..LANES).for_each(|lane| copy::<4>(from(lane), to.add(4 * lane))),
                8 => (0..LANES).for_each(|lane| copy::<8>(from(lane), to.add(8 * lane))),
                _ => (0..LANES).for_each(|lane| copy::<16>(from(lane), to.add(16 * lane))),
            }
        }
        staging
    }

    /// # Safety
    /// As for `fetch`.
    #[inline(always)]
    unsafe fn put(&self, target: &Target, bytes: usize, mask: u32) {
        let from = self.0.as_ptr().cast::<u8>().cast_mut();
        let to = |lane: usize| unsafe { target.base.add(target.offsets[lane]) };
        unsafe {
            if target.contiguous && target.offsets[0].is_multiple_of(8) {
                for at in (0..LANES * bytes).step_by(8) {
                    copy::<8>(from.add(at), to(0).add(at));
                }
                return;
            }
            match bytes {
                1 => lanes(mask).for_each(|lane| copy::<1>(from.add(lane), to(lane))),
                2 => lanes(mask).for_each(|lane| copy::<2>(from.add(2 * lane), to(lane))),
                4 => lanes(mask).for_each(|lane| copy::<4>(from.add(4 * lane), to(lane))),
                8 => lanes(mask).for_each(|lane| copy::<8>(from.add(8 * lane), to(lane))),
                _ => lanes(mask).for_each(|lane| copy::<16>(from.add(16 * lane), to(lane))),
            }
        }
    }
}

/// # Safety
/// Both ends are aligned and lie inside live buffers.
#[inline(always)]
pub unsafe fn copy<const BYTES: usize>(from: *mut u8, to: *mut u8) {
    unsafe {
        match BYTES {
            1 => store8(to, load8(from)),
            2 => store16(to, load16(from)),
            4 => store32(to, load32(from)),
            8 => store64(to, load64(from)),
            _ => {
                store64(to, load64(from));
                store64(to.add(8), load64(from.add(8)));
            }
        }
    }
}

/// Unsigned numbers: types of which any bits are a value.
trait Bits: Copy {
    fn of(x: u64) -> Self;
    fn wide(self) -> u64;
}
macro_rules! bits {
    ($($type:ty)*) => { $(impl Bits for $type {
        #[inline(always)]
        fn of(x: u64) -> Self {
            x as $type
        }
        #[inline(always)]
        fn wide(self) -> u64 {
            self as u64
        }
    })* };
}
bits!(u8 u16 u32 u64);

/// Calls a function generic over an element's type and the number of elements with those of an access.
macro_rules! for_elements {
    ($access:expr, $function:ident($($argument:expr),*)) => {
        match ($access.size, $access.count) {
            (1, 1) => $function::<u8, 1>($($argument),*),
            (1, 2) => $function::<u8, 2>($($argument),*),
            (1, _) => $function::<u8, 4>($($argument),*),
            (2, 1) => $function::<u16, 1>($($argument),*),
            (2, 2) => $function::<u16, 2>($($argument),*),
            (2, _) => $function::<u16, 4>($($argument),*),
            (4, 1) => $function::<u32, 1>($($argument),*),
            (4, 2) => $function::<u32, 2>($($argument),*),
            (4, _) => $function::<u32, 4>($($argument),*),
            (_, 1) => $function::<u64, 1>($($argument),*),
            _ => $function::<u64, 2>($($argument),*),
        }
    };
}

#[inline(always)]
pub fn load(registers: &mut Registers, access: &Access, slots: &[Slot], target: &Target, mask: u32) {
    // SAFETY: lanes outside the mask repeat one inside, so that all of them can be read.
    let staging = unsafe { Staging::fetch(target, access.bytes()) };
    for_elements!(access, split(registers, access, slots, &staging, mask));
}

#[inline(always)]
fn split<T: Bits, const COUNT: usize>(
    registers: &mut Registers,
    access: &Access,
    slots: &[Slot],
    staging: &Staging,
    mask: u32,
) {
    let sign = if access.signed { 1u64 << (8 * size_of::<T>() - 1) } else { 0 };
    let values = staging.values::<T>();
    for element in 0..COUNT {
        let value = |lane: usize| (values[lane * COUNT + element].wide() ^ sign).wrapping_sub(sign);
        if access.double_values {
            let mut row = [0; LANES];
            for lane in 0..LANES {
                row[lane] = value(lane);
            }
            registers.set_double(slots[element], &row, mask);
        } else {
            let mut row = [0; LANES];
            for lane in 0..LANES {
                row[lane] = value(lane) as u32;
            }
            registers.set_word(slots[element], &row, mask);
        }
    }
}

/// Writes the values of the lanes, and returns them.
#[inline(always)]
pub fn store(
    registers: &Registers,
    constants: &Constants,
    access: &Access,
    slots: &[Slot],
    target: &Target,
    mask: u32,
) -> Staging {
    let mut staging = Staging::new();
    for_elements!(access, join(registers, constants, access, slots, &mut staging));
    // SAFETY: `resolve` has checked the lanes of the mask.
    unsafe { staging.put(target, access.bytes(), mask) };
    staging
}

#[inline(always)]
fn join<T: Bits, const COUNT: usize>(
    registers: &Registers,
    constants: &Constants,
    access: &Access,
    slots: &[Slot],
    staging: &mut Staging,
) {
    let values = staging.values_mut::<T>();
    for element in 0..COUNT {
        if access.double_values {
            let row = registers.double(constants, slots[element]);
            for lane in 0..LANES {
                values[lane * COUNT + element] = T::of(row[lane]);
            }
        } else {
            let row = registers.word(constants, slots[element]);
            for lane in 0..LANES {
                values[lane * COUNT + element] = T::of(row[lane] as u64);
            }
        }
    }
}

/// Two lanes that wrote different values to one place: the later one's is there, not the earlier one's.
#[cold]
#[inline(never)]
pub fn collisions(written: &Staging, target: &Target, mask: u32, bytes: usize) -> Result<(), Failure> {
    // SAFETY: as in `load`.
    let found = unsafe { Staging::fetch(target, bytes) };
    let of = |staging: &Staging, lane: usize| {
        let values = staging.values::<u8>();
        values[lane * bytes..][..bytes].iter().fold(0u128, |all, &byte| all << 8 | byte as u128)
    };
    match lanes(mask).find(|&lane| of(&found, lane) != of(written, lane)) {
        None => Ok(()),
        Some(lane) => {
            let address = target.origin + target.offsets[lane] as u64;
            let touch = Touch { space: target.space, address, bytes, write: true };
            Err(Failure { lane, what: FaultKind::Collision(touch) })
        }
    }
}

/// The value of a lane, as wide as its register.
#[inline(always)]
fn value(registers: &Registers, constants: &Constants, double: bool, slot: Slot, lane: usize) -> u64 {
    if double {
        registers.double(constants, slot)[lane]
    } else {
        registers.word(constants, slot)[lane] as u64
    }
}

pub fn atomics(
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
                Atomic::CompareAndSwap => {
                    if a == b {
                        c
                    } else {
                        a
                    }
                }
                Atomic::Increment => {
                    if a >= b {
                        0
                    } else {
                        a + 1
                    }
                }
                Atomic::Decrement => {
                    if a == 0 || a > b {
                        b
                    } else {
                        a - 1
                    }
                }
            }
        }
    };
}
combine!(combine32, u32, i32, f32);
combine!(combine64, u64, i64, f64);
