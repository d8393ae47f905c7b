//! The progress of a run, as it is reported. The trainer and the evaluation call these functions; the command
//! line draws a bar, prints lines or writes JSON from them.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// A receiver of a run's progress. Every function does nothing unless it is replaced.
pub trait Observer {
    /// Everything is loaded and checked, and the first step comes next.
    fn started(&mut self, _info: &Started) {}
    /// A training step is done.
    fn step(&mut self, _at: &StepInfo) {}
    /// An epoch, and the evaluation that belongs to it, is done.
    fn epoch(&mut self, _done: &EpochInfo) {}
    /// `done` of `of` images have been evaluated with `what`, such as `clean` or `pgd20`.
    fn evaluating(&mut self, _what: &str, _done: usize, _of: usize) {}
    /// An attack of an evaluation has made progress.
    fn attacking(&mut self, _at: &AttackProgress) {}
    /// An attack of an evaluation is done.
    fn attacked(&mut self, _done: &AttackSummary) {}
    /// Run `number` of `of`, which is `what`, begins: in a series of runs.
    fn begins(&mut self, _number: usize, _of: usize, _what: &str) {}
    /// Something worth one line.
    fn note(&mut self, _line: &str) {}
    /// Nothing more will come; the result is what the run returns.
    fn finished(&mut self) {}
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// The progress of an attack of an evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AttackProgress {
    /// The attack.
    pub attack: String,
    /// Its number, counted from 1, and the number of attacks.
    pub number: usize,
    pub of: usize,
    /// Points that it has not finished with.
    pub left: usize,
    /// Points that have withstood everything so far, in percent of all.
    pub robust_acc: f64,
    /// Seconds until this attack is done at its present speed, if every point withstands it.
    pub seconds_left: f64,
}

/// An attack of an evaluation that is done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AttackSummary {
    /// The attack.
    pub attack: String,
    /// Points that have withstood it and all before it, in percent of all.
    pub robust_acc: f64,
    /// Points that it was given.
    pub attacked: usize,
    /// Its duration.
    pub seconds: f64,
}

/// The facts about a run that is about to start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Started {
    /// The device, as it describes itself.
    pub device: String,
    /// The network's name.
    pub model: String,
    /// The number of its trained parameters.
    pub parameters: usize,
    /// The training method's name.
    pub method: String,
    /// The data set's name.
    pub dataset: String,
    /// Images to train on.
    pub train: usize,
    /// Training images kept for choosing the best epoch.
    pub held_out: usize,
    /// Images to report results on.
    pub test: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Steps of one epoch.
    pub steps_per_epoch: usize,
    /// The run directory, if there is one.
    pub out: Option<PathBuf>,
}

/// A training step that is done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StepInfo {
    /// Its epoch, counted from 1.
    pub epoch: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Its number in the epoch, counted from 1.
    pub step: usize,
    /// Steps of one epoch.
    pub steps: usize,
    /// The loss, of this step or a recent one.
    pub loss: f32,
    /// Training images a second.
    pub images_per_s: f64,
    /// Seconds until the whole run is done at its present speed.
    pub seconds_left: f64,
}

/// An epoch that is done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EpochInfo {
    /// Its number, counted from 1.
    pub epoch: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// The learning rate at its end.
    pub lr: f64,
    /// The mean loss.
    pub loss: f64,
    /// The means of the loss's terms, by name.
    #[serde(serialize_with = "as_map")]
    pub terms: Vec<(String, f64)>,
    /// Accuracy on the training images as they were trained on, in percent.
    pub train_acc: Option<f64>,
    /// Accuracy on the clean images that choose the best epoch, in percent.
    pub clean_acc: Option<f64>,
    /// Accuracy on the same images under attack, in percent.
    pub robust_acc: Option<f64>,
    /// Whether it is the best epoch so far.
    pub best: bool,
    /// Means and quantiles of what the method logs; `split` in records.
    #[serde(rename = "split", skip_serializing_if = "Option::is_none")]
    pub log: Option<Map<String, Value>>,
    /// Training images a second.
    pub images_per_s: f64,
    /// Seconds of training, evaluation excluded.
    pub seconds: f64,
}

fn as_map<S: Serializer>(terms: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(terms.iter().map(|(name, value)| (name, value)))
}

impl EpochInfo {
    /// The epoch's object in `metrics.jsonl`.
    pub fn record(&self, eval_seconds: f64) -> Map<String, Value> {
        let mut object = json!(self).as_object().cloned().unwrap_or_default();
        object.shift_remove("epochs");
        let log = object.shift_remove("split");
        object.insert("eval_seconds".into(), json!(eval_seconds));
        object.extend(log.map(|log| ("split".to_owned(), log)));
        object
    }
}
