//! Checkpoints: weights that other programs read, and the whole state of a run to go on from.

use super::epoch_stats::EpochStats;
use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::weights::{Normalisation, WeightFile};
use crate::nn::{Net, Role, Shape};
use crate::run::network::load;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The prefixes of momentum buffers and of the averaged network in a state file.
const MOMENTUM: &str = "momentum.";
const AVERAGE: &str = "average.";

/// The progress of a run: its whole state but for the tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are finished.
    pub epochs_done: usize,
    /// Steps of the next epoch that are done.
    pub steps_done: usize,
    /// Whether the average has taken up the epoch of those steps, all of which are done then.
    pub averaged: bool,
    /// The sums over those steps.
    pub stats: EpochStats,
    /// 1-based epoch and robust accuracy (percent) of the best checkpoint.
    pub best: Option<(usize, f64)>,
    /// Seconds of training, without evaluation, of this and earlier sessions.
    pub train_seconds: f64,
    pub images_trained: usize,
    /// Wall time of earlier sessions.
    pub seconds: f64,
}

impl Progress {
    /// Training images a second.
    pub fn images_per_s(&self) -> f64 {
        self.images_trained as f64 / self.train_seconds.max(1e-9)
    }

    /// Adds the seconds of further steps.
    pub fn add_seconds(&mut self, seconds: f64) {
        self.train_seconds += seconds;
        self.stats.seconds += seconds;
    }

    /// Closes an epoch.
    pub fn next_epoch(&mut self) {
        self.epochs_done += 1;
        (self.steps_done, self.averaged) = (0, false);
        self.stats = EpochStats::default();
    }
}

/// The source of a weight file, for its metadata.
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

/// Writes weights, momentum and progress: everything that a run needs to go on to the same bytes.
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

/// Reads a file of [`save_state`] into networks of the same architecture.
pub fn load_state(net: &mut Net, wa: Option<&mut Net>, device: &Device, path: &Path) -> Result<Progress> {
    let mut file = WeightFile::read(path)?;
    let text = file
        .metadata
        .get("progress")
        .ok_or_else(|| Error::file(path, "holds no progress: not the state of a run"))?;
    let progress =
        serde_json::from_str(text).map_err(|e| Error::file(path, format!("progress cannot be read: {e}")))?;
    let momenta = take_prefixed(&mut file, MOMENTUM);
    let average = take_prefixed(&mut file, AVERAGE);
    load(net, device, &file)?;
    if let Some(wa) = wa {
        file.tensors = average;
        load(wa, device, &file)?;
    }
    for param in net.params.iter_mut().filter(|p| p.role != Role::Buffer) {
        param.momentum = match momenta.get(&param.name) {
            Some((shape, values)) => Some(Tensor::from_slice(device, shape, values)?),
            None => None,
        };
    }
    Ok(progress)
}

/// Moves the tensors whose names begin with `prefix` out of a file, under their names without it.
fn take_prefixed(file: &mut WeightFile, prefix: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut taken = BTreeMap::new();
    for (name, tensor) in std::mem::take(&mut file.tensors) {
        match name.strip_prefix(prefix) {
            Some(bare) => taken.insert(bare.to_owned(), tensor),
            None => file.tensors.insert(name, tensor),
        };
    }
    taken
}
