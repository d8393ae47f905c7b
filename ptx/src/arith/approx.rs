//! Approximate functions: computed in double precision and rounded, so within every bound of the ISA.

use super::round::{canonical, flush};

/// 2^x. The fraction of x lies in [-1/2, 1/2], where 13 terms of the series of e^(x ln 2) leave 1e-17.
/// Exact for integers, as the hardware is.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let wide = x as f64;
    let bounded = if wide < -400.0 { -400.0 } else { wide };
    let bounded = if bounded > 400.0 { 400.0 } else { bounded };
    let whole = bounded.round_ties_even();
    let t = (bounded - whole) * std::f64::consts::LN_2;
    let mut sum = 1.0;
    let mut n = 13.0;
    while n > 0.0 {
        sum = sum * t / n + 1.0;
        n -= 1.0;
    }
    let scale = f64::from_bits(((whole as i32 + 1023) as u64) << 52);
    canonical(if x.is_nan() { x } else { (sum * scale) as f32 })
}

/// a/b, with the zero that the ISA gives for divisors beyond 2^126.
#[inline(always)]
pub fn divide(a: f32, b: f32) -> f32 {
    let large = b.abs() > f32::from_bits(253 << 23) && b.is_finite();
    canonical(if large && a.is_finite() {
        (a * 0.0) * b.signum()
    } else if large {
        f32::NAN
    } else {
        a / b
    })
}

macro_rules! unary {
    ($($name:ident: $f:expr;)*) => {
        $(#[inline(always)]
        pub fn $name(x: f32) -> f32 {
            let f: fn(f64) -> f64 = $f;
            canonical(f(x as f64) as f32)
        })*
    };
}

unary! {
    log2: |x| x.log2();
    reciprocal_root: |x| 1.0 / x.sqrt();
    sine: |x| x.sin();
    cosine: |x| x.cos();
    hyperbolic_tangent: |x| x.tanh();
}

#[inline(always)]
pub fn with_flush(x: f32, f: fn(f32) -> f32) -> f32 {
    flush(f(flush(x)))
}
