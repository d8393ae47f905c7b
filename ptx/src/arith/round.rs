//! Rounding: directed modes of single precision, flushes, and the 16-bit and TF32 formats.

/// Modifiers of floating-point instructions, in `Operands::arg`.
pub const ROUND: u32 = 3;
pub const NEAREST: u32 = 0;
pub const ZERO: u32 = 1;
pub const DOWN: u32 = 2;
pub const UP: u32 = 3;
pub const FTZ: u32 = 4;
pub const SAT: u32 = 8;
pub const RELU: u32 = 16;
/// `.NaN` of `min` and `max`: a NaN wins.
pub const NAN: u32 = 32;
pub const XORSIGN_ABS: u32 = 64;
/// Nearest, ties away from zero (`.rna`).
pub const AWAY: u32 = 128;
pub const SATFINITE: u32 = 256;

/// The NaN of every single-precision result. On integers: to the compiler one NaN is as good as another.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// A subnormal number as the zero of its sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { x }
}

/// To [0, 1]; NaN becomes 0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

#[inline(always)]
fn below(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if x > 0.0 {
        bits - 1
    } else if x == 0.0 {
        0x8000_0001
    } else {
        bits + 1
    })
}

/// Rounds the exact `sum + error` to single precision; `error` is at most half a unit of `sum`'s last place.
///
/// To nearest through double precision would round twice, so nearest belongs to the hardware's own operation
/// and this function does the directed modes only.
#[inline(always)]
pub fn directed(sum: f64, error: f64, mode: u32) -> f32 {
    let near = sum as f32;
    if near.is_nan() || sum.is_infinite() {
        return near;
    }
    let difference = near as f64 - sum;
    // The sign of (near - exact).
    let high = difference > 0.0 || (difference == 0.0 && error < 0.0);
    let low = difference < 0.0 || (difference == 0.0 && error > 0.0);
    let negative = sum < 0.0 || (sum == 0.0 && error < 0.0);
    let down = mode == DOWN || (mode == ZERO && !negative);
    if down && high {
        below(near)
    } else if !down && low {
        -below(-near)
    } else {
        near
    }
}

/// a·b + c in a directed mode: the product is exact in double precision, and the error of the sum is known.
#[inline(always)]
pub fn fma_directed(a: f32, b: f32, c: f32, mode: u32) -> f32 {
    let product = a as f64 * b as f64;
    let (sum, error) = two_sum(product, c as f64);
    if sum == 0.0 && error == 0.0 && mode == DOWN {
        // The sum of opposite numbers is -0 when rounding down, and that of two zeros keeps their sign.
        let positive = product.is_sign_positive() && c.is_sign_positive();
        return if positive { 0.0 } else { -0.0 };
    }
    directed(sum, if error.is_nan() { 0.0 } else { error }, mode)
}

#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let virtual_b = sum - a;
    (sum, (a - (sum - virtual_b)) + (b - virtual_b))
}

/// a/b in a directed mode. The residual of the nearest quotient says on which side it lies.
#[inline(always)]
pub fn divide_directed(a: f32, b: f32, mode: u32) -> f32 {
    let quotient = a as f64 / b as f64;
    if quotient == 0.0 || !quotient.is_finite() {
        return quotient as f32;
    }
    let residual = (-quotient).mul_add(b as f64, a as f64);
    directed(quotient, residual * (b as f64).signum(), mode)
}

#[inline(always)]
pub fn sqrt_directed(a: f32, mode: u32) -> f32 {
    let root = (a as f64).sqrt();
    if root == 0.0 || !root.is_finite() {
        return root as f32;
    }
    let residual = (-root).mul_add(root, a as f64);
    directed(root, residual, mode)
}

/// a·b + c rounded to odd in double precision, so that a later rounding to a narrow format is exact.
#[inline(always)]
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    // The operands are narrow, so the product is exact.
    let (sum, error) = two_sum(a * b, c);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// A narrow format of IEEE's kind.
#[derive(Clone, Copy)]
pub struct Format {
    /// Bits of the significand, the hidden one included.
    pub precision: i32,
    /// The exponent of the smallest normal number, and of the largest.
    pub least: i32,
    pub most: i32,
}

pub const HALF: Format = Format { precision: 11, least: -14, most: 15 };
pub const BRAIN: Format = Format { precision: 8, least: -126, most: 127 };
pub const TF32: Format = Format { precision: 11, least: -126, most: 127 };

/// Rounds a double to a narrow format; the result is still a double. Modes as in `Operands::arg`.
#[inline(always)]
pub fn narrow(x: f64, format: Format, mode: u32) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(format.least);
    // One unit of the last place; exact scaling by a power of two.
    let unit = f64::from_bits(((exponent - (format.precision - 1) + 1023) as u64) << 52);
    let scaled = x / unit;
    let rounded = if mode & AWAY != 0 {
        scaled.round()
    } else {
        match mode & ROUND {
            NEAREST => scaled.round_ties_even(),
            ZERO => scaled.trunc(),
            DOWN => scaled.floor(),
            _ => scaled.ceil(),
        }
    };
    let result = rounded * unit;
    let largest = (2.0 - 2f64.powi(1 - format.precision)) * 2f64.powi(format.most);
    if result.abs() > largest {
        let toward_zero =
            mode & ROUND == ZERO || (mode & ROUND == DOWN && x > 0.0) || (mode & ROUND == UP && x < 0.0);
        let bound = if mode & SATFINITE != 0 || toward_zero { largest } else { f64::INFINITY };
        return bound.copysign(x);
    }
    if rounded == 0.0 { 0f64.copysign(x) } else { result }
}

/// The bits of a half-precision number; NaN is 0x7fff.
#[inline(always)]
pub fn to_half(x: f64, mode: u32) -> u16 {
    let x = if mode & RELU != 0 && !(x > 0.0) && !x.is_nan() { 0.0 } else { x };
    if x.is_nan() {
        return 0x7fff;
    }
    let value = narrow(x, HALF, mode);
    let sign = (value.is_sign_negative() as u16) << 15;
    let magnitude = value.abs();
    if magnitude.is_infinite() {
        return sign | 0x7c00;
    }
    if magnitude < 2f64.powi(-14) {
        return sign | (magnitude * 2f64.powi(24)) as u16;
    }
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) as i32 - 1023 + 15;
    sign | (exponent as u16) << 10 | (bits >> 42 & 0x3ff) as u16
}

#[inline(always)]
pub fn from_half(bits: u16) -> f32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let magnitude = bits as u32 & 0x7fff;
    // Scaling moves the exponent, normal and subnormal alike.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let scaled = if magnitude >= 0x7c00 { f32::from_bits(0x7f80_0000 | magnitude << 13) } else { scaled };
    f32::from_bits(scaled.to_bits() | sign)
}

/// The bits of a bfloat16 number; NaN is 0x7fff.
#[inline(always)]
pub fn to_brain(x: f64, mode: u32) -> u16 {
    let x = if mode & RELU != 0 && !(x > 0.0) && !x.is_nan() { 0.0 } else { x };
    if x.is_nan() {
        return 0x7fff;
    }
    ((narrow(x, BRAIN, mode) as f32).to_bits() >> 16) as u16
}

#[inline(always)]
pub fn from_brain(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// A TF32 number in the high bits of a single-precision one.
#[inline(always)]
pub fn to_tf32(x: f32, mode: u32) -> u32 {
    let x = if mode & RELU != 0 && !(x > 0.0) && !x.is_nan() { 0.0 } else { x };
    if x.is_nan() {
        return 0x7fff_ffff;
    }
    (narrow(x as f64, TF32, mode) as f32).to_bits()
}
