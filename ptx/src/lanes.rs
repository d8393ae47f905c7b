//! Register files of a warp, and functions that run one instruction in 32 lanes.
//!
//! A row of the table (`arith`) is a closure over one lane. `lane_table!` makes a loop of it, and
//! compiles the loop three times: for AVX-512, for AVX2 with FMA, and for any processor. The decoder
//! stores the one that suits this processor in the instruction.

use crate::instruction::{Class, Operands, Slot};

pub const LANES: usize = 32;

#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row<T>(pub [T; LANES]);

/// The registers of a warp.
#[derive(Clone, Default, Debug)]
pub struct Registers {
    pub words: Vec<Row<u32>>,
    pub doubles: Vec<Row<u64>>,
    pub predicates: Vec<u32>,
}

/// Constants of a kernel, as rows that all warps share.
#[derive(Clone, Default, Debug)]
pub struct Constants {
    pub words: Vec<Row<u32>>,
    pub doubles: Vec<Row<u64>>,
    pub predicates: Vec<u32>,
}

impl Registers {
    #[inline(always)]
    pub fn word<'a>(&'a self, constants: &'a Constants, slot: Slot) -> &'a [u32; LANES] {
        let rows = if slot.is_constant() { &constants.words } else { &self.words };
        &rows[slot.index()].0
    }
    #[inline(always)]
    pub fn double<'a>(&'a self, constants: &'a Constants, slot: Slot) -> &'a [u64; LANES] {
        let rows = if slot.is_constant() { &constants.doubles } else { &self.doubles };
        &rows[slot.index()].0
    }
    #[inline(always)]
    pub fn predicate(&self, constants: &Constants, slot: Slot) -> u32 {
        let rows = if slot.is_constant() { &constants.predicates } else { &self.predicates };
        rows[slot.index()]
    }
    #[inline(always)]
    pub fn set_predicate(&mut self, slot: Slot, value: u32, mask: u32) {
        let row = &mut self.predicates[slot.index()];
        *row = (*row & !mask) | (value & mask);
    }
    #[inline(always)]
    pub fn set_word(&mut self, slot: Slot, value: &[u32; LANES], mask: u32) {
        merge_words(&mut self.words[slot.index()].0, value, mask);
    }
    #[inline(always)]
    pub fn set_double(&mut self, slot: Slot, value: &[u64; LANES], mask: u32) {
        merge_doubles(&mut self.doubles[slot.index()].0, value, mask);
    }
}

/// Writes a value in the lanes of a mask. Bits are selected without a branch, which would keep the loop from
/// becoming vectors.
macro_rules! merge {
    ($name:ident, $type:ty) => {
        #[inline(always)]
        fn $name(row: &mut [$type; LANES], value: &[$type; LANES], mask: u32) {
            if mask == u32::MAX {
                *row = *value;
                return;
            }
            for lane in 0..LANES {
                let keep = ((mask >> lane & 1) as $type).wrapping_sub(1);
                row[lane] = (row[lane] & keep) | (value[lane] & !keep);
            }
        }
    };
}
merge!(merge_words, u32);
merge!(merge_doubles, u64);

