//! Floating-point instructions of one lane. The plain row of an instruction (round to nearest, nothing else)
//! is fast; the row with `*` in its name knows the modifiers.

use super::approx;
use super::round::*;
use crate::lane_table;
use crate::lanes::Entry;

#[inline(always)]
fn input(x: f32, m: u32) -> f32 {
    if m & FTZ != 0 { flush(x) } else { x }
}
#[inline(always)]
fn output(x: f32, m: u32) -> f32 {
    let x = if m & FTZ != 0 { flush(x) } else { x };
    if m & SAT != 0 { saturate(x) } else { canonical(x) }
}
#[inline(always)]
fn fma(a: f32, b: f32, c: f32, m: u32) -> f32 {
    let (a, b, c) = (input(a, m), input(b, m), input(c, m));
    output(if m & ROUND == NEAREST { a.mul_add(b, c) } else { fma_directed(a, b, c, m & ROUND) }, m)
}
#[inline(always)]
fn add(a: f32, b: f32, m: u32) -> f32 {
    let (a, b) = (input(a, m), input(b, m));
    output(if m & ROUND == NEAREST { a + b } else { fma_directed(a, 1.0, b, m & ROUND) }, m)
}
#[inline(always)]
fn mul(a: f32, b: f32, m: u32) -> f32 {
    let (a, b) = (input(a, m), input(b, m));
    let product = a as f64 * b as f64;
    output(if m & ROUND == NEAREST { a * b } else { directed(product, 0.0, m & ROUND) }, m)
}
#[inline(always)]
fn divide(a: f32, b: f32, m: u32) -> f32 {
    let (a, b) = (input(a, m), input(b, m));
    output(if m & ROUND == NEAREST { a / b } else { divide_directed(a, b, m & ROUND) }, m)
}
#[inline(always)]
fn root(a: f32, m: u32) -> f32 {
    let a = input(a, m);
    output(if m & ROUND == NEAREST { a.sqrt() } else { sqrt_directed(a, m & ROUND) }, m)
}

/// The smaller number; -0 is smaller than +0, and a number wins over NaN.
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    let less = if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    };
    if a.is_nan() {
        canonical(b)
    } else if b.is_nan() {
        a
    } else {
        less
    }
}
#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    let more = if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b {
        a
    } else {
        b
    };
    if a.is_nan() {
        canonical(b)
    } else if b.is_nan() {
        a
    } else {
        more
    }
}
#[inline(always)]
fn extremum(a: f32, b: f32, m: u32, of: fn(f32, f32) -> f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let (a, b) = (input(a, m), input(b, m));
    let (a, b) = if m & XORSIGN_ABS != 0 { (a.abs(), b.abs()) } else { (a, b) };
    if m & NAN != 0 && (a.is_nan() || b.is_nan()) {
        return f32::from_bits(0x7fff_ffff);
    }
    let value = of(a, b);
    if m & XORSIGN_ABS != 0 { f32::from_bits(value.to_bits() | sign) } else { value }
}

macro_rules! comparisons {
    ($table:expr, $float:literal, $type:ty, |$m:ident, $x:ident| $input:expr) => {
        comparisons!(@ $table, $float, $type, |$m, $x| $input;
            "eq" |a, b| a == b; "ne" |a, b| a < b || a > b;
            "lt" |a, b| a < b; "le" |a, b| a <= b;
            "gt" |a, b| a > b; "ge" |a, b| a >= b;
            "equ" |a, b| !(a < b || a > b); "neu" |a, b| a != b;
            "ltu" |a, b| !(a >= b); "leu" |a, b| !(a > b);
            "gtu" |a, b| !(a <= b); "geu" |a, b| !(a < b);
            "num" |a, b| !(a.is_nan() || b.is_nan()); "nan" |a, b| a.is_nan() || b.is_nan(););
    };
    (@ $table:expr, $float:literal, $type:ty, |$m:ident, $x:ident| $input:expr;
     $($name:literal |$a:ident, $b:ident| $test:expr;)*) => {
        lane_table! { $table; $(
            [concat!("setp.", $name, ".", $float)]
                |a: $type, b: $type| -> bool { let ($a, $b) = (a, b); $test }
            [concat!("setp.*.", $name, ".", $float)] with m |a: $type, b: $type| -> bool {
                let flushed = |$m: u32, $x: $type| $input;
                let ($a, $b) = (flushed(m, a), flushed(m, b));
                $test
            }
        )* }
    };
}

