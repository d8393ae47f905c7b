//! stub
use super::prelude::*;
use super::split::Variant;
use super::subset::Subset;
/// stub
#[allow(clippy::too_many_arguments)]
pub fn dicar(_: &Tape, u: Var, _: (Var, usize), _: (Var, usize), _: &Subset, _: f32, _: f32, _: Variant) -> Result<Var> { Ok(u) }
#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> { vec![] }
