//! Integer, logical and bit instructions of one lane.

use crate::lane_table;
use crate::lanes::Entry;

/// The division of 32-bit integers in double precision: exact, because a quotient that is no integer lies at
/// least 1/b off the next one and the rounding error is below 2^-21/b; the compiler vectorises it.
#[inline(always)]
fn divide_u32(a: u32, b: u32) -> u32 {
    if b == 0 { u32::MAX } else { (a as f64 / b as f64) as u32 }
}
#[inline(always)]
fn divide_i32(a: i32, b: i32) -> i32 {
    if b == 0 { -1 } else { (a as f64 / b as f64) as i64 as i32 }
}
#[inline(always)]
fn divide_u64(a: u64, b: u64) -> u64 {
    a.checked_div(b).unwrap_or(u64::MAX)
}
#[inline(always)]
fn divide_i64(a: i64, b: i64) -> i64 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}
#[inline(always)]
fn divide_u16(a: u16, b: u16) -> u16 {
    divide_u32(a as u32, b as u32) as u16
}
#[inline(always)]
fn divide_i16(a: i16, b: i16) -> i16 {
    divide_i32(a as i32, b as i32) as i16
}

/// All bits or none. A selection by bits becomes vectors where one by a branch does not.
macro_rules! all_bits {
    ($condition:expr, $type:ty) => {
        ($condition as $type).wrapping_neg()
    };
}

