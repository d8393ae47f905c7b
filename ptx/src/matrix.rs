//! Matrices in registers: `ldmatrix`, `stmatrix` and `mma.sync`, in the ISA's fragment layouts.
//!
//! A lane holds pieces of a row: group `g = lane / 4` and place `t = lane % 4`. For wgmma, whose operands lie
//! in shared memory, a form beside `Mma` with descriptors in place of `a` and `b` would use `multiply` too.

use crate::access::Target;
use crate::arith::round::{from_brain, from_half, to_half};
use crate::instruction::Slot;
use crate::lanes::{Constants, LANES, Registers};
use crate::memory::{load16, store16};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    Tf32,
    Brain,
    Half,
}

/// `mma.sync.aligned.m16n8k*`. Slots: d, a, b, c.
#[derive(Clone, Debug)]
pub struct Mma {
    pub k: usize,
    pub element: Element,
    pub half_accumulators: bool,
    pub slots: Vec<Slot>,
}

const M: usize = 16;
const N: usize = 8;

impl Mma {
    /// The form that the parts of an opcode name, and the registers of d, a, b and c.
    pub fn of(parts: &[&str]) -> Option<(Mma, [usize; 4])> {
        let ["mma", "sync", "aligned", shape, "row", "col", d, a, b, c] = parts else { return None };
        let element = match (*a, *b) {
            ("tf32", "tf32") => Element::Tf32,
            ("bf16", "bf16") => Element::Brain,
            ("f16", "f16") => Element::Half,
            _ => return None,
        };
        let half_accumulators = match (*d, *c) {
            ("f32", "f32") => false,
            ("f16", "f16") if element == Element::Half => true,
            _ => return None,
        };
        let k = match (*shape, element) {
            ("m16n8k4", Element::Tf32) => 4,
            ("m16n8k8", _) => 8,
            ("m16n8k16", Element::Brain | Element::Half) => 16,
            _ => return None,
        };
        // Registers: 32 lanes hold one TF32 number or two of 16 bits each.
        let per_register = if element == Element::Tf32 { 1 } else { 2 };
        let accumulators = if half_accumulators { 2 } else { 4 };
        let sizes = [accumulators, M * k / 32 / per_register, N * k / 32 / per_register, accumulators];
        Some((Mma { k, element, half_accumulators, slots: Vec::new() }, sizes))
    }

    /// d = a·b + c for the whole warp.
    #[inline(always)]
    pub fn run(&self, registers: &mut Registers, constants: &Constants) {
        // The unit ignores the low 13 bits of a TF32 number.
        let tf32 = |bits: u32| [f32::from_bits(bits & 0xffff_e000); 2];
        let brain = |bits: u32| [from_brain(bits as u16), from_brain((bits >> 16) as u16)];
        let half = |bits: u32| [from_half(bits as u16), from_half((bits >> 16) as u16)];
        match (self.element, self.k) {
            (Element::Tf32, 4) => self.form::<1, 4>(registers, constants, tf32),
            (Element::Tf32, _) => self.form::<1, 8>(registers, constants, tf32),
            (Element::Brain, 8) => self.form::<2, 8>(registers, constants, brain),
            (Element::Brain, _) => self.form::<2, 16>(registers, constants, brain),
            (Element::Half, 8) => self.form::<2, 8>(registers, constants, half),
            (Element::Half, _) => self.form::<2, 16>(registers, constants, half),
        }
    }

