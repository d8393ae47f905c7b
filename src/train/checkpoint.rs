//! Checkpoints: weights that other programs read, and the whole state of a run to go on from.

use super::epoch_stats::Totals;
use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::weights::{Normalisation, WeightFile};
use crate::nn::{Net, Role, Shape};
use crate::run::network::load;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The prefixes of momentum buffers and of the averaged network in a state file.
const MOMENTUM: &str = "momentum.";
const AVERAGE: &str = "average.";

/// Where a run stands: everything but the tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are finished.
    pub epochs_done: usize,
    /// Steps of the next epoch that are done.
    pub steps_done: usize,
    /// Whether the average has taken up the epoch of those steps, all of which are done then.
    #[serde(default)]
    pub averaged: bool,
    /// What those steps added up so far.
    pub totals: Totals,
    /// 1-based epoch and robust accuracy (percent) of the best checkpoint.
    pub best: Option<(usize, f64)>,
    /// Seconds of training, without evaluation, of this and earlier sessions.
    pub train_seconds: f64,
    pub images_trained: usize,
    /// Wall time of earlier sessions.
    pub seconds: f64,
}

/// What the metadata of a weight file says about where it comes from.
pub struct Origin<'a> {
    pub config: &'a Config,
    pub recipe: &'a str,
    pub shape: &'a Shape,
    pub image_width: usize,
    /// 1-based.
    pub epoch: usize,
    /// How this checkpoint was chosen: `best pgd10 on heldout`, `last`.
    pub selection: String,
}

/// Writes a network's weights with their metadata.
pub fn save(net: &Net, origin: &Origin, path: &Path) -> Result<()> {
    weights(net, origin)?.write(path)
}

fn weights(net: &Net, origin: &Origin) -> Result<WeightFile> {
    let mut file = WeightFile::default();
    for (name, shape, values) in net.export()? {
        if let Some(stem) = name.strip_suffix("running_var") {
            file.ints.insert(format!("{stem}num_batches_tracked"), net.train_passes);
        }
        file.tensors.insert(name, (shape, values));
    }
    let Origin { config, shape, .. } = origin;
    let facts = [
        ("arch", config.model.clone()),
        ("variant", "default".into()),
        ("num_classes", shape.classes.to_string()),
        ("input", format!("{}x{}x{}", shape.height, origin.image_width, shape.channels)),
        ("norm", config.norm.to_string()),
        ("eps", config.eps.to_string()),
        ("method", config.method.clone()),
        ("dataset", config.dataset.clone()),
        ("recipe", origin.recipe.into()),
        ("epoch", origin.epoch.to_string()),
        ("seed", config.seed.to_string()),
        ("selection", origin.selection.clone()),
        ("commit", env!("SADDLE_COMMIT").into()),
    ];
    file.metadata.extend(facts.map(|(key, value)| (key.to_owned(), value)));
    file.set_normalisation(&Normalisation { mean: shape.mean.clone(), std: shape.std.clone() });
    Ok(file)
}

/// Writes weights, momentum and progress: all that a run needs to go on with the same bytes.
pub fn save_state(
    net: &Net,
    wa: Option<&Net>,
    origin: &Origin,
    progress: &Progress,
    path: &Path,
) -> Result<()> {
    let mut file = weights(net, origin)?;
    if let Some(wa) = wa {
        let exported = wa.export()?.into_iter();
        file.tensors
            .extend(exported.map(|(name, shape, values)| (format!("{AVERAGE}{name}"), (shape, values))));
    }
    for param in net.params.iter() {
        if let Some(momentum) = &param.momentum {
            file.tensors
                .insert(format!("{MOMENTUM}{}", param.name), (momentum.shape().to_vec(), momentum.to_vec()?));
        }
    }
    let text = serde_json::to_string(progress).map_err(|e| Error::file(path, e.to_string()))?;
    file.metadata.insert("progress".into(), text);
    file.write(path)
}

/// Reads what [`save_state`] wrote into a network of the same architecture.
pub fn load_state(net: &mut Net, wa: Option<&mut Net>, device: &Device, path: &Path) -> Result<Progress> {
    let mut file = WeightFile::read(path)?;
    let text = file
        .metadata
        .get("progress")
        .ok_or_else(|| Error::file(path, "holds no progress: not the state of a run"))?;
    let progress =
        serde_json::from_str(text).map_err(|e| Error::file(path, format!("progress cannot be read: {e}")))?;
    let (momenta, tensors) = file.tensors.into_iter().partition(|(name, _)| name.starts_with(MOMENTUM));
    let (average, tensors) =
        std::collections::BTreeMap::into_iter(tensors).partition(|(name, _)| name.starts_with(AVERAGE));
    file.tensors = tensors;
    load(net, device, &file)?;
    if let Some(wa) = wa {
        let bare = |(name, tensor): (String, _)| (name.trim_start_matches(AVERAGE).to_owned(), tensor);
        file.tensors = std::collections::BTreeMap::into_iter(average).map(bare).collect();
        load(wa, device, &file)?;
    }
    for param in net.params.iter_mut().filter(|p| p.role != Role::Buffer) {
        let saved: Option<&(Vec<usize>, Vec<f32>)> = momenta.get(&format!("{MOMENTUM}{}", param.name));
        param.momentum =
            saved.map(|(shape, values)| Tensor::from_slice(device, shape, values)).transpose()?;
    }
    Ok(progress)
}
