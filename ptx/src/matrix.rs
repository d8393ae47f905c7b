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
        let (mut a, mut b, mut c) = ([[0f32; M]; K], [[0f32; N]; K], [[0f32; N]; M]);
        for register in 0..a_registers {
            let row = registers.word(constants, self.slots[accumulators + register]);
            // Registers go down the rows first (g, g + 8), then along k.
            for lane in 0..LANES {
                let numbers = numbers(row[lane]);
                for half in 0..WIDTH {
                    let k = (lane % 4) * WIDTH + half + 4 * WIDTH * (register / 2);
                    a[k][lane / 4 + 8 * (register % 2)] = numbers[half];
                }
            }
        }
        for register in 0..b_registers {
            let row = registers.word(constants, self.slots[accumulators + a_registers + register]);
            for lane in 0..LANES {
                let numbers = numbers(row[lane]);
                for half in 0..WIDTH {
                    b[(lane % 4) * WIDTH + half + 4 * WIDTH * register][lane / 4] = numbers[half];
                }
            }
        }
        let first = accumulators + a_registers + b_registers;
        if self.half_accumulators {
            for register in 0..2 {
                let row = registers.word(constants, self.slots[first + register]);
                for lane in 0..LANES {
                    let sums = &mut c[lane / 4 + 8 * register];
                    sums[lane % 4 * 2] = from_half(row[lane] as u16);
                    sums[lane % 4 * 2 + 1] = from_half((row[lane] >> 16) as u16);
                }
            }
            multiply(&a, &b, &mut c);
            for register in 0..2 {
                let mut row = [0; LANES];
                for lane in 0..LANES {
                    let half = |j: usize| to_half(c[lane / 4 + 8 * register][j] as f64, 0) as u32;
                    row[lane] = half(lane % 4 * 2) | half(lane % 4 * 2 + 1) << 16;
                }
                registers.set_word(self.slots[register], &row, u32::MAX);
            }
            return;
        }
        for register in 0..4 {
            let row = registers.word(constants, self.slots[first + register]);
            for lane in 0..LANES {
                c[lane / 4 + 8 * (register / 2)][lane % 4 * 2 + register % 2] = f32::from_bits(row[lane]);
            }
        }
        multiply(&a, &b, &mut c);
        for register in 0..4 {
            let mut row = [0; LANES];
            for lane in 0..LANES {
                row[lane] = c[lane / 4 + 8 * (register / 2)][lane % 4 * 2 + register % 2].to_bits();
            }
            registers.set_word(self.slots[register], &row, u32::MAX);
        }
    }
}

/// c += aᵀ·b, with a by columns. Products are exact in single precision; the sums, whose order and rounding the
/// ISA leaves open, are fused.
#[inline(always)]
fn multiply<const K: usize>(a: &[[f32; M]; K], b: &[[f32; N]; K], c: &mut [[f32; N]; M]) {
    let mut sums = *c;
    for k in 0..K {
        for i in 0..M {
            for j in 0..N {
                sums[i][j] = a[k][i].mul_add(b[k][j], sums[i][j]);
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