macro_rules! halves {
    ($table:expr, $type:literal, $pair:literal, $from:ident, $to:ident, $least:expr) => {
        halves!(@ $table, $type, $pair, $from, $to, $least;
            "add" (a, b) |m| fma_odd(a, 1.0, b);
            "sub" (a, b) |m| fma_odd(a, 1.0, -b);
            "mul" (a, b) |m| fma_odd(a, b, -0.0);
            "fma" (a, b, c) |m| fma_odd(a, b, c);
            "min" (a, b) |m| extremum(a as f32, b as f32, m & (NAN | XORSIGN_ABS), min) as f64;
            "max" (a, b) |m| extremum(a as f32, b as f32, m & (NAN | XORSIGN_ABS), max) as f64;
            "neg" (a) |m| -a;
            "abs" (a) |m| a.abs(););
    };
    (@ $table:expr, $type:literal, $pair:literal, $from:ident, $to:ident, $least:expr;
     $($name:literal ($($x:ident),*) |$m:ident| $value:expr;)*) => {
        lane_table! { $table; $(
            [concat!($name, ".", $type), concat!($name, ".*.", $type)] with m |$($x: u16),*| -> u16 {
                let tiny = |x: f64| if m & FTZ != 0 && x.abs() < $least { 0f64.copysign(x) } else { x };
                let $m = m;
                let _ = $m;
                $(let $x = tiny($from($x) as f64);)*
                let value = tiny($value);
                $to(if m & SAT != 0 { saturate(value as f32) as f64 } else { value }, m & RELU)
            }
            [concat!($name, ".", $pair), concat!($name, ".*.", $pair)] with m |$($x: u32),*| -> u32 {
                let tiny = |x: f64| if m & FTZ != 0 && x.abs() < $least { 0f64.copysign(x) } else { x };
                let half = |shift: u32| {
                    let $m = m;
                    let _ = $m;
                    $(let $x = tiny($from(($x >> shift) as u16) as f64);)*
                    let value = tiny($value);
                    let value = if m & SAT != 0 { saturate(value as f32) as f64 } else { value };
                    ($to(value, m & RELU) as u32) << shift
                };
                half(0) | half(16)
            }
        )* }
    };
}

