use super::prelude::*; use crate::rng::{Key, Stream};
pub fn uniform_linf(x: &Tensor, eps: f32, key: Key, _images: &Buffer<i32>) -> Result<Tensor> {
    let mut s = Stream::new(key.seed + key.epoch as u64 * 1000 + key.purpose as u64, "start");
    let v: Vec<f32> = x.to_vec()?.iter().map(|p| (p + eps * (2.0 * s.uniform() - 1.0)).clamp(0.0, 1.0)).collect();
    Tensor::from_slice(x.device(), x.shape(), &v)
}
pub fn uniform_l2(x: &Tensor, eps: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> { uniform_linf(x, eps / (x.len() as f32).sqrt(), key, images) }
#[cfg(test)] pub fn cases() -> Vec<super::testing::Case> { vec![] }