    /// The form whose registers hold WIDTH numbers, which `numbers` unpacks, for K columns of a.
    #[inline(always)]
    fn form<const WIDTH: usize, const K: usize>(
        &self,
        registers: &mut Registers,
        constants: &Constants,
        numbers: impl Fn(u32) -> [f32; 2],
    ) {
        let (a_registers, b_registers) = (M * K / LANES / WIDTH, N * K / LANES / WIDTH);
        let accumulators = if self.half_accumulators { 2 } else { 4 };
        let word = |at: usize| registers.word(constants, self.slots[at]);
        let unpacked = |at: usize| {
            let (row, mut halves) = (word(at), [[0f32; LANES]; 2]);
            for lane in 0..LANES {
                let numbers = numbers(row[lane]);
                for half in 0..WIDTH {
                    halves[half][lane] = numbers[half];
                }
            }
            halves
        };
        let first = accumulators + a_registers + b_registers;
        let mut sums = [[0f32; LANES]; 4];
        if self.half_accumulators {
            for register in 0..2 {
                let row = word(first + register);
                for lane in 0..LANES {
                    sums[2 * register][lane] = from_half(row[lane] as u16);
                    sums[2 * register + 1][lane] = from_half((row[lane] >> 16) as u16);
                }
            }
        } else {
            for register in 0..4 {
                let row = word(first + register);
                for lane in 0..LANES {
                    sums[register][lane] = f32::from_bits(row[lane]);
                }
            }
        }
        // One register of b holds 4·WIDTH numbers of each column; two of a hold as many of each row.
        for part in 0..b_registers {
            let a = [0, 1].map(|lower| unpacked(accumulators + 2 * part + lower));
            let b = unpacked(accumulators + a_registers + part);
            multiply::<WIDTH, 0>(&a, &b, &mut sums);
            multiply::<WIDTH, 1>(&a, &b, &mut sums);
            multiply::<WIDTH, 2>(&a, &b, &mut sums);
            multiply::<WIDTH, 3>(&a, &b, &mut sums);
        }
        if self.half_accumulators {
            for register in 0..2 {
                let mut row = [0; LANES];
                for lane in 0..LANES {
                    let half = |column: usize| to_half(sums[2 * register + column][lane] as f64, 0) as u32;
                    row[lane] = half(0) | half(1) << 16;
                }
                registers.set_word(self.slots[register], &row, u32::MAX);
            }
            return;
        }
        for register in 0..4 {
            registers.set_word(self.slots[register], &sums[register].map(f32::to_bits), u32::MAX);
        }
    }
}

/// Adds WIDTH columns of a times as many rows of b: those in the lanes with place PLACE in their group.
/// `a` holds the upper and the lower rows, `sums` the upper rows in even and odd columns, then the lower
/// ones. The places are constants, so that the compiler makes shuffles of them.
///
/// Products are exact in single precision; the sums, whose order and rounding the ISA leaves open, are fused.
#[inline(always)]
fn multiply<const WIDTH: usize, const PLACE: usize>(
    a: &[[[f32; LANES]; 2]; 2],
    b: &[[f32; LANES]; 2],
    sums: &mut [[f32; LANES]; 4],
) {
    for half in 0..WIDTH {
        for parity in 0..2 {
            // Column n of b lies in the lanes of group n, row i of a in those of group i % 8.
            let mut column = [0f32; LANES];
            for lane in 0..LANES {
                column[lane] = b[half][4 * (lane % 4 * 2 + parity) + PLACE];
            }
            for upper in 0..2 {
                let sums = &mut sums[2 * upper + parity];
                for lane in 0..LANES {
                    sums[lane] = a[upper][half][lane / 4 * 4 + PLACE].mul_add(column[lane], sums[lane]);
                }
            }
        }
    }
}

/// The element of an 8×8 matrix that half `half` of a lane's register holds: row and column.
#[inline(always)]
fn place(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + half);
    if transposed { (column, row) } else { (row, column) }
}

/// `ldmatrix`: lane 8m + r gives the address of row r of matrix m.
pub fn load(registers: &mut Registers, slots: &[Slot], target: &Target, count: u8, transposed: bool) {
    for (matrix, slot) in slots[..count as usize].iter().enumerate() {
        let mut row = [0; LANES];
        for lane in 0..LANES {
            for half in 0..2 {
                let (i, j) = place(lane, half, transposed);
                // SAFETY: `resolve` has checked the 16 bytes of each row.
                let element = unsafe { load16(target.base.add(target.offsets[8 * matrix + i] + 2 * j)) };
                row[lane] |= (element as u32) << (16 * half);
            }
        }
        registers.set_word(*slot, &row, u32::MAX);
    }
}

/// `stmatrix`, the inverse of `load`.
pub fn store(
    registers: &Registers,
    constants: &Constants,
    slots: &[Slot],
    target: &Target,
    count: u8,
    transposed: bool,
) {
    for (matrix, slot) in slots[..count as usize].iter().enumerate() {
        let row = registers.word(constants, *slot);
        for lane in 0..LANES {
            for half in 0..2 {
                let (i, j) = place(lane, half, transposed);
                let element = (row[lane] >> (16 * half)) as u16;
                // SAFETY: as in `load`.
                unsafe { store16(target.base.add(target.offsets[8 * matrix + i] + 2 * j), element) };
            }
        }
    }
}
