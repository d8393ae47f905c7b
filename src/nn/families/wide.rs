//! WideResNet (Zagoruyko and Komodakis 2016).

use super::{Arch, Layers};
use crate::error::Result;
use crate::nn::layers::{BnRelu, Builder};
use crate::nn::residual::{BlockSize, PreActivation, Size, stages};

pub const ARCHITECTURES: &[Arch] = &[
    Arch {
        name: "wrn-28-10",
        about: "WideResNet of depth 28, widening factor 10",
        layers: |builder| layers(builder, STEM, size(28, 10)),
    },
    Arch {
        name: "wrn-34-10",
        about: "WideResNet of depth 34, widening factor 10",
        layers: |builder| layers(builder, STEM, size(34, 10)),
    },
];

/// Channels of the first convolution.
const STEM: usize = 16;

fn size(depth: usize, factor: usize) -> Size {
    Size { width: STEM * factor, stages: 3, blocks: (depth - 4) / 6 }
}

/// A network of this size, whose first convolution makes `stem` channels.
pub fn layers(builder: &mut Builder, stem: usize, size: Size) -> Result<Layers> {
    let conv1 = Box::new(builder.stem("conv1", stem)?);
    let name = |stage, block| format!("block{}.layer.{block}", stage + 1);
    let (stages, channels) = stages(builder, stem, size, name, block)?;
    let last = Some(BnRelu::boxed(builder.batch_norm("bn1", channels)?));
    Ok(Layers { stem: conv1, stages, last, classifier: builder.classifier("fc", channels)? })
}

/// A block, whose shortcut is a convolution only where the number of channels changes, and its number of
/// channels.
fn block(builder: &mut Builder, size: BlockSize) -> Result<(PreActivation, usize)> {
    let widens = size.cin != size.channels;
    let block = PreActivation::new(builder, size, widens.then_some("convShortcut"))?;
    Ok((block, size.channels))
}
