//! Comparisons of floating-point numbers that NaN cannot pass: for tests, and for distances that are printed.

use std::fmt;

/// Why two lists of numbers are not close.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// The lists have different lengths.
    Length { got: usize, want: usize },
    /// `count` of `of` entries differ, the one at `at` by the largest multiple of its tolerance.
    Entries { count: usize, of: usize, at: usize, got: f64, want: f64 },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Length { got, want } => write!(f, "{got} values instead of {want}"),
            Mismatch::Entries { count, of, at, got, want } => {
                write!(f, "{count} of {of} entries differ, worst at {at}: got {got}, want {want}")
            }
        }
    }
}

/// Whether |got - want| <= absolute + relative |want| for every entry. An infinity is close to itself only,
/// and NaN to nothing.
///
/// Errors: another length; entries that differ.
pub fn close<G, W>(got: &[G], want: &[W], relative: f64, absolute: f64) -> Result<(), Mismatch>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    compare(got, want, relative, absolute, false)
}

/// [`close`] with NaN expected where `want` is NaN, and nowhere else.
pub fn close_with_nan<G, W>(got: &[G], want: &[W], relative: f64, absolute: f64) -> Result<(), Mismatch>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    compare(got, want, relative, absolute, true)
}

fn compare<G, W>(
    got: &[G],
    want: &[W],
    relative: f64,
    absolute: f64,
    nan_is_nan: bool,
) -> Result<(), Mismatch>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    if got.len() != want.len() {
        return Err(Mismatch::Length { got: got.len(), want: want.len() });
    }
    let pairs = || got.iter().zip(want).map(|(got, want)| ((*got).into(), (*want).into()));
    // The difference as a multiple of the tolerance.
    let excess = |(got, want): (f64, f64)| -> f64 {
        if got == want || nan_is_nan && got.is_nan() && want.is_nan() {
            return 0.0;
        }
        let (difference, tolerance) = ((got - want).abs(), absolute + relative * want.abs());
        let ratio = difference / tolerance;
        // A tolerance from a largest value that is infinite or NaN allows nothing.
        if tolerance.is_finite() && !ratio.is_nan() { ratio } else { f64::INFINITY }
    };
    let count = pairs().filter(|pair| excess(*pair) > 1.0).count();
    let worst = pairs().enumerate().max_by(|a, b| excess(a.1).total_cmp(&excess(b.1)));
    match worst {
        Some((at, (got, want))) if count > 0 => {
            Err(Mismatch::Entries { count, of: pairs().len(), at, got, want })
        }
        _ => Ok(()),
    }
}

/// The largest magnitude: 0 of no values, NaN when a value is NaN. `f64::max` would drop the NaN.
pub fn max_abs<T: Into<f64>>(values: impl IntoIterator<Item = T>) -> f64 {
    values.into_iter().fold(0.0, |largest: f64, value| {
        let magnitude = value.into().abs();
        if largest.is_nan() || magnitude <= largest { largest } else { magnitude }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;
    const INFINITY: f64 = f64::INFINITY;

    /// One number against another, with generous tolerances.
    fn alike(got: f64, want: f64) -> bool {
        close(&[0.0, got], &[0.0, want], 0.5, 0.5).is_ok()
    }

    #[test]
    fn nan_is_close_to_nothing() {
        for (got, want) in [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (NAN, INFINITY), (INFINITY, NAN)] {
            assert!(!alike(got, want), "{got} and {want}");
        }
        for tolerance in [NAN, INFINITY] {
            assert!(close(&[1.0], &[2.0], 0.0, tolerance).is_err(), "within {tolerance}");
            assert!(close(&[NAN], &[2.0], 0.0, tolerance).is_err(), "within {tolerance}");
        }
    }

    #[test]
    fn nan_is_expected_where_a_caller_says_so() {
        assert_eq!(close_with_nan(&[1.0, NAN], &[1.0, NAN], 0.0, 0.0), Ok(()));
        for (got, want) in [(NAN, 1.0), (1.0, NAN), (NAN, INFINITY), (INFINITY, NAN)] {
            assert!(close_with_nan(&[got], &[want], 0.5, 0.5).is_err(), "{got} and {want}");
        }
    }

    #[test]
    fn infinities_are_close_to_themselves_only() {
        assert!(alike(INFINITY, INFINITY) && alike(-INFINITY, -INFINITY));
        for (got, want) in
            [(INFINITY, -INFINITY), (-INFINITY, INFINITY), (INFINITY, 1.0), (f64::MAX, INFINITY)]
        {
            assert!(!alike(got, want), "{got} and {want}");
        }
    }

    #[test]
    fn tolerances_add_up() {
        let within = |got: f64, relative, absolute| close(&[got], &[-8.0], relative, absolute).is_ok();
        assert!(within(-8.75, 0.0625, 0.25) && !within(-8.751, 0.0625, 0.25));
        assert!(within(-8.0, 0.0, 0.0) && !within((-8.0f64).next_up(), 0.0, 0.0));
        // float32 against float64.
        assert_eq!(close(&[0.1f32], &[0.1f64], 1e-7, 0.0), Ok(()));
        assert!(close(&[0.1f32], &[0.1f64], 0.0, 0.0).is_err());
    }

    #[test]
    fn tiny_values_are_compared_too() {
        let tiny = f64::from(f32::from_bits(1));
        assert!(close(&[tiny], &[0.0], 1e-3, 0.0).is_err() && close(&[0.0], &[tiny], 1e-3, 0.0).is_err());
        assert_eq!(close(&[0.0], &[-0.0], 0.0, 0.0), Ok(()));
        assert_eq!(close(&[tiny], &[0.0], 0.0, tiny), Ok(()));
    }

    #[test]
    fn the_worst_entry_is_reported() {
        let problem = close(&[1.0, 2.5, 9.0, 4.0], &[1.0, 2.0, 3.0, 4.0], 0.1, 0.0).unwrap_err();
        assert_eq!(problem.to_string(), "2 of 4 entries differ, worst at 2: got 9, want 3");
        let problem = close(&[9.0, NAN, 9.0], &[1.0; 3], 0.1, 0.0).unwrap_err();
        assert_eq!(problem.to_string(), "3 of 3 entries differ, worst at 1: got NaN, want 1");
    }

    #[test]
    fn lengths_must_agree() {
        let problem = close(&[1.0, 2.0], &[1.0], 1.0, 1.0).unwrap_err();
        assert_eq!(
            (problem.to_string().as_str(), problem),
            ("2 values instead of 1", Mismatch::Length { got: 2, want: 1 })
        );
        assert_eq!(close::<f32, f64>(&[], &[], 0.0, 0.0), Ok(()));
    }

    #[test]
    fn the_largest_magnitude_is_nan_when_a_value_is() {
        assert_eq!(max_abs([1.0, -3.0, 2.0]), 3.0);
        assert_eq!(max_abs([-INFINITY, 1.0]), INFINITY);
        assert_eq!(max_abs(Vec::<f32>::new()), 0.0);
        for values in [[NAN, 1.0, 2.0], [1.0, NAN, 2.0], [1.0, 2.0, NAN], [INFINITY, NAN, INFINITY]] {
            assert!(max_abs(values).is_nan(), "{values:?}");
        }
    }
}
