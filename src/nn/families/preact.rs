//! Pre-activation ResNet (He et al. 2016b); a convolutional shortcut reads relu(bn1(x)).

use super::{Arch, Layers};
use crate::error::Result;
use crate::nn::layers::{BnRelu, Builder};
use crate::nn::residual::{BlockSize, PreActivation, Size, layer_name, stages};

pub const ARCHITECTURES: &[Arch] = &[Arch {
    name: "preact-resnet18",
    about: "pre-activation ResNet-18",
    layers: |builder| layers(builder, Size { width: 64, stages: 4, blocks: 2 }),
}];

/// A network of this size.
pub fn layers(builder: &mut Builder, size: Size) -> Result<Layers> {
    let stem = Box::new(builder.stem("conv1", size.width)?);
    let (stages, channels) = stages(builder, size.width, size, layer_name, block)?;
    let last = Some(BnRelu::boxed(builder.batch_norm("bn", channels)?));
    Ok(Layers { stem, stages, last, classifier: builder.classifier("linear", channels)? })
}

/// A block, whose shortcut is a convolution where the shape changes, and its number of channels.
fn block(builder: &mut Builder, size: BlockSize) -> Result<(PreActivation, usize)> {
    let changes = size.stride != 1 || size.cin != size.channels;
    let block = PreActivation::new(builder, size, changes.then_some("shortcut.0"))?;
    Ok((block, size.channels))
}