/// A value of one lane.
pub trait Lane: Copy {
    const CLASS: Class;
    type Row<'a>;
    type Out;
    const OUT: Self::Out;
    fn row<'a>(registers: &'a Registers, constants: &'a Constants, slot: Slot) -> Self::Row<'a>;
    fn get(row: &Self::Row<'_>, lane: usize) -> Self;
    fn set(out: &mut Self::Out, lane: usize, value: Self);
    fn put(registers: &mut Registers, slot: Slot, out: &Self::Out, mask: u32);
}

macro_rules! lane {
    ($type:ty, $class:ident, $stored:ty, $row:ident, $put:ident, $from:expr, $to:expr) => {
        impl Lane for $type {
            const CLASS: Class = Class::$class;
            type Row<'a> = &'a [$stored; LANES];
            type Out = [$stored; LANES];
            const OUT: Self::Out = [0; LANES];
            #[inline(always)]
            fn row<'a>(registers: &'a Registers, constants: &'a Constants, slot: Slot) -> Self::Row<'a> {
                registers.$row(constants, slot)
            }
            #[inline(always)]
            fn get(row: &Self::Row<'_>, lane: usize) -> Self {
                $from(row[lane])
            }
            #[inline(always)]
            fn set(out: &mut Self::Out, lane: usize, value: Self) {
                out[lane] = $to(value);
            }
            #[inline(always)]
            fn put(registers: &mut Registers, slot: Slot, out: &Self::Out, mask: u32) {
                registers.$put(slot, out, mask);
            }
        }
    };
}

lane!(u32, Word, u32, word, set_word, |x| x, |x| x);
lane!(i32, Word, u32, word, set_word, |x| x as i32, |x| x as u32);
lane!(f32, Word, u32, word, set_word, f32::from_bits, f32::to_bits);
lane!(u16, Word, u32, word, set_word, |x| x as u16, |x| x as u32);
lane!(i16, Word, u32, word, set_word, |x| x as i16, |x| x as u16 as u32);
lane!(u8, Word, u32, word, set_word, |x| x as u8, |x| x as u32);
lane!(i8, Word, u32, word, set_word, |x| x as i8, |x| x as i16 as u16 as u32);
lane!(u64, Double, u64, double, set_double, |x| x, |x| x);
lane!(i64, Double, u64, double, set_double, |x| x as i64, |x| x as u64);
lane!(f64, Double, u64, double, set_double, f64::from_bits, f64::to_bits);

impl Lane for bool {
    const CLASS: Class = Class::Predicate;
    type Row<'a> = u32;
    type Out = u32;
    const OUT: u32 = 0;
    #[inline(always)]
    fn row<'a>(registers: &'a Registers, constants: &'a Constants, slot: Slot) -> u32 {
        registers.predicate(constants, slot)
    }
    #[inline(always)]
    fn get(row: &u32, lane: usize) -> bool {
        row >> lane & 1 != 0
    }
    #[inline(always)]
    fn set(out: &mut u32, lane: usize, value: bool) {
        *out |= (value as u32) << lane;
    }
    #[inline(always)]
    fn put(registers: &mut Registers, slot: Slot, out: &u32, mask: u32) {
        registers.set_predicate(slot, *out, mask);
    }
}

/// Runs an instruction in the lanes of a mask. Unsafe to call on a processor that it was not compiled for;
/// `level` chooses.
pub type Execute = unsafe fn(&mut Registers, &Constants, &Operands, u32);

/// An instruction of the table: its names, and the classes of its result and its sources.
pub struct Entry {
    pub names: Vec<String>,
    pub result: Class,
    pub sources: Vec<Class>,
    pub execute: Execute,
}

/// Which of the compiled forms this processor runs: 0 any processor, 1 AVX2 with FMA, 2 AVX-512.
pub fn level() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if !(has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")) {
            return 0;
        }
        if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512cd") {
            return 2;
        }
        1
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Compiles `body` for each level and takes the one of this processor.
#[macro_export]
macro_rules! for_this_processor {
    ($body:ident($($x:ident: $t:ty),*) $(-> $r:ty)?, $level:expr) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            fn avx2($($x: $t),*) $(-> $r)? {
                $body($($x),*)
            }
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
            fn avx512($($x: $t),*) $(-> $r)? {
                $body($($x),*)
            }
            let forms: [unsafe fn($($t),*) $(-> $r)?; 3] = [$body, avx2, avx512];
            forms[$level]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = $level;
            let form: unsafe fn($($t),*) $(-> $r)? = $body;
            form
        }
    }};
}

/// Appends instructions to a table: `["name", …] with m |a: f32, b: f32| -> f32 { a + b }`, where `m`
/// (optional) is `Operands::arg`. The first operand is the result, the others follow.
#[macro_export]
macro_rules! lane_table {
    ($table:expr;
     $([$($name:expr),+ $(,)?] $(with $m:ident)? |$($x:ident: $t:ty),*| -> $r:ty $body:block)*) => {
        let level = $crate::lanes::level();
        $({
            use $crate::lanes::{Lane, Registers, Constants, Entry};
            use $crate::instruction::Operands;
            #[inline(always)]
            fn body(registers: &mut Registers, constants: &Constants, operands: &Operands, mask: u32) {
                let mut _operand = 0;
                $(_operand += 1; let $x = <$t as Lane>::row(registers, constants, operands.slots[_operand]);)*
                $(let $m = operands.arg;)?
                let mut out = <$r as Lane>::OUT;
                for lane in 0..$crate::lanes::LANES {
                    $(let $x = <$t as Lane>::get(&$x, lane);)*
                    <$r as Lane>::set(&mut out, lane, $body);
                }
                <$r as Lane>::put(registers, operands.slots[0], &out, mask);
            }
            let execute = $crate::for_this_processor!(body(
                registers: &mut Registers, constants: &Constants, operands: &Operands, mask: u32), level);
            $table.push(Entry {
                names: vec![$($name.to_string()),+],
                result: <$r as Lane>::CLASS,
                sources: vec![$(<$t as Lane>::CLASS),*],
                execute,
            });
        })*
    };
}

#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> + Clone {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}
