//! Approximate functions: computed in double precision and rounded, so within every bound of the ISA.

use super::round::{canonical, flush};

/// (ln 2)^n / n! for n from 13 down to 0: the series of 2^x, which leaves 1e-17 for x in [-1/2, 1/2].
const SERIES: [f64; 14] = [
    1.3691488853904124e-12,
    2.5678435993488196e-11,
    4.44553827187081e-10,
    7.054911620801121e-09,
    1.0178086009239696e-07,
    1.3215486790144305e-06,
    1.5252733804059838e-05,
    0.00015403530393381606,
    0.0013333558146428441,
    0.009618129107628477,
    0.055504108664821576,
    0.2402265069591007,
    std::f64::consts::LN_2,
    1.0,
];

/// 1.5 · 2^52.
const WHOLE: f64 = 6755399441055744.0;

/// 2^x, by its whole part and the series of the rest. Exact for integers, as the hardware is.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let wide = x as f64;
    let bounded = if wide < -400.0 { -400.0 } else { wide };
    let bounded = if bounded > 400.0 { 400.0 } else { bounded };
    // The sum has no bits for a fraction: its low bits are the whole part as an integer.
    let shifted = bounded + WHOLE;
    let rest = bounded - (shifted - WHOLE);
    let mut sum = 0.0;
    for term in SERIES {
        sum = sum * rest + term;
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
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