macro_rules! integers {
    ($table:expr, $bits:literal, $u:ty, $s:ty, $wide_u:ty, $wide_s:ty, $divide_u:ident, $divide_s:ident) => {
        lane_table! { $table;
            [concat!("add.u", $bits), concat!("add.s", $bits)] |a: $u, b: $u| -> $u { a.wrapping_add(b) }
            [concat!("sub.u", $bits), concat!("sub.s", $bits)] |a: $u, b: $u| -> $u { a.wrapping_sub(b) }
            [concat!("mul.lo.u", $bits), concat!("mul.lo.s", $bits)]
                |a: $u, b: $u| -> $u { a.wrapping_mul(b) }
            [concat!("mul.hi.u", $bits)]
                |a: $u, b: $u| -> $u { ((a as $wide_u).wrapping_mul(b as $wide_u) >> $bits) as $u }
            [concat!("mul.hi.s", $bits)]
                |a: $s, b: $s| -> $s { ((a as $wide_s).wrapping_mul(b as $wide_s) >> $bits) as $s }
            [concat!("mad.lo.u", $bits), concat!("mad.lo.s", $bits)]
                |a: $u, b: $u, c: $u| -> $u { a.wrapping_mul(b).wrapping_add(c) }
            [concat!("mad.hi.u", $bits)] |a: $u, b: $u, c: $u| -> $u {
                (((a as $wide_u).wrapping_mul(b as $wide_u) >> $bits) as $u).wrapping_add(c)
            }
            [concat!("mad.hi.s", $bits)] |a: $s, b: $s, c: $s| -> $s {
                (((a as $wide_s).wrapping_mul(b as $wide_s) >> $bits) as $s).wrapping_add(c)
            }
            [concat!("div.u", $bits)] |a: $u, b: $u| -> $u { $divide_u(a, b) }
            [concat!("div.s", $bits)] |a: $s, b: $s| -> $s { $divide_s(a, b) }
            [concat!("rem.u", $bits)] |a: $u, b: $u| -> $u { a.wrapping_sub($divide_u(a, b).wrapping_mul(b)) }
            [concat!("rem.s", $bits)] |a: $s, b: $s| -> $s { a.wrapping_sub($divide_s(a, b).wrapping_mul(b)) }
            [concat!("min.u", $bits)] |a: $u, b: $u| -> $u { if a < b { a } else { b } }
            [concat!("min.s", $bits)] |a: $s, b: $s| -> $s { if a < b { a } else { b } }
            [concat!("max.u", $bits)] |a: $u, b: $u| -> $u { if a > b { a } else { b } }
            [concat!("max.s", $bits)] |a: $s, b: $s| -> $s { if a > b { a } else { b } }
            [concat!("abs.s", $bits)] |a: $s| -> $s { a.wrapping_abs() }
            [concat!("neg.s", $bits)] |a: $s| -> $s { a.wrapping_neg() }
            [concat!("and.b", $bits)] |a: $u, b: $u| -> $u { a & b }
            [concat!("or.b", $bits)] |a: $u, b: $u| -> $u { a | b }
            [concat!("xor.b", $bits)] |a: $u, b: $u| -> $u { a ^ b }
            [concat!("not.b", $bits)] |a: $u| -> $u { !a }
            [concat!("cnot.b", $bits)] |a: $u| -> $u { (a == 0) as $u }
            [concat!("shl.b", $bits)] |a: $u, n: u32| -> $u { (a << (n % $bits)) & all_bits!(n < $bits, $u) }
            [concat!("shr.u", $bits), concat!("shr.b", $bits)]
                |a: $u, n: u32| -> $u { (a >> (n % $bits)) & all_bits!(n < $bits, $u) }
            [concat!("shr.s", $bits)] |a: $s, n: u32| -> $s { a >> if n < $bits { n } else { $bits - 1 } }
            [concat!("selp.b", $bits), concat!("selp.u", $bits), concat!("selp.s", $bits),
             concat!("selp.f", $bits)] |a: $u, b: $u, p: bool| -> $u { b ^ ((a ^ b) & all_bits!(p, $u)) }
            [concat!("mov.b", $bits), concat!("mov.u", $bits), concat!("mov.s", $bits),
             concat!("mov.f", $bits)] |a: $u| -> $u { a }
            [concat!("setp.eq.b", $bits), concat!("setp.eq.u", $bits), concat!("setp.eq.s", $bits)]
                |a: $u, b: $u| -> bool { a == b }
            [concat!("setp.ne.b", $bits), concat!("setp.ne.u", $bits), concat!("setp.ne.s", $bits)]
                |a: $u, b: $u| -> bool { a != b }
            [concat!("setp.lt.u", $bits), concat!("setp.lo.u", $bits)] |a: $u, b: $u| -> bool { a < b }
            [concat!("setp.le.u", $bits), concat!("setp.ls.u", $bits)] |a: $u, b: $u| -> bool { a <= b }
            [concat!("setp.gt.u", $bits), concat!("setp.hi.u", $bits)] |a: $u, b: $u| -> bool { a > b }
            [concat!("setp.ge.u", $bits), concat!("setp.hs.u", $bits)] |a: $u, b: $u| -> bool { a >= b }
            [concat!("setp.lt.s", $bits)] |a: $s, b: $s| -> bool { a < b }
            [concat!("setp.le.s", $bits)] |a: $s, b: $s| -> bool { a <= b }
            [concat!("setp.gt.s", $bits)] |a: $s, b: $s| -> bool { a > b }
            [concat!("setp.ge.s", $bits)] |a: $s, b: $s| -> bool { a >= b }
            [concat!("sad.u", $bits)] |a: $u, b: $u, c: $u| -> $u { a.abs_diff(b).wrapping_add(c) }
            [concat!("sad.s", $bits)] |a: $s, b: $s, c: $u| -> $u { a.abs_diff(b).wrapping_add(c) }
        }
    };
}

/// The field of `length` bits from bit `start` on.
#[inline(always)]
fn extract(a: u64, start: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    let sign_bit = (start + length).saturating_sub(1).min(bits - 1);
    let sign = signed && length > 0 && a >> sign_bit & 1 != 0;
    let field = if start < 64 { a >> start } else { 0 };
    let kept = length.min(bits.saturating_sub(start));
    let low = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    (field & low) | if sign { !low } else { 0 }
}

#[inline(always)]
fn insert(a: u64, b: u64, start: u32, length: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if start >= 64 {
        return b;
    }
    let low = if length >= 64 { u64::MAX } else { (1u64 << length) - 1 };
    (b & !(low << start)) | ((a & low) << start)
}

/// The position of the highest bit that differs from the sign; all ones without one.
#[inline(always)]
fn highest(a: u64) -> u32 {
    if a == 0 { u32::MAX } else { 63 - a.leading_zeros() }
}

/// `prmt.b32`, with its byte selectors.
#[inline(always)]
fn permute(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let mut result = 0;
    for i in 0..4 {
        let selector = selectors >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (selector & 7))) as u32 & 0xff;
        let byte = if selector & 8 == 0 { byte } else { (byte >> 7) * 0xff };
        result |= byte << (8 * i);
    }
    result
}

