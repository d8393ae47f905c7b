//! The four kinds of residual block.

use super::arch::Family;
use super::layers::{BatchNorm, Builder, Conv, Pass};
use crate::error::Result;
use crate::ops::add::add;
use crate::tape::Var;

/// Channels at a bottleneck's end, as a multiple of those inside.
const EXPANSION: usize = 4;

/// A residual block.
pub enum Block {
    Basic {
        convs: [(Conv, BatchNorm); 2],
        shortcut: Option<(Conv, BatchNorm)>,
    },
    Bottleneck {
        convs: [(Conv, BatchNorm); 3],
        shortcut: Option<(Conv, BatchNorm)>,
    },
    /// PreAct and Wide: they differ in names and in when the shortcut is a convolution.
    PreAct {
        bn1: BatchNorm,
        conv1: Conv,
        bn2: BatchNorm,
        conv2: Conv,
        shortcut: Option<Conv>,
    },
}

impl Block {
    /// Adds the block `prefix` (such as `layer1.0`) that reads `cin` channels; gives it back with the number
    /// of channels that it makes.
    pub fn new(
        builder: &mut Builder,
        family: Family,
        prefix: &str,
        cin: usize,
        channels: usize,
        stride: usize,
    ) -> Result<(Block, usize)> {
        let at = |name: &str| format!("{prefix}.{name}");
        let cout = if family == Family::Bottleneck { channels * EXPANSION } else { channels };
        let projects = stride != 1 || cin != cout;
        let block = match family {
            Family::Basic => Block::Basic {
                convs: [
                    (
                        builder.conv(&at("conv1"), cin, channels, 3, stride)?,
                        builder.batch_norm(&at("bn1"), channels)?,
                    ),
                    (
                        builder.conv(&at("conv2"), channels, channels, 3, 1)?,
                        builder.batch_norm(&at("bn2"), channels)?,
                    ),
                ],
                shortcut: projection(builder, &at("shortcut"), projects, cin, cout, stride)?,
            },
            Family::Bottleneck => Block::Bottleneck {
                convs: [
                    (
                        builder.conv(&at("conv1"), cin, channels, 1, 1)?,
                        builder.batch_norm(&at("bn1"), channels)?,
                    ),
                    (
                        builder.conv(&at("conv2"), channels, channels, 3, stride)?,
                        builder.batch_norm(&at("bn2"), channels)?,
                    ),
                    (
                        builder.conv(&at("conv3"), channels, cout, 1, 1)?,
                        builder.batch_norm(&at("bn3"), cout)?,
                    ),
                ],
                shortcut: projection(builder, &at("shortcut"), projects, cin, cout, stride)?,
            },
            Family::PreAct | Family::Wide => {
                // A WideResNet's shortcut is a convolution only where the number of channels changes.
                let (name, projects) = if family == Family::Wide {
                    ("convShortcut", cin != cout)
                } else {
                    ("shortcut.0", projects)
                };
                Block::PreAct {
                    bn1: builder.batch_norm(&at("bn1"), cin)?,
                    conv1: builder.conv(&at("conv1"), cin, channels, 3, stride)?,
                    bn2: builder.batch_norm(&at("bn2"), channels)?,
                    conv2: builder.conv(&at("conv2"), channels, channels, 3, 1)?,
                    shortcut: if projects {
                        Some(builder.conv(&at(name), cin, cout, 1, stride)?)
                    } else {
                        None
                    },
                }
            }
        };
        Ok((block, cout))
    }

    pub fn forward(&self, pass: &mut Pass, x: Var) -> Result<Var> {
        match self {
            Block::Basic { convs, shortcut } => residual(pass, convs, shortcut, x),
            Block::Bottleneck { convs, shortcut } => residual(pass, convs, shortcut, x),
            Block::PreAct { bn1, conv1, bn2, conv2, shortcut } => {
                let activated = bn1.relu(pass, x)?;
                let kept = match shortcut {
                    Some(conv) => conv.forward(pass, activated)?,
                    None => x,
                };
                let hidden = conv1.bn(pass, bn2, activated, None, true)?;
                let out = conv2.forward(pass, hidden)?;
                add(pass.tape, out, kept)
            }
        }
    }
}

/// relu(bn_k(conv_k(... relu(bn_1(conv_1(x))))) + shortcut(x)).
fn residual(
    pass: &mut Pass,
    convs: &[(Conv, BatchNorm)],
    shortcut: &Option<(Conv, BatchNorm)>,
    x: Var,
) -> Result<Var> {
    let kept = match shortcut {
        Some((conv, bn)) => conv.bn(pass, bn, x, None, false)?,
        None => x,
    };
    let last = convs.len() - 1;
    let mut hidden = x;
    for (i, (conv, bn)) in convs.iter().enumerate() {
        hidden = conv.bn(pass, bn, hidden, (i == last).then_some(kept), true)?;
    }
    Ok(hidden)
}

/// The convolution and batch norm of a post-activation block whose shape changes.
fn projection(
    builder: &mut Builder,
    prefix: &str,
    projects: bool,
    cin: usize,
    cout: usize,
    stride: usize,
) -> Result<Option<(Conv, BatchNorm)>> {
    if !projects {
        return Ok(None);
    }
    Ok(Some((
        builder.conv(&format!("{prefix}.0"), cin, cout, 1, stride)?,
        builder.batch_norm(&format!("{prefix}.1"), cout)?,
    )))
}
