//! What a training step consists of: the sizes of its convolutions and batch norms, read off its launches.

use super::work::Job;
use crate::device::Device;
use crate::device::trace::{Launch, Work};
use crate::error::{Error, Result};
use crate::ops::conv2d::{Conv, Precision};

/// Something that layers of a network have in common, and the layers, by their names in PyTorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<T> {
    pub what: T,
    pub layers: Vec<String>,
}

/// The work of a training step with n images, each distinct one once, in the order of the forward pass.
#[derive(Debug)]
pub struct StepKernels {
    pub convolutions: Vec<Shared<Conv>>,
    /// Pixels of all images, and channels.
    pub norms: Vec<Shared<[usize; 2]>>,
    /// Pixels of an image and channels of the features that are pooled.
    pub pooled: [usize; 2],
}

impl StepKernels {
    /// Of a step of PGD adversarial training, of which nothing is run.
    pub fn of(device: &Device, job: &Job, n: usize, precision: Precision) -> Result<StepKernels> {
        let mut step = job.step(device, "pgd-at", n, &precision.to_string())?;
        let launches = device.rehearsed(&mut step)?;
        let pooled = launches.iter().find(|launch| launch.kernel.starts_with("global_avg_pool_forward"));
        let pooled = pooled.and_then(|launch| sizes(&launch.work, ["pixels", "channels"]));
        let no_pool = || Error::Internal { what: format!("{} pools no features", job.model) };
        Ok(StepKernels {
            convolutions: shared(&launches, conv),
            norms: shared(&launches, |launch| {
                let applies = launch.kernel.starts_with("batch_norm_apply");
                if applies { sizes(&launch.work, ["rows", "channels"]) } else { None }
            }),
            pooled: pooled.ok_or_else(no_pool)?,
        })
    }
}

fn sizes<const N: usize>(work: &Work, names: [&str; N]) -> Option<[usize; N]> {
    let mut sizes = [0; N];
    for (size, name) in sizes.iter_mut().zip(names) {
        *size = work.size(name)?;
    }
    Some(sizes)
}

/// The sizes of a launch that is a pass of a convolution.
fn conv(launch: &Launch) -> Option<Conv> {
    let work = &launch.work;
    let [images, height, width, in_channels] = sizes(work, ["images", "height", "width", "channels"])?;
    let [out_height, out_width, out_channels] = sizes(work, ["out_height", "out_width", "out_channels"])?;
    let [kernel_height, kernel_width, stride, pad] = sizes(work, ["kernel_h", "kernel_w", "stride", "pad"])?;
    Some(Conv {
        images,
        height,
        width,
        in_channels,
        out_height,
        out_width,
        out_channels,
        kernel_height,
        kernel_width,
        stride,
        pad,
    })
}

/// What `of` finds in launches, each once, in the order of first launches.
fn shared<T: PartialEq>(launches: &[Launch], of: impl Fn(&Launch) -> Option<T>) -> Vec<Shared<T>> {
    let mut found = Vec::<Shared<T>>::new();
    for launch in launches {
        let (Some(what), Some(layer)) = (of(launch), launch.path.layer()) else { continue };
        let place = found.iter().position(|shared| shared.what == what).unwrap_or_else(|| {
            found.push(Shared { what, layers: Vec::new() });
            found.len() - 1
        });
        let layers = &mut found[place].layers;
        if !layers.iter().any(|known| **known == **layer) {
            layers.push(layer.to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::work::jobs;
    use super::*;
    use crate::nn::Arch;
    use crate::nn::families::architectures;
    use crate::nn::{Net, Role, Shape};

    #[test]
    fn every_filter_of_every_network_is_found() {
        let device = Device::host().unwrap();
        for arch in architectures().filter(|arch| !arch.name.contains("34")) {
            let job = jobs(Some(arch.name)).unwrap()[0];
            let found = StepKernels::of(&device, &job, 1, Precision::F32).unwrap();
            let shape =
                Shape { channels: job.channels, height: job.side, classes: 10, mean: vec![], std: vec![] };
            let net = Net::new(&device, Arch::find(arch.name).unwrap(), &shape, 0).unwrap();
            let mut layers: Vec<String> =
                found.convolutions.iter().flat_map(|conv| conv.layers.clone()).collect();
            layers.sort();
            let filters = net.params.iter().filter(|param| param.role == Role::Filter);
            let mut filters: Vec<String> =
                filters.map(|param| param.name.trim_end_matches(".weight").to_owned()).collect();
            filters.sort();
            assert_eq!(layers, filters, "{}", arch.name);
        }
    }

    #[test]
    fn the_sizes_of_resnet18_are_those_of_the_paper() {
        let device = Device::host().unwrap();
        let job = jobs(Some("resnet18")).unwrap()[0];
        let found = StepKernels::of(&device, &job, 2, Precision::Bf16).unwrap();
        let sizes = |shared: &Shared<Conv>| {
            let conv = shared.what;
            [conv.in_channels, conv.out_channels, conv.kernel_height, conv.stride, conv.height]
        };
        let mut sizes: Vec<_> = found.convolutions.iter().map(sizes).collect();
        sizes.sort();
        let expected = [
            [3, 64, 3, 1, 32],
            [64, 64, 3, 1, 32],
            [64, 128, 1, 2, 32],
            [64, 128, 3, 2, 32],
            [128, 128, 3, 1, 16],
            [128, 256, 1, 2, 16],
            [128, 256, 3, 2, 16],
            [256, 256, 3, 1, 8],
            [256, 512, 1, 2, 8],
            [256, 512, 3, 2, 8],
            [512, 512, 3, 1, 4],
        ];
        assert_eq!(sizes, expected);
        let stage1 = &found.convolutions[1];
        assert_eq!(stage1.layers, ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]);
        assert_eq!(found.norms[0].what, [2 * 32 * 32, 64]);
        assert_eq!((found.norms.len(), found.pooled), (4, [4 * 4, 512]));
    }
}