pub fn table(table: &mut Vec<Entry>) {
    comparisons!(table, "f32", f32, |m, x| input(x, m));
    comparisons!(table, "f64", f64, |_m, x| x);
    halves!(table, "f16", "f16x2", from_half, to_half, 2f64.powi(-14));
    halves!(table, "bf16", "bf16x2", from_brain, to_brain, 2f64.powi(-126));
    lane_table! { table;
        ["add.f32"] |a: f32, b: f32| -> f32 { canonical(a + b) }
        ["sub.f32"] |a: f32, b: f32| -> f32 { canonical(a - b) }
        ["mul.f32"] |a: f32, b: f32| -> f32 { canonical(a * b) }
        ["fma.f32", "mad.f32"] |a: f32, b: f32, c: f32| -> f32 { canonical(a.mul_add(b, c)) }
        ["fma.rm.f32"] |a: f32, b: f32, c: f32| -> f32 { canonical(fma_directed(a, b, c, DOWN)) }
        ["div.f32"] |a: f32, b: f32| -> f32 { canonical(a / b) }
        ["rcp.f32"] |a: f32| -> f32 { canonical(1.0 / a) }
        ["sqrt.f32"] |a: f32| -> f32 { canonical(a.sqrt()) }
        ["min.f32"] |a: f32, b: f32| -> f32 { min(a, b) }
        ["max.f32"] |a: f32, b: f32| -> f32 { max(a, b) }
        ["abs.f32"] |a: f32| -> f32 { a.abs() }
        ["neg.f32"] |a: f32| -> f32 { -a }
        ["add.*.f32"] with m |a: f32, b: f32| -> f32 { add(a, b, m) }
        ["sub.*.f32"] with m |a: f32, b: f32| -> f32 { add(a, -b, m) }
        ["mul.*.f32"] with m |a: f32, b: f32| -> f32 { mul(a, b, m) }
        ["fma.*.f32", "mad.*.f32"] with m |a: f32, b: f32, c: f32| -> f32 { fma(a, b, c, m) }
        ["div.*.f32"] with m |a: f32, b: f32| -> f32 { divide(a, b, m) }
        ["rcp.*.f32"] with m |a: f32| -> f32 { divide(1.0, a, m) }
        ["sqrt.*.f32"] with m |a: f32| -> f32 { root(a, m) }
        ["min.*.f32"] with m |a: f32, b: f32| -> f32 { extremum(a, b, m, min) }
        ["max.*.f32"] with m |a: f32, b: f32| -> f32 { extremum(a, b, m, max) }
        ["abs.*.f32"] with m |a: f32| -> f32 { input(a, m).abs() }
        ["neg.*.f32"] with m |a: f32| -> f32 { -input(a, m) }
        ["copysign.f32"] |a: f32, b: f32| -> f32 { b.copysign(a) }
        ["copysign.f64"] |a: f64, b: f64| -> f64 { b.copysign(a) }
        ["testp.finite.f32"] |a: f32| -> bool { a.is_finite() }
        ["testp.infinite.f32"] |a: f32| -> bool { a.is_infinite() }
        ["testp.number.f32"] |a: f32| -> bool { !a.is_nan() }
        ["testp.notanumber.f32"] |a: f32| -> bool { a.is_nan() }
        ["testp.normal.f32"] |a: f32| -> bool { a.is_normal() }
        ["testp.subnormal.f32"] |a: f32| -> bool { a.is_subnormal() }

        ["div.approx.f32"] |a: f32, b: f32| -> f32 { approx::divide(a, b) }
        ["div.approx.*.f32"] |a: f32, b: f32| -> f32 { flush(approx::divide(flush(a), flush(b))) }
        ["div.full.f32"] |a: f32, b: f32| -> f32 { canonical(a / b) }
        ["div.full.*.f32"] |a: f32, b: f32| -> f32 { canonical(flush(flush(a) / flush(b))) }
        ["rcp.approx.f32"] |a: f32| -> f32 { canonical(1.0 / a) }
        ["rcp.approx.*.f32"] |a: f32| -> f32 { canonical(flush(1.0 / flush(a))) }
        ["sqrt.approx.f32"] |a: f32| -> f32 { canonical(a.sqrt()) }
        ["sqrt.approx.*.f32"] |a: f32| -> f32 { canonical(flush(a).sqrt()) }
        ["ex2.approx.f32"] |a: f32| -> f32 { approx::exp2(a) }
        ["ex2.approx.*.f32"] |a: f32| -> f32 { flush(approx::exp2(flush(a))) }
        ["lg2.approx.f32"] |a: f32| -> f32 { approx::log2(a) }
        ["lg2.approx.*.f32"] |a: f32| -> f32 { approx::with_flush(a, approx::log2) }
        ["rsqrt.approx.f32"] |a: f32| -> f32 { approx::reciprocal_root(a) }
        ["rsqrt.approx.*.f32"] |a: f32| -> f32 { approx::with_flush(a, approx::reciprocal_root) }
        ["sin.approx.f32"] |a: f32| -> f32 { approx::sine(a) }
        ["sin.approx.*.f32"] |a: f32| -> f32 { approx::with_flush(a, approx::sine) }
        ["cos.approx.f32"] |a: f32| -> f32 { approx::cosine(a) }
        ["cos.approx.*.f32"] |a: f32| -> f32 { approx::with_flush(a, approx::cosine) }
        ["tanh.approx.f32"] |a: f32| -> f32 { approx::hyperbolic_tangent(a) }

        ["add.f64"] |a: f64, b: f64| -> f64 { a + b }
        ["sub.f64"] |a: f64, b: f64| -> f64 { a - b }
        ["mul.f64"] |a: f64, b: f64| -> f64 { a * b }
        ["fma.f64", "mad.f64"] |a: f64, b: f64, c: f64| -> f64 { a.mul_add(b, c) }
        ["div.f64"] |a: f64, b: f64| -> f64 { a / b }
        ["rcp.f64"] |a: f64| -> f64 { 1.0 / a }
        ["sqrt.f64"] |a: f64| -> f64 { a.sqrt() }
        ["rsqrt.approx.f64"] |a: f64| -> f64 { 1.0 / a.sqrt() }
        ["min.f64"] |a: f64, b: f64| -> f64 { a.min(b) }
        ["max.f64"] |a: f64, b: f64| -> f64 { a.max(b) }
        ["abs.f64"] |a: f64| -> f64 { a.abs() }
        ["neg.f64"] |a: f64| -> f64 { -a }
    }
}
