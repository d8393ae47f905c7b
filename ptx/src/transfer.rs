//! Bytes between registers and memory that `access` has resolved: loads, stores and atomics.

use crate::access::{Access, Target, lanes};
use crate::fault::{FaultKind, Touch};
use crate::instruction::Slot;
use crate::lanes::{Constants, LANES, Registers};
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

pub fn load(registers: &mut Registers, access: &Access, slots: &[Slot], target: &Target, mask: u32) {
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
    if double {
        registers.double(constants, slot)[lane]
    } else {
        registers.word(constants, slot)[lane] as u64
    }
}

pub fn store(
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
pub fn collisions(
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
