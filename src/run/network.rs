//! A network from a weight file.

use crate::data::ImageShape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::weights::{Normalisation, WeightFile};
use crate::nn::{Arch, Net, Shape};
use std::path::{Path, PathBuf};

/// Facts about a weight file that go before its metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightOverrides {
    /// The architecture.
    pub model: Option<String>,
    /// The normalisation of images, per channel.
    pub mean: Option<Vec<f32>>,
    pub std: Option<Vec<f32>>,
}

/// The number of classes that data is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    Exactly(usize),
    /// The labels of a file need not contain every class.
    AtLeast(usize),
}

/// The network of a weight file, with its weights, for data of these classes and images; and the file with
/// the metadata that describe this network.
///
/// A file without metadata needs `overrides` with an architecture: it is then taken for a network without
/// normalisation, unless they give one, with the classes and channels of its last and first layer.
///
/// Errors: metadata that are missing or do not fit the data; an unknown architecture, and every key that does
/// not fit it.
pub fn open(
    device: &Device,
    mut file: WeightFile,
    overrides: &WeightOverrides,
    data: (Classes, ImageShape),
) -> Result<(Net, WeightFile)> {
    let lacks = |what: &str| {
        let remedy = "expected a checkpoint of saddle train, or --model NAME";
        Error::file(&file.path, format!("its metadata does not say {what}; {remedy}"))
    };
    let arch = match (&overrides.model, file.metadata.get("arch")) {
        (Some(model), _) => Arch::find(model)?,
        (None, Some(arch)) => file.in_metadata(Arch::find(arch))?,
        (None, None) => return Err(lacks("what network these weights are for")),
    };
    let stated = file.normalisation()?;
    let described = overrides.model.is_some() || overrides.mean.is_some();
    let stated = stated.or(described.then(Normalisation::default));
    let stated = stated.ok_or_else(|| lacks("how images are normalised"))?;
    let normalisation = Normalisation {
        mean: overrides.mean.clone().unwrap_or(stated.mean),
        std: overrides.std.clone().unwrap_or(stated.std),
    };
    let classes = fitting_classes(&file, data)?;
    let (Normalisation { mean, std }, (_, ImageShape { height, channels, .. })) =
        (normalisation.clone(), data);
    let mut net = Net::new(device, arch, &Shape { channels, height, classes, mean, std }, 0)?;
    load(&mut net, device, &file)?;
    // From here on the metadata describe the network; the messages before are about the file's own.
    file.set_normalisation(&normalisation);
    file.metadata.insert("arch".into(), arch.name.into());
    Ok((net, file))
}

/// The note about a file's own normalisation that `overrides` replace, if they do.
pub fn replaced_normalisation(file: &WeightFile, overrides: &WeightOverrides) -> Option<String> {
    let layer = file.layer.as_ref()?;
    let differs = |given: &Option<Vec<f32>>, own: &Vec<f32>| given.as_ref().is_some_and(|given| given != own);
    let replaced = differs(&overrides.mean, &layer.mean) || differs(&overrides.std, &layer.std);
    let path = file.path.display();
    replaced.then(|| format!("note: {path}: its own layer {layer}; --mean and --std go before it"))
}

/// The number of classes of the network in `file`.
///
/// Errors: its classes or images are not those of the data.
fn fitting_classes(file: &WeightFile, (wanted, images): (Classes, ImageShape)) -> Result<usize> {
    let (Classes::Exactly(of_data) | Classes::AtLeast(of_data)) = wanted;
    // The weights do not tell the height and width of an image.
    let stated = file.metadata.get("num_classes").and_then(|text| text.parse().ok());
    let classes = size(file, &["linear.weight", "fc.weight"], 0).or(stated).unwrap_or(of_data);
    let channels = size(file, &["conv1.weight"], 1).unwrap_or(images.channels);
    let ImageShape { height, width, .. } = images;
    let (input, of_images) = (file.metadata.get("input"), format!("{height}x{width}x{}", images.channels));
    let (classes_fit, known) = match wanted {
        Classes::Exactly(_) => (classes == of_data, format!("{of_data} classes")),
        Classes::AtLeast(_) => (classes >= of_data, format!("at least {of_data} classes")),
    };
    if classes_fit && channels == images.channels && input.is_none_or(|input| *input == of_images) {
        return Ok(classes);
    }
    let own = input.map_or_else(|| format!("{channels} channels"), String::clone);
    let network = format!("the network is for {classes} classes and images of {own}");
    Err(Error::file(&file.path, format!("{network}, the data has {known} and images of {of_images}")))
}

/// Puts the weights of a file into a network.
///
/// Errors: every key that does not fit the network, which is left alone then.
pub fn load(net: &mut Net, device: &Device, file: &WeightFile) -> Result<()> {
    file.check(&net.expected())?;
    net.train_passes = file.ints.values().copied().max().unwrap_or(0);
    net.import(device, |name| file.tensors.get(name).map(|(_, values)| values.clone()))
}

/// The weights that a run of a network of `shape` starts from: a file's, or those of a run directory's best
/// or last checkpoint.
///
/// Errors: as [`WeightFile::read`]; weights of a network that normalises images otherwise than `shape` says.
pub fn initial_weights(path: &Path, shape: &Shape) -> Result<WeightFile> {
    let file = WeightFile::read(&weight_file(path)?)?;
    let own = Normalisation { mean: shape.mean.clone(), std: shape.std.clone() };
    match file.normalisation()? {
        Some(other) if other != own => {
            Err(Error::file(&file.path, format!("its network {other}, this one {own}")))
        }
        _ => Ok(file),
    }
}

/// A dimension of the first of these tensors that a file has.
fn size(file: &WeightFile, names: &[&str], dimension: usize) -> Option<usize> {
    let (shape, _) = names.iter().find_map(|name| file.tensors.get(*name))?;
    shape.get(dimension).copied()
}

/// The weight file that a path stands for: of a run directory its `best` checkpoint, else `last`.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ["best", "last"].map(|name| path.join("checkpoints").join(format!("{name}.safetensors")));
    let problem = "holds no checkpoints/best.safetensors or last.safetensors; \
                   expected a weight file or a run directory";
    names.into_iter().find(|file| file.exists()).ok_or_else(|| Error::file(path, problem))
}
