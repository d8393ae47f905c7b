//! `cvt`: conversions of one lane.

use super::INTEGRAL;
use super::round::*;
use crate::lane_table;
use crate::lanes::Entry;

macro_rules! integers {
    ($table:expr; $($to:ident $to_name:literal),*) => {
        $(integers!(@ $table; $to $to_name;
            u8 "u8", i8 "s8", u16 "u16", i16 "s16", u32 "u32", i32 "s32", u64 "u64", i64 "s64");)*
    };
    (@ $table:expr; $to:ident $to_name:literal; $($from:ident $from_name:literal),*) => {
        lane_table! { $table; $(
            [concat!("cvt.", $to_name, ".", $from_name)] |a: $from| -> $to { a as $to }
        )* }
    };
}

/// Rounds to an integer as `.rni`, `.rzi`, `.rmi`, `.rpi` say.
#[inline(always)]
fn integral(x: f64, m: u32) -> f64 {
    match m & ROUND {
        NEAREST => x.round_ties_even(),
        ZERO => x.trunc(),
        DOWN => x.floor(),
        _ => x.ceil(),
    }
}
#[inline(always)]
fn input(x: f32, m: u32) -> f32 {
    if m & FTZ != 0 { flush(x) } else { x }
}

macro_rules! floats_and_integers {
    ($table:expr; $($integer:ident $name:literal),*) => {
        lane_table! { $table; $(
            [concat!("cvt.f32.", $name)] |a: $integer| -> f32 { a as f32 }
            [concat!("cvt.f64.", $name)] |a: $integer| -> f64 { a as f64 }
            [concat!("cvt.f16.", $name)] |a: $integer| -> u16 { to_half(a as f64, 0) }
            // A NaN becomes 0, and numbers beyond the range its nearest end, as with Rust's `as`.
            [concat!("cvt.rzi.", $name, ".f32")] |a: f32| -> $integer { a as $integer }
            [concat!("cvt.*.", $name, ".f32")] with m
                |a: f32| -> $integer { integral(input(a, m) as f64, m) as $integer }
            [concat!("cvt.*.", $name, ".f64")] with m |a: f64| -> $integer { integral(a, m) as $integer }
            [concat!("cvt.*.", $name, ".f16")] with m
                |a: u16| -> $integer { integral(from_half(a) as f64, m) as $integer }
        )* }
    };
}

macro_rules! exact_integers {
    ($table:expr; $($integer:ident $name:literal),*) => {
        lane_table! { $table; $(
            [concat!("cvt.*.f32.", $name)] with m |a: $integer| -> f32 {
                let near = if m & ROUND == NEAREST { a as f32 } else { directed(a as f64, 0.0, m & ROUND) };
                if m & SAT != 0 { saturate(near) } else { near }
            }
        )* }
    };
}

pub fn table(table: &mut Vec<Entry>) {
    integers!(table; u8 "u8", i8 "s8", u16 "u16", i16 "s16", u32 "u32", i32 "s32", u64 "u64", i64 "s64");
    floats_and_integers!(table;
        u8 "u8", i8 "s8", u16 "u16", i16 "s16", u32 "u32", i32 "s32", u64 "u64", i64 "s64");
    exact_integers!(table; u8 "u8", i8 "s8", u16 "u16", i16 "s16", u32 "u32", i32 "s32");
    lane_table! { table;
        ["cvt.sat.f32.f32"] |a: f32| -> f32 { saturate(a) }
        ["cvt.f32.f32"] |a: f32| -> f32 { canonical(a) }
        ["cvt.*.f32.f32"] with m |a: f32| -> f32 {
            let x = input(a, m);
            let x = if m & INTEGRAL != 0 { integral(x as f64, m) as f32 } else { x };
            if m & SAT != 0 { saturate(x) } else { canonical(x) }
        }
        ["cvt.*.f64.f64"] with m |a: f64| -> f64 { if m & INTEGRAL != 0 { integral(a, m) } else { a } }
        ["cvt.f64.f32", "cvt.*.f64.f32"] with m |a: f32| -> f64 { input(a, m) as f64 }
        ["cvt.f32.f64"] |a: f64| -> f32 { canonical(a as f32) }
        ["cvt.*.f32.f64"] with m |a: f64| -> f32 {
            let x = if m & ROUND == NEAREST { a as f32 } else { directed(a, 0.0, m & ROUND) };
            let x = input(x, m);
            if m & SAT != 0 { saturate(x) } else { canonical(x) }
        }
        ["cvt.f32.f16"] |a: u16| -> f32 { canonical(from_half(a)) }
        ["cvt.f64.f16"] |a: u16| -> f64 { from_half(a) as f64 }
        ["cvt.f32.bf16"] |a: u16| -> f32 { canonical(from_brain(a)) }
        ["cvt.f16.f32", "cvt.*.f16.f32"] with m |a: f32| -> u16 {
            to_half(if m & SAT != 0 { saturate(a) } else { a } as f64, m)
        }
        ["cvt.f16.f64", "cvt.*.f16.f64"] with m |a: f64| -> u16 { to_half(a, m) }
        ["cvt.bf16.f32", "cvt.*.bf16.f32"] with m |a: f32| -> u16 { to_brain(a as f64, m) }
        // The first source goes to the upper half.
        ["cvt.f16x2.f32", "cvt.*.f16x2.f32"] with m |a: f32, b: f32| -> u32 {
            (to_half(a as f64, m) as u32) << 16 | to_half(b as f64, m) as u32
        }
        ["cvt.bf16x2.f32", "cvt.*.bf16x2.f32"] with m |a: f32, b: f32| -> u32 {
            (to_brain(a as f64, m) as u32) << 16 | to_brain(b as f64, m) as u32
        }
        ["cvt.tf32.f32", "cvt.*.tf32.f32"] with m |a: f32| -> u32 { to_tf32(a, m) }
    }
}
