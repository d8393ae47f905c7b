//! Checkpoints: weights that other programs read, and the whole state of a run to go on from.

use super::epoch_stats::EpochStats;
use super::run::Run;
use super::trainer::Trainer;
use crate::data::ImageShape;
use crate::error::{Error, Result, ensure};
use crate::files::fingerprint;
use crate::files::weights::{Normalisation, WeightFile};
use crate::nn::{Net, Role};
use crate::run::dir::RunDir;
use crate::run::network::load;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What to do about a file of a run that has changed.
pub(super) const RESTORE: &str = "restore it, or start a new run";

/// The key of the state's own fingerprint in its metadata.
const CONTENT: &str = "content";

/// The checkpoints that a run writes anew while it goes on, and keeps.
const KEPT: [&str; 2] = ["best", "last"];

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
    /// The fingerprint of each of [`KEPT`] that is written.
    #[serde(default)]
    pub checkpoints: BTreeMap<String, String>,
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

impl Trainer<'_> {
    /// Writes the weights of the network that is evaluated, with their metadata, as checkpoint `name`;
    /// `selection` says how it was chosen: `best pgd10 on heldout`, `last`. Epochs count from 1.
    pub(super) fn save(&mut self, run: &Run, epoch: usize, selection: &str, name: &str) -> Result<()> {
        let net = self.wa.as_ref().unwrap_or(&self.net);
        let path = run.dir.checkpoint(name);
        self.weights(net, epoch, selection)?.write(&path)?;
        if KEPT.contains(&name) {
            self.progress.checkpoints.insert(name.to_owned(), fingerprint::of_file(&path)?);
        }
        Ok(())
    }

    /// Errors: checkpoint `name` is not the one that this run wrote. One of the epoch after those that are
    /// finished is: the process was killed before it could save its state, and the epoch is run again.
    pub(super) fn check_checkpoint(&self, dir: &RunDir, name: &str) -> Result<()> {
        let Some(saved) = self.progress.checkpoints.get(name) else { return Ok(()) };
        let path = dir.checkpoint(name);
        let wrong = |problem: &str| Error::file(&path, format!("{problem}; {RESTORE}"));
        ensure(path.is_file(), || wrong("this checkpoint of the run is missing"))?;
        if fingerprint::of_file(&path)? == *saved {
            return Ok(());
        }
        let read = WeightFile::read(&path).ok();
        let epoch = read.and_then(|file| file.metadata.get("epoch")?.parse::<usize>().ok());
        let is_next = epoch == Some(self.progress.epochs_done + 1);
        ensure(is_next, || wrong("this is not the checkpoint that the run wrote"))
    }

    fn weights(&self, net: &Net, epoch: usize, selection: &str) -> Result<WeightFile> {
        let mut file = WeightFile::default();
        for (name, shape, values) in net.export()? {
            if let Some(stem) = name.strip_suffix("running_var") {
                file.ints.insert(format!("{stem}num_batches_tracked"), net.train_passes);
            }
            file.tensors.insert(name, (shape, values));
        }
        let (config, shape, ImageShape { height, width, channels }) =
            (self.config, &self.shape, self.train.shape);
        let facts = [
            ("arch", config.model.clone()),
            ("variant", "default".into()),
            ("num_classes", shape.classes.to_string()),
            ("input", format!("{height}x{width}x{channels}")),
            ("norm", config.norm.to_string()),
            ("eps", config.eps.to_string()),
            ("method", config.method.clone()),
            ("dataset", config.dataset.clone()),
            ("recipe", self.recipe.into()),
            ("epoch", epoch.to_string()),
            ("seed", config.seed.to_string()),
            ("selection", selection.into()),
            ("commit", env!("SADDLE_COMMIT").into()),
        ];
        file.metadata.extend(facts.map(|(key, value)| (key.to_owned(), value)));
        file.set_normalisation(&Normalisation { mean: shape.mean.clone(), std: shape.std.clone() });
        Ok(file)
    }

    /// Writes weights, momentum and progress: everything that a run needs to go on to the same bytes.
    pub(super) fn save_state(&self, run: &Run) -> Result<()> {
        let path = run.dir.state();
        let mut file = self.weights(&self.net, self.progress.epochs_done, "state")?;
        if let Some(wa) = &self.wa {
            for (name, shape, values) in wa.export()? {
                file.tensors.insert(format!("{AVERAGE}{name}"), (shape, values));
            }
        }
        for param in self.net.params.iter() {
            if let Some(momentum) = &param.momentum {
                let tensor = (momentum.shape().to_vec(), momentum.to_vec()?);
                file.tensors.insert(format!("{MOMENTUM}{}", param.name), tensor);
            }
        }
        let text = serde_json::to_string(&self.progress).map_err(|e| Error::file(&path, e.to_string()))?;
        file.metadata.insert("progress".into(), text);
        file.metadata.insert(CONTENT.into(), content(&file));
        file.write(&path)
    }

    /// Takes up the state of an interrupted run, a file of [`Trainer::save_state`].
    ///
    /// Errors: what is not the content that was saved.
    pub(super) fn resume(&mut self, path: &Path) -> Result<()> {
        let mut file = WeightFile::read(path)?;
        let wrong = |problem: String| Error::file(path, problem);
        let text = file.metadata.get("progress");
        let text = text.ok_or_else(|| wrong("holds no progress: not the state of a run".into()))?;
        self.progress =
            serde_json::from_str(text).map_err(|e| wrong(format!("progress cannot be read: {e}")))?;
        let saved = file.metadata.get(CONTENT).cloned();
        let found = content(&file);
        let momenta = take_prefixed(&mut file, MOMENTUM);
        let average = take_prefixed(&mut file, AVERAGE);
        self.check_momenta(&momenta).map_err(|problem| wrong(format!("{problem}; {RESTORE}")))?;
        let problem = || wrong(format!("its content is not what the run saved; {RESTORE}"));
        ensure(saved.is_none_or(|saved| saved == found), problem)?;
        load(&mut self.net, &self.device, &file)?;
        if let Some(wa) = &mut self.wa {
            file.tensors = average;
            load(wa, &self.device, &file)?;
        }
        for param in self.net.params.iter_mut().filter(|p| p.role != Role::Buffer) {
            param.momentum = match momenta.get(&param.name) {
                Some((shape, values)) => Some(Tensor::from_slice(&self.device, shape, values)?),
                None => None,
            };
        }
        Ok(())
    }

    /// Errors: momentum tensors that are not those of the network's parameters. Those of parameters that are
    /// not trained yet are missing.
    fn check_momenta(&self, momenta: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Result<(), String> {
        let trained = || self.net.params.iter().filter(|param| param.role != Role::Buffer);
        for (name, (found, _)) in momenta {
            let shape = trained().find(|param| param.name == *name).map(|param| param.value.shape());
            let shape = shape.ok_or_else(|| format!("{MOMENTUM}{name} is not in the network"))?;
            ensure(shape == found, || format!("{MOMENTUM}{name} is {found:?}, expected {shape:?}"))?;
        }
        let begun = self.progress.images_trained > 0 && self.config.momentum > 0.0;
        ensure(!begun || !momenta.is_empty(), || format!("its tensors {MOMENTUM}* are missing"))
    }
}

/// A fingerprint of a state: its tensors, counters and progress.
fn content(file: &WeightFile) -> String {
    let named = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| format!("{name} {shape:?}");
    let names: Vec<String> = file.tensors.iter().map(named).collect();
    let tensors = names.iter().zip(file.tensors.values());
    let tensors = tensors.flat_map(|(name, (_, values))| [name.as_bytes(), bytemuck::cast_slice(values)]);
    let progress = format!("{:?} {:?}", file.ints, file.metadata.get("progress"));
    fingerprint::fingerprint(&tensors.chain([progress.as_bytes()]).collect::<Vec<_>>())
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