/// Selectors of the modes `.f4e`, `.b4e`, `.rc8`, `.ecl`, `.ecr`, `.rc16` as those of the plain form.
#[inline(always)]
fn permute_mode(mode: u32, control: u32) -> u32 {
    let n = control & 3;
    let pick = |f: &dyn Fn(u32) -> u32| (0..4).fold(0, |all, i| all | f(i) << (4 * i));
    match mode {
        0 => pick(&|i| (n + i) & 7),
        1 => pick(&|i| n.wrapping_sub(i) & 7),
        2 => pick(&|_| n),
        3 => pick(&|i| i.max(n)),
        4 => pick(&|i| i.min(n)),
        _ => pick(&|i| (n & 1) * 2 + (i & 1)),
    }
}

#[inline(always)]
fn lut3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        let (x, y, z) = (row >> 2 & 1, row >> 1 & 1, row & 1);
        let term = (a ^ (x - 1)) & (b ^ (y - 1)) & (c ^ (z - 1));
        result |= term & 0u32.wrapping_sub(table >> row & 1);
    }
    result
}

macro_rules! dot4 {
    ($table:expr, $name:literal, $a:ty, $b:ty) => {
        lane_table! { $table;
            [concat!("dp4a.", $name)] |a: u32, b: u32, c: u32| -> u32 {
                let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
                let mut sum = c as i32;
                for i in 0..4 {
                    sum = sum.wrapping_add((x[i] as $a as i32) * (y[i] as $b as i32));
                }
                sum as u32
            }
        }
    };
}

