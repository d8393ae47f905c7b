use super::prelude::*;
pub struct Augmentation;
impl Augmentation { pub fn none() -> Augmentation { Augmentation } pub fn crop_flip(_: usize, _: u64, _: u32) -> Augmentation { Augmentation } }
pub fn augment(images: &Buffer<u8>, shape: [usize; 3], indices: &Buffer<i32>, scale: &Tensor, _: &Tensor, _: &Augmentation) -> Result<Tensor> {
    let n: usize = shape.iter().product(); let all = images.to_vec()?; let s = scale.to_vec()?[0];
    let v: Vec<f32> = indices.to_vec()?.iter().flat_map(|i| all[*i as usize * n..][..n].iter().map(|b| *b as f32 * s).collect::<Vec<_>>()).collect();
    Tensor::from_slice(images.device(), &[indices.len(), shape[0], shape[1], shape[2]], &v)
}
pub fn gather_labels(labels: &Buffer<i32>, indices: &Buffer<i32>) -> Result<Buffer<i32>> {
    let all = labels.to_vec()?; Buffer::from_slice(labels.device(), &indices.to_vec()?.iter().map(|i| all[*i as usize]).collect::<Vec<_>>())
}
#[cfg(test)] pub fn cases() -> Vec<super::testing::Case> { vec![] }
