use super::prelude::*;
pub struct Normalize;
impl Normalize { pub fn new(_: &Device, _: &[f32], _: &[f32], _: usize) -> Result<Normalize> { Ok(Normalize) } pub fn forward(&self, _: &Tape, x: Var) -> Result<Var> { Ok(x) } }
#[cfg(test)] pub fn cases() -> Vec<super::testing::Case> { vec![] }
