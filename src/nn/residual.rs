//! The common parts of the residual families: stages, blocks, and the network around post-activation blocks.

use super::families::Layers;
use super::layers::{BatchNorm, Builder, Conv, ConvBn, Layer, Pass};
use super::maps::Maps;
use crate::error::Result;
use crate::ops::add::add;

/// The size of a residual network. From one stage to the next the width doubles and the resolution halves.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Channels of the first stage, before a bottleneck's expansion.
    pub width: usize,
    pub stages: usize,
    /// Blocks of a stage.
    pub blocks: usize,
}

/// The size of one block.
#[derive(Clone, Copy, Debug)]
pub struct BlockSize {
    /// Channels that it reads.
    pub cin: usize,
    /// Channels of its convolutions, before a bottleneck's expansion.
    pub channels: usize,
    pub stride: usize,
}

/// The blocks of each stage.
pub type Stages = Vec<Vec<Box<dyn Layer>>>;

/// Adds the blocks of all stages: `name` gives the prefix of block `b` of stage `s`, `block` adds one and
/// returns it with the number of channels that it makes. Returns the stages and the channels of the last.
pub fn stages<B: Layer + 'static>(
    builder: &mut Builder,
    stem: usize,
    size: Size,
    name: fn(usize, usize) -> String,
    block: fn(&mut Builder, BlockSize) -> Result<(B, usize)>,
) -> Result<(Stages, usize)> {
    let (mut stages, mut cin) = (Vec::new(), stem);
    for s in 0..size.stages {
        let mut blocks: Vec<Box<dyn Layer>> = Vec::new();
        for b in 0..size.blocks {
            let stride = if s > 0 && b == 0 { 2 } else { 1 };
            let (made, cout) = block(
                &mut builder.within(&name(s, b)),
                BlockSize { cin, channels: size.width << s, stride },
            )?;
            blocks.push(Box::new(made));
            cin = cout;
        }
        stages.push(blocks);
    }
    Ok((stages, cin))
}

/// The name of a block in most PyTorch code: `layer1.0`.
pub fn layer_name(stage: usize, block: usize) -> String {
    format!("layer{}.{block}", stage + 1)
}

/// A network of post-activation blocks.
pub fn post_activation(
    builder: &mut Builder,
    size: Size,
    block: fn(&mut Builder, BlockSize) -> Result<(PostActivation, usize)>,
) -> Result<Layers> {
    let (conv, bn) = (builder.stem("conv1", size.width)?, builder.batch_norm("bn1", size.width)?);
    let (stages, channels) = stages(builder, size.width, size, layer_name, block)?;
    let classifier = builder.classifier("linear", channels)?;
    let stem = Box::new(builder.pair(conv, bn));
    Ok(Layers { stem, stages, last: None, classifier })
}

/// relu(bn_k(conv_k(... relu(bn_1(conv_1(x))))) + shortcut(x)).
pub struct PostActivation {
    pub convs: Vec<ConvBn>,
    /// `None`: x itself.
    pub shortcut: Option<ConvBn>,
}

impl PostActivation {
    /// The shortcut of a block that makes `cout` channels: a convolution where the shape changes.
    pub fn shortcut(builder: &mut Builder, size: BlockSize, cout: usize) -> Result<Option<ConvBn>> {
        let changes = size.stride != 1 || size.cin != cout;
        let names = ("shortcut.0", "shortcut.1");
        changes.then(|| builder.conv_bn(names, size.cin, cout, 1, size.stride)).transpose()
    }
}

impl Layer for PostActivation {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        let kept = match &self.shortcut {
            Some(shortcut) => shortcut.apply(pass, x, None, false)?,
            None => x,
        };
        let last = self.convs.len() - 1;
        let mut hidden = x;
        for (i, conv) in self.convs.iter().enumerate() {
            let next = conv.apply(pass, hidden, (i == last).then_some(kept), true)?;
            hidden.release(pass.tape, &[x]);
            hidden = next;
        }
        kept.release(pass.tape, &[x]);
        Ok(hidden)
    }
}

/// conv2(relu(bn2(conv1(h)))) + shortcut, with h = relu(bn1(x)); the shortcut is x, or a convolution of h.
pub struct PreActivation {
    bn1: BatchNorm,
    conv1_bn2: ConvBn,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl PreActivation {
    /// Adds a block whose shortcut, if it is a convolution, has the name `shortcut`.
    pub fn new(builder: &mut Builder, size: BlockSize, shortcut: Option<&str>) -> Result<PreActivation> {
        let BlockSize { cin, channels, stride } = size;
        Ok(PreActivation {
            bn1: builder.batch_norm("bn1", cin)?,
            conv1_bn2: builder.conv_bn(("conv1", "bn2"), cin, channels, 3, stride)?,
            conv2: builder.conv("conv2", channels, channels, 3, 1)?,
            shortcut: shortcut.map(|name| builder.conv(name, cin, channels, 1, stride)).transpose()?,
        })
    }
}

impl Layer for PreActivation {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        let activated = self.bn1.relu(pass, x)?;
        let kept = match &self.shortcut {
            Some(conv) => conv.forward(pass, activated)?,
            None => x,
        };
        let hidden = self.conv1_bn2.forward(pass, activated)?;
        activated.release(pass.tape, &[x]);
        let _layer = pass.layer(self.conv2.weight);
        let out = self.conv2.forward(pass, hidden)?;
        hidden.release(pass.tape, &[]);
        let sum = match out {
            Maps::F32(out) => Maps::F32(add(pass.tape, out, kept.f32()?)?),
            Maps::Bf16(out) => Maps::Bf16(add(pass.tape, out, kept.bf16()?)?),
        };
        out.release(pass.tape, &[]);
        kept.release(pass.tape, &[x]);
        Ok(sum)
    }
}
