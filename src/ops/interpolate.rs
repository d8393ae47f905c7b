//! A point on the line between two tensors of one shape: images or logits.

use super::combine::combine;
use super::prelude::*;

/// r * a + (1 - r) * b.
pub fn interpolate(tape: &Tape, a: Var, b: Var, r: f32) -> Result<Var> {
    combine(tape, a, r, b, 1.0 - r)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let case = |name: String, a: Input, b: Input, r: f32| {
        Case::op(
            format!("{name}, r = {r}"),
            [a, b],
            move |tape, v| interpolate(tape, v[0], v[1], r),
            move |x| x[0].iter().zip(&x[1]).map(|(a, b)| r as f64 * a + (1.0 - r as f64) * b).collect(),
        )
    };
    let mut cases: Vec<Case> = ugly_shapes()
        .iter()
        .map(|s| {
            case(format!("interpolate {s:?}"), Input::normal_seeded(s, 1), Input::normal_seeded(s, 2), 0.7)
        })
        .collect();
    let pair = || (Input::normal_seeded(&[3, 7], 1), Input::normal_seeded(&[3, 7], 2));
    for r in [0.0, 0.5, 1.0] {
        let (a, b) = pair();
        cases.push(case("ends and middle".into(), a, b, r));
    }
    let (a, b) = pair();
    cases.push(case("first side constant".into(), a.constant(), b, 0.3));
    let (a, b) = pair();
    cases.push(case("second side constant".into(), a, b.constant(), 0.3));
    cases.push(Case::op(
        "one variable on both sides",
        [pair().0],
        |tape, v| interpolate(tape, v[0], v[0], 0.3),
        |x| x[0].clone(),
    ));
    cases
}
