//! The range of a numeric key: bounds that are whole numbers, each included or not.

use std::ops::{Bound, RangeBounds};
use std::slice;

use serde_json::Value as Json;

use super::value::{Value, magnitude, text_of};
use crate::error::{Error, Result};

/// The numbers above `low`.
pub fn above(low: i32) -> (Bound<i32>, Bound<i32>) {
    (Bound::Excluded(low), Bound::Unbounded)
}

/// The numbers between two, both excluded.
pub fn inside(low: i32, high: i32) -> (Bound<i32>, Bound<i32>) {
    (Bound::Excluded(low), Bound::Excluded(high))
}

/// Checks every number of `value`, the value of `key`.
///
/// Errors: [`Error::Value`] says which values are allowed.
pub fn check(key: &'static str, value: &impl Value, range: impl RangeBounds<i32>) -> Result<()> {
    let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
    let wide = (bounds.0.map(f64::from), bounds.1.map(f64::from));
    let recorded = value.json();
    let numbers = recorded.as_array().map_or(slice::from_ref(&recorded), Vec::as_slice);
    // NaN is recorded as none, which is no number.
    let lies_in = |number: &Json| magnitude(&text_of(number)?).map(|number| number.lies_in(wide));
    if numbers.iter().all(|number| lies_in(number) == Some(true)) {
        return Ok(());
    }
    use Bound::{Excluded, Included, Unbounded};
    let allowed = match bounds {
        (Included(0), Unbounded) => "must not be negative".into(),
        (Included(low), Unbounded) => format!("must be {low} or more"),
        (Excluded(low), Unbounded) => format!("must be above {low}"),
        (Included(low), Included(high)) if high == low + 1 && recorded.is_u64() => {
            format!("must be {low} or {high}")
        }
        (Included(low), Included(high)) => format!("must lie between {low} and {high}"),
        (Included(low), Excluded(high)) => format!("must be at least {low} and below {high}"),
        (Excluded(low), Excluded(high)) => format!("must lie between {low} and {high}, both excluded"),
        _ => format!("must lie in {bounds:?}"),
    };
    Err(Error::value(key, text_of(&recorded).unwrap_or_default(), allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_included_or_not() {
        let good = |value: f64, range: (Bound<i32>, Bound<i32>)| check("k", &value, range).is_ok();
        assert!(good(1e-9, above(0)) && !good(0.0, above(0)));
        assert!(good(0.999, inside(0, 1)) && !good(1.0, inside(0, 1)) && !good(0.0, inside(0, 1)));
        assert!(check("k", &1.0, 0..=1).is_ok() && check("k", &0.0, 0..1).is_ok());
        let message = |problem: Result<()>| problem.unwrap_err().to_string();
        assert_eq!(message(check("k", &1.0, 0..1)), "k = 1: must be at least 0 and below 1");
        assert_eq!(message(check("k", &-0.5, 0..)), "k = -0.5: must not be negative");
        assert_eq!(message(check("k", &vec![1.0f32, 0.0], above(0))), "k = 1,0: must be above 0");
        assert_eq!(message(check("k", &4usize, 2..=3)), "k = 4: must be 2 or 3");
    }
}
