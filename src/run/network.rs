//! A network from a weight file.

use crate::data::ImageShape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::weights::{Normalisation, WeightFile};
use crate::nn::{Arch, Net, Shape};
use std::path::{Path, PathBuf};

/// Puts the weights of a file into a network. Errors list every key that does not fit; nothing is loaded
/// then.
pub fn load(net: &mut Net, device: &Device, file: &WeightFile) -> Result<()> {
    file.check(&net.expected())?;
    net.train_passes = file.ints.values().copied().max().unwrap_or(0);
    net.import(device, |name| file.tensors.get(name).map(|(_, values)| values.clone()))
}

/// The weights that a run starts from: a file's, or those of a run directory's best or last checkpoint.
///
/// Errors: as [`WeightFile::read`]; weights of a network that normalises images otherwise than `shape` says.
pub fn beginning(path: &Path, shape: &Shape) -> Result<WeightFile> {
    let file = WeightFile::read(&weight_file(path)?)?;
    let own = Normalisation { mean: shape.mean.clone(), std: shape.std.clone() };
    match file.normalisation()? {
        Some(said) if said != own => {
            Err(Error::file(&file.path, format!("its network {said}, this one {own}")))
        }
        _ => Ok(file),
    }
}

/// What is said about a weight file besides its metadata, and goes before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// The architecture.
    pub model: Option<String>,
    /// What images are normalised with.
    pub mean: Option<Vec<f32>>,
    pub std: Option<Vec<f32>>,
    /// The data may lack classes that the network has.
    pub more_classes: bool,
}

/// The network that a weight file's metadata describes, with its weights, for data of so many classes and
/// such images.
///
/// Errors: metadata that is missing or does not fit the data; keys that do not fit the architecture.
pub fn open(device: &Device, path: &Path, data: (usize, ImageShape)) -> Result<(Net, WeightFile)> {
    open_as(device, path, data, &Described::default())
}

/// [`open`] for a file that may lack metadata. A file for which the architecture is given and that says no
/// more is taken for one without normalisation, with the classes and channels of its own first and last
/// layer.
pub fn open_as(
    device: &Device,
    path: &Path,
    (classes, ImageShape { height, width, channels }): (usize, ImageShape),
    described: &Described,
) -> Result<(Net, WeightFile)> {
    let mut file = WeightFile::read(path)?;
    if let Some(model) = &described.model {
        file.metadata.insert("arch".into(), Arch::find(model)?.name.into());
        let facts = [
            ("num_classes", size(&file, &["linear.weight", "fc.weight"], 0)),
            ("mean", Some(String::new())),
            ("std", Some(String::new())),
        ];
        for (key, fact) in facts {
            file.metadata.entry(key.into()).or_insert(fact.unwrap_or_else(|| classes.to_string()));
        }
        // The images' height and width cannot be told from the weights.
        let found = size(&file, &["conv1.weight"], 1).unwrap_or_else(|| channels.to_string());
        file.metadata.entry("input".into()).or_insert(format!("{height}x{width}x{found}"));
    }
    for (key, list) in [("mean", &described.mean), ("std", &described.std)] {
        let text =
            list.as_ref().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        file.metadata.extend(text.map(|text| (key.to_owned(), text)));
    }
    let fact = |key: &str| {
        let problem = || {
            format!(
                "its metadata does not say '{key}'; expected a checkpoint of saddle train, or --model NAME"
            )
        };
        file.metadata.get(key).map(String::as_str).ok_or_else(|| Error::file(path, problem()))
    };
    let arch = Arch::find(fact("arch")?)?;
    let input: Vec<&str> = fact("input")?.split('x').collect();
    let own = |place: usize| input.get(place).copied().unwrap_or_default();
    let found = fact("num_classes")?;
    let own_classes: usize = found.parse().unwrap_or(0);
    let classes_fit = own_classes == classes || described.more_classes && own_classes > classes;
    if !classes_fit || input != [height.to_string(), width.to_string(), channels.to_string()] {
        let (own_height, own_width, own_channels) = (own(0), own(1), own(2));
        let problem = format!(
            "the network is for {found} classes and {own_channels}-channel images of {own_height}x{own_width}, the data set has {classes} \
             classes, {channels} channels and images of {height}x{width}"
        );
        return Err(Error::file(path, problem));
    }
    fact("mean")?;
    fact("std")?;
    Ok((network(device, &file, arch, (own_classes, channels, height))?, file))
}

/// The network of a weight file whose metadata may be missing: `model`, if given, says the architecture, and
/// the classifier how many classes there are. Images are normalised as the metadata says, and not at all if
/// it says nothing.
///
/// Errors: neither says the architecture; keys that do not fit it.
pub fn network_for(
    device: &Device,
    file: &WeightFile,
    model: Option<&str>,
    shape: ImageShape,
) -> Result<Net> {
    let ImageShape { height, width, channels } = shape;
    let name = model.or(file.metadata.get("arch").map(String::as_str));
    let lacks = || {
        Error::file(
            &file.path,
            "its metadata does not say what network these weights are for; add --model NAME",
        )
    };
    let arch = Arch::find(name.ok_or_else(lacks)?)?;
    if let Some((&[_, wanted, ..], _)) =
        file.tensors.get("conv1.weight").map(|(shape, values)| (shape.as_slice(), values))
        && wanted != channels
    {
        let problem = format!("the network is for images of {wanted} channels, these have {channels}");
        return Err(Error::file(&file.path, problem));
    }
    if let Some(own) = file.metadata.get("input")
        && *own != format!("{height}x{width}x{channels}")
    {
        let problem = format!("the network is for images of {own}, these are {height}x{width}x{channels}");
        return Err(Error::file(&file.path, problem));
    }
    network(device, file, arch, (file.classes()?, channels, height))
}

/// A network with the weights of `file`, normalised as its metadata says; `classes`, `channels` and `height`
/// are the data's.
fn network(
    device: &Device,
    file: &WeightFile,
    arch: &Arch,
    (classes, channels, height): (usize, usize, usize),
) -> Result<Net> {
    let Normalisation { mean, std } = file.normalisation()?.unwrap_or_default();
    let shape = Shape { channels, height, classes, mean, std };
    let mut net = Net::new(device, arch, &shape, 0)?;
    load(&mut net, device, file)?;
    Ok(net)
}

/// A dimension of the first of these tensors that a file has.
fn size(file: &WeightFile, names: &[&str], dimension: usize) -> Option<String> {
    let (shape, _) = names.iter().find_map(|name| file.tensors.get(*name))?;
    shape.get(dimension).map(ToString::to_string)
}

/// The weight file that a path stands for: of a run directory its `best` checkpoint, else `last`.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let candidates =
        ["best", "last"].map(|name| path.join("checkpoints").join(format!("{name}.safetensors")));
    let found = candidates.into_iter().find(|file| file.exists());
    found.ok_or_else(|| {
        Error::file(path, "holds no checkpoints/best.safetensors or last.safetensors; expected a weight file or a run directory")
    })
}