pub fn table(table: &mut Vec<Entry>) {
    integers!(table, 16, u16, i16, u32, i32, divide_u16, divide_i16);
    integers!(table, 32, u32, i32, u64, i64, divide_u32, divide_i32);
    integers!(table, 64, u64, i64, u128, i128, divide_u64, divide_i64);
    dot4!(table, "u32.u32", u8, u8);
    dot4!(table, "s32.s32", i8, i8);
    dot4!(table, "u32.s32", u8, i8);
    dot4!(table, "s32.u32", i8, u8);
    lane_table! { table;
        ["mul.wide.u16"] |a: u16, b: u16| -> u32 { a as u32 * b as u32 }
        ["mul.wide.s16"] |a: i16, b: i16| -> i32 { a as i32 * b as i32 }
        ["mul.wide.u32"] |a: u32, b: u32| -> u64 { a as u64 * b as u64 }
        ["mul.wide.s32"] |a: i32, b: i32| -> i64 { a as i64 * b as i64 }
        ["mad.wide.u16"] |a: u16, b: u16, c: u32| -> u32 { (a as u32 * b as u32).wrapping_add(c) }
        ["mad.wide.s16"] |a: i16, b: i16, c: i32| -> i32 { (a as i32 * b as i32).wrapping_add(c) }
        ["mad.wide.u32"] |a: u32, b: u32, c: u64| -> u64 { (a as u64 * b as u64).wrapping_add(c) }
        ["mad.wide.s32"] |a: i32, b: i32, c: i64| -> i64 { (a as i64 * b as i64).wrapping_add(c) }
        ["mul24.lo.u32"] |a: u32, b: u32| -> u32 { (a & 0xffffff).wrapping_mul(b & 0xffffff) }
        ["mul24.lo.s32"] |a: i32, b: i32| -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8) }
        ["add.sat.s32"] |a: i32, b: i32| -> i32 { a.saturating_add(b) }
        ["sub.sat.s32"] |a: i32, b: i32| -> i32 { a.saturating_sub(b) }
        ["popc.b32"] |a: u32| -> u32 { a.count_ones() }
        ["popc.b64"] |a: u64| -> u32 { a.count_ones() }
        ["clz.b32"] |a: u32| -> u32 { a.leading_zeros() }
        ["clz.b64"] |a: u64| -> u32 { a.leading_zeros() }
        ["brev.b32"] |a: u32| -> u32 { a.reverse_bits() }
        ["brev.b64"] |a: u64| -> u64 { a.reverse_bits() }
        ["bfind.u32"] |a: u32| -> u32 { highest(a as u64) }
        ["bfind.s32"] |a: i32| -> u32 { highest((a ^ (a >> 31)) as u32 as u64) }
        ["bfind.u64"] |a: u64| -> u32 { highest(a) }
        ["bfind.s64"] |a: i64| -> u32 { highest((a ^ (a >> 63)) as u64) }
        ["bfind.shiftamt.u32"] |a: u32| -> u32 { if a == 0 { u32::MAX } else { a.leading_zeros() } }
        ["bfind.shiftamt.s32"]
            |a: i32| -> u32 { if a ^ (a >> 31) == 0 { u32::MAX } else { (a ^ (a >> 31)).leading_zeros() } }
        ["bfe.u32"] |a: u32, b: u32, c: u32| -> u32 { extract(a as u64, b, c, 32, false) as u32 }
        ["bfe.s32"] |a: i32, b: u32, c: u32| -> u32 { extract(a as i64 as u64, b, c, 32, true) as u32 }
        ["bfe.u64"] |a: u64, b: u32, c: u32| -> u64 { extract(a, b, c, 64, false) }
        ["bfe.s64"] |a: u64, b: u32, c: u32| -> u64 { extract(a, b, c, 64, true) }
        ["bfi.b32"] |a: u32, b: u32, c: u32, d: u32| -> u32 { insert(a as u64, b as u64, c, d) as u32 }
        ["bfi.b64"] |a: u64, b: u64, c: u32, d: u32| -> u64 { insert(a, b, c, d) }
        ["shf.l.wrap.b32"]
            |a: u32, b: u32, c: u32| -> u32 { ((((b as u64) << 32 | a as u64) << (c & 31)) >> 32) as u32 }
        ["shf.r.wrap.b32"]
            |a: u32, b: u32, c: u32| -> u32 { (((b as u64) << 32 | a as u64) >> (c & 31)) as u32 }
        ["shf.l.clamp.b32"]
            |a: u32, b: u32, c: u32| -> u32 { ((((b as u64) << 32 | a as u64) << c.min(32)) >> 32) as u32 }
        ["shf.r.clamp.b32"]
            |a: u32, b: u32, c: u32| -> u32 { (((b as u64) << 32 | a as u64) >> c.min(32)) as u32 }
        ["lop3.b32"] |a: u32, b: u32, c: u32, t: u32| -> u32 { lut3(a, b, c, t) }
        ["prmt.b32"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, c) }
        ["prmt.b32.f4e"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(0, c)) }
        ["prmt.b32.b4e"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(1, c)) }
        ["prmt.b32.rc8"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(2, c)) }
        ["prmt.b32.ecl"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(3, c)) }
        ["prmt.b32.ecr"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(4, c)) }
        ["prmt.b32.rc16"] |a: u32, b: u32, c: u32| -> u32 { permute(a, b, permute_mode(5, c)) }
        // Pieces of `mov` between a vector and a wider register, which the decoder takes apart.
        ["pack.b32"] |a: u16, b: u16| -> u32 { a as u32 | (b as u32) << 16 }
        ["unpack.lo.b32"] |a: u32| -> u32 { a & 0xffff }
        ["unpack.hi.b32"] |a: u32| -> u32 { a >> 16 }
        ["pack.b64"] |a: u32, b: u32| -> u64 { a as u64 | (b as u64) << 32 }
        ["unpack.lo.b64"] |a: u64| -> u32 { a as u32 }
        ["unpack.hi.b64"] |a: u64| -> u32 { (a >> 32) as u32 }
        ["pack4.b64"] |a: u16, b: u16, c: u16, d: u16| -> u64 {
            a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
        }
        ["unpack.0.b64"] |a: u64| -> u16 { a as u16 }
        ["unpack.1.b64"] |a: u64| -> u16 { (a >> 16) as u16 }
        ["unpack.2.b64"] |a: u64| -> u16 { (a >> 32) as u16 }
        ["unpack.3.b64"] |a: u64| -> u16 { (a >> 48) as u16 }
        // Windows of the generic address space: `cvta`, and `isspacep` with the window's number in `m`.
        ["cvta.window"] with m |a: u64| -> u64 { a.wrapping_add((m as u64) << crate::memory::WINDOW_SHIFT) }
        ["cvta.to.window"] with m
            |a: u64| -> u64 { a.wrapping_sub((m as u64) << crate::memory::WINDOW_SHIFT) }
        ["isspacep"] with m |a: u64| -> bool { a >> crate::memory::WINDOW_SHIFT == m as u64 }
    }
}
