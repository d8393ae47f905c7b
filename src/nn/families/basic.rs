//! Post-activation ResNet of two 3x3 convolutions a block (He et al. 2016, the CIFAR form).

use super::{Arch, Layers};
use crate::error::Result;
use crate::nn::layers::Builder;
use crate::nn::residual::{BlockSize, PostActivation, Size, post_activation};

pub const ARCHITECTURES: &[Arch] = &[
    Arch {
        name: "resnet-mini",
        about: "ResNet of width 16 with one BasicBlock in each of three stages, for small images",
        layers: |builder| layers(builder, Size { width: 16, stages: 3, blocks: 1 }),
    },
    Arch {
        name: "resnet18",
        about: "ResNet-18 for CIFAR, post-activation BasicBlocks",
        layers: |builder| layers(builder, Size { width: 64, stages: 4, blocks: 2 }),
    },
];

/// A network of this size.
pub fn layers(builder: &mut Builder, size: Size) -> Result<Layers> {
    post_activation(builder, size, block)
}

/// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), and its number of channels.
fn block(builder: &mut Builder, size: BlockSize) -> Result<(PostActivation, usize)> {
    let BlockSize { cin, channels, stride } = size;
    let convs = vec![
        builder.conv_bn(("conv1", "bn1"), cin, channels, 3, stride)?,
        builder.conv_bn(("conv2", "bn2"), channels, channels, 3, 1)?,
    ];
    let shortcut = PostActivation::shortcut(builder, size, channels)?;
    Ok((PostActivation { convs, shortcut }, channels))
}
