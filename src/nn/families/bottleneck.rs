//! Post-activation ResNet of 1x1, 3x3, 1x1 convolutions a block, four times as wide at its end (He et al.
//! 2016).

use super::{Arch, Layers};
use crate::error::Result;
use crate::nn::layers::Builder;
use crate::nn::residual::{BlockSize, PostActivation, Size, post_activation};

pub const ARCHITECTURES: &[Arch] = &[Arch {
    name: "resnet18-bottleneck",
    about: "Bottleneck blocks [2,2,2,2]: what the released RPAT and RAAT code calls ResNet-18",
    layers: |builder| layers(builder, Size { width: 64, stages: 4, blocks: 2 }),
}];

/// Channels at a block's end, as a multiple of those inside.
const EXPANSION: usize = 4;

/// A network of this size.
pub fn layers(builder: &mut Builder, size: Size) -> Result<Layers> {
    post_activation(builder, size, block)
}

/// relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x)), and its number of channels.
fn block(builder: &mut Builder, size: BlockSize) -> Result<(PostActivation, usize)> {
    let BlockSize { cin, channels, stride } = size;
    let cout = channels * EXPANSION;
    let convs = vec![
        builder.conv_bn(("conv1", "bn1"), cin, channels, 1, 1)?,
        builder.conv_bn(("conv2", "bn2"), channels, channels, 3, stride)?,
        builder.conv_bn(("conv3", "bn3"), channels, cout, 1, 1)?,
    ];
    let shortcut = PostActivation::shortcut(builder, size, cout)?;
    Ok((PostActivation { convs, shortcut }, cout))
}
