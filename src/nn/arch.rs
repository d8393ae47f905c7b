//! The architectures by name.

use crate::error::{Error, Result};

/// Which kind of block a network is made of, and with it the names of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Post-activation ResNet of two 3x3 convolutions a block (He et al. 2016, the CIFAR form).
    Basic,
    /// Post-activation ResNet of 1x1, 3x3, 1x1 convolutions a block, four times as wide at its end.
    Bottleneck,
    /// Pre-activation ResNet (He et al. 2016b); a convolutional shortcut reads relu(bn1(x)).
    PreAct,
    /// WideResNet (Zagoruyko and Komodakis 2016).
    Wide,
}

/// Blocks of one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Channels of its convolutions (before a bottleneck's expansion).
    pub channels: usize,
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
}

/// Everything that decides a network's layers, but for the input and the number of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub family: Family,
    /// Channels of the first convolution.
    pub stem: usize,
    pub stages: Vec<Stage>,
}

/// A named architecture.
pub struct Arch {
    pub name: &'static str,
    /// One line for `saddle models`.
    pub about: &'static str,
    spec: fn() -> Spec,
}

static ARCHITECTURES: [Arch; 6] = [
    Arch {
        name: "resnet-mini",
        about: "ResNet of width 16 with one BasicBlock in each of three stages, for small images",
        spec: || resnet(Family::Basic, 16, 3, 1),
    },
    Arch {
        name: "resnet18",
        about: "ResNet-18 for CIFAR, post-activation BasicBlocks",
        spec: || resnet(Family::Basic, 64, 4, 2),
    },
    Arch {
        name: "resnet18-bottleneck",
        about: "Bottleneck blocks [2,2,2,2]: what the released RPAT and RAAT code calls ResNet-18",
        spec: || resnet(Family::Bottleneck, 64, 4, 2),
    },
    Arch {
        name: "preact-resnet18",
        about: "pre-activation ResNet-18",
        spec: || resnet(Family::PreAct, 64, 4, 2),
    },
    Arch { name: "wrn-28-10", about: "WideResNet of depth 28, widening factor 10", spec: || wide(28, 10) },
    Arch { name: "wrn-34-10", about: "WideResNet of depth 34, widening factor 10", spec: || wide(34, 10) },
];

/// Every architecture.
pub fn architectures() -> &'static [Arch] {
    &ARCHITECTURES
}

impl Arch {
    /// The architecture of this name; underscores and hyphens both work. Errors name the nearest.
    pub fn find(name: &str) -> Result<&'static Arch> {
        let wanted = name.trim().to_lowercase().replace('_', "-");
        let found = ARCHITECTURES.iter().find(|arch| arch.name == wanted);
        found.ok_or_else(|| Error::unknown("model", name, ARCHITECTURES.iter().map(|arch| arch.name)))
    }

    pub fn spec(&self) -> Spec {
        (self.spec)()
    }
}

/// Stages whose width doubles and whose resolution halves from one to the next.
fn resnet(family: Family, width: usize, stages: usize, blocks: usize) -> Spec {
    let stage = |i: usize| Stage { channels: width << i, blocks, stride: if i == 0 { 1 } else { 2 } };
    Spec { family, stem: width, stages: (0..stages).map(stage).collect() }
}

fn wide(depth: usize, factor: usize) -> Spec {
    let mut spec = resnet(Family::Wide, 16 * factor, 3, (depth - 4) / 6);
    spec.stem = 16;
    spec
}
