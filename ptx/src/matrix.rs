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
const MOST_K: usize = 16;

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

    fn sizes(&self) -> [usize; 3] {
        let per_register = if self.element == Element::Tf32 { 1 } else { 2 };
        let accumulators = if self.half_accumulators { 2 } else { 4 };
        [accumulators, M * self.k / 32 / per_register, N * self.k / 32 / per_register]
    }

    /// The numbers of one register of a lane: two halves, or a TF32 number, whose low 13 bits do not count.
    #[inline(always)]
    fn numbers(&self, bits: u32) -> [f32; 2] {
        match self.element {
            Element::Tf32 => [f32::from_bits(bits & 0xffff_e000), 0.0],
            Element::Brain => [from_brain(bits as u16), from_brain((bits >> 16) as u16)],
            Element::Half => [from_half(bits as u16), from_half((bits >> 16) as u16)],
        }
    }

    /// d = a·b + c for the whole warp.
    #[inline(always)]
    pub fn run(&self, registers: &mut Registers, constants: &Constants) {
        let [accumulators, a_registers, b_registers] = self.sizes();
        let (mut a, mut b, mut c) = ([[0f32; MOST_K]; M], [[0f32; N]; MOST_K], [[0f32; N]; M]);
        let width = if self.element == Element::Tf32 { 1 } else { 2 };
        for register in 0..a_registers {
            let row = registers.word(constants, self.slots[accumulators + register]);
            // Registers go down the rows first (g, g + 8), then along k.
            for lane in 0..LANES {
                let numbers = self.numbers(row[lane]);
                for half in 0..width {
                    let i = lane / 4 + 8 * (register % 2);
                    let k = (lane % 4) * width + half + 4 * width * (register / 2);
                    a[i][k] = numbers[half];
                }
            }
        }
        for register in 0..b_registers {
            let row = registers.word(constants, self.slots[accumulators + a_registers + register]);
            for lane in 0..LANES {
                let numbers = self.numbers(row[lane]);
                for half in 0..width {
                    b[(lane % 4) * width + half + 4 * width * register][lane / 4] = numbers[half];
                }
            }
        }
        for register in 0..accumulators {
            let row =
                registers.word(constants, self.slots[accumulators + a_registers + b_registers + register]);
            for lane in 0..LANES {
                let (i, j) = (lane / 4, lane % 4 * 2);
                if self.half_accumulators {
                    c[i + 8 * register][j] = from_half(row[lane] as u16);
                    c[i + 8 * register][j + 1] = from_half((row[lane] >> 16) as u16);
                } else {
                    c[i + 8 * (register / 2)][j + register % 2] = f32::from_bits(row[lane]);
                }
            }
        }
        multiply(self.k, &a, &b, &mut c);
        for register in 0..accumulators {
            let mut row = [0; LANES];
            for lane in 0..LANES {
                let (i, j) = (lane / 4, lane % 4 * 2);
                row[lane] = if self.half_accumulators {
                    let half = |j: usize| to_half(c[i + 8 * register][j] as f64, 0) as u32;
                    half(j) | half(j + 1) << 16
                } else {
                    c[i + 8 * (register / 2)][j + register % 2].to_bits()
                };
            }
            registers.set_word(self.slots[register], &row, u32::MAX);
        }
    }
}

/// Products are exact in single precision; the sums, whose order and rounding the ISA leaves open, are fused.
#[inline(always)]
fn multiply(k: usize, a: &[[f32; MOST_K]; M], b: &[[f32; N]; MOST_K], c: &mut [[f32; N]; M]) {
    let mut sums = *c;
    for (k, values) in b[..k].iter().enumerate() {
        for i in 0..M {
            for j in 0..N {
                sums[i][j] = a[i][k].mul_add(values[j], sums[i][j]);
            }
        }
    }
    *c = sums;
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
