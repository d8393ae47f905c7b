//! The request for an evaluation, and the images that it selects.

use super::plan::Plan;
use super::record::Shard;
use super::state::PROGRESS;
use crate::attack::Params;
use crate::config::PrecisionChoice;
use crate::data::{self, Dataset};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::files;
use crate::run::dir;
use crate::run::network::{WeightOverrides, weight_file};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Weights, data and attacks of an evaluation.
pub struct EvalRequest {
    /// A safetensors file, or a run directory, whose `best` (else `last`) checkpoint is taken.
    pub weights: PathBuf,
    pub dataset: String,
    pub data: Option<PathBuf>,
    /// Names for [`crate::attack::by_name`], each run alone on all images, or one protocol, a name for
    /// [`super::plan::Plan::named`]; clean accuracy always comes first.
    pub attacks: Vec<String>,
    /// Ball, seed and parameters of all attacks.
    pub params: Params,
    /// Only the first n test images.
    pub n: Option<usize>,
    pub batch: usize,
    pub device: DeviceChoice,
    /// Where the report is written as JSON.
    pub out: Option<PathBuf>,
    pub extras: Extras,
}

/// Options that most evaluations do without.
#[derive(Clone, Default)]
pub struct Extras {
    /// The command line, for the records.
    pub command: String,
    /// The radius as it was written, such as 8/255, for the report.
    pub eps_text: Option<String>,
    /// Facts about the weights that go before their metadata.
    pub overrides: WeightOverrides,
    /// Of a protocol: the folder where progress is kept.
    pub state: Option<PathBuf>,
    /// Of a protocol: only this part of the images.
    pub shard: Option<Shard>,
    /// Of a protocol: the file for the adversarial images.
    pub save_adv: Option<PathBuf>,
    /// Save the clean image of a point that withstood all attacks, not that of the last attack.
    pub keep_clean: bool,
    /// Of a protocol over all images: the file for the page, HTML.
    pub page: Option<PathBuf>,
    /// The network was not trained on a part of this data: all images are evaluated where they have no parts.
    pub trained_elsewhere: bool,
    /// The precision of the network's convolutions; float32 unless given.
    pub precision: Option<PrecisionChoice>,
    /// Set to end the evaluation early.
    pub stop: Arc<AtomicBool>,
}

impl Extras {
    /// The flags of those options that only a protocol takes.
    pub fn protocol_flags(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("state", self.state.is_some()),
            ("shard", self.shard.is_some()),
            ("save-adv", self.save_adv.is_some()),
            ("report", self.page.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

impl EvalRequest {
    /// Checks that the files that are written can be, and are not among those that are read.
    pub fn check_outputs(&self) -> Result<()> {
        let given = [("out", &self.out), ("save-adv", &self.extras.save_adv), ("report", &self.extras.page)];
        let outputs: Vec<(&str, &Path)> =
            given.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))).collect();
        let mut inputs = vec![("--weights", weight_file(&self.weights)?)];
        inputs.extend(self.data.clone().map(|data| ("--data", data)));
        inputs.extend(self.extras.state.iter().map(|folder| ("--state", folder.join(PROGRESS))));
        inputs.extend(dir::records_of(&self.weights).into_iter().map(|path| ("the run of --weights", path)));
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(flag, path)| (*flag, path.as_path())).collect();
        files::check_outputs(&outputs, &inputs)?;
        outputs.iter().try_for_each(|(_, path)| files::check_writable(path))
    }

    /// Errors: an option that only a protocol takes, and attacks that are none.
    pub fn check_options(&self) -> Result<()> {
        let Some(flag) = self.extras.protocol_flags().next() else { return Ok(()) };
        if Plan::named(&self.attacks, &self.params)?.is_some() {
            return Ok(());
        }
        let names = self.attacks.join(",");
        let problem = format!("--{flag} needs --attack autoattack, or autoattack:{names}");
        Err(Error::value("attack", &names, problem))
    }

    /// The test images that are asked for.
    pub(super) fn images(&self) -> Result<Dataset> {
        let split = data::load(&self.dataset, self.data.as_deref())?;
        let test = split.evaluated(self.extras.trained_elsewhere)?;
        match self.n {
            None if test.is_empty() => Err(Error::value("dataset", &test.name, "has no test images")),
            None => Ok(test),
            Some(0) => Err(Error::value("--n", 0, "no image would be evaluated; expected at least 1")),
            Some(n) => test.subset(&(0..n.min(test.len())).collect::<Vec<_>>()),
        }
    }
}
