//! The protocol of AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690).
//!
//! ```text
//! clean pass: a point is robust while it is classified correctly
//! for each attack in order, while points are robust:
//!     attack them, in batches (packing.rs);  ask the network again about the images that come back
//!     misclassified: the attack has succeeded on the point, which keeps the image
//! robust accuracy <- robust points / all points;  verify the images
//! ```
//! Of several attempts on a point the first that succeeds counts, and a robust point keeps the image of the
//! very last one, so that batch size, packing, shards and interruptions change no bit of the result.

use super::accuracy::not_finite;
use super::outcome::{AttackRow, CLEAN, Outcome, Passes, PointOutcomes};
use super::packing::{Pair, next_batch};
use super::plan::{Plan, Stage};
use super::post_check::verify;
use super::pre_check::warnings;
use super::reporter::{Pace, WatchedModel};
use super::state::{SavedRun, State};
use crate::attack::{AttackResult, Model, Points, logits};
use crate::data::device_dataset::DeviceDataset;
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ops::augment::Augmentation;
use crate::ops::gather::gather;
use crate::ops::predict::correct;
use crate::run::observer::{AttackProgress, AttackSummary, Observer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Images `[H,W,C]` by the point's place in the range that is evaluated: the adversarial image of a point on
/// which an attack succeeded, and of a robust point that of the last attack. Points that are misclassified
/// without an attack have none.
pub type AdvImages = BTreeMap<usize, Vec<f32>>;

/// The points that a plan is run on, and options that do not change the result.
pub struct RunOptions<'a> {
    /// Indices of the data set.
    pub range: Range<usize>,
    pub batch: usize,
    /// Where progress is kept.
    pub state: Option<&'a State>,
    /// Set to end the evaluation early.
    pub stop: &'a AtomicBool,
}

/// An outcome with its images.
pub struct ProtocolResult {
    pub outcome: Outcome,
    pub images: AdvImages,
    /// Of the verification, for each point.
    pub predictions: Vec<i32>,
}

/// The progress of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub outcomes: PointOutcomes,
    /// Attempts of the current attack on each point.
    pub tried: Vec<usize>,
    /// The clean pass and the attacks that have begun; the last one is the current attack.
    pub rows: Vec<AttackRow>,
    pub passes: Passes,
    pub warnings: Vec<String>,
}

/// Runs a plan on a model.
///
/// Errors: [`crate::error::Error::Interrupted`] after `options.stop`; a state that cannot be written; errors
/// of the model.
pub fn run_protocol(
    model: &mut dyn Model,
    data: &DeviceDataset,
    plan: &Plan,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<ProtocolResult> {
    let (classes, points, image_size) = (model.classes(), options.range.len(), data.shape.bytes());
    let run = SavedRun { plan, classes, points, image_size };
    let (mut progress, images) = match options.state.map(|state| state.load(&run)).transpose()?.flatten() {
        Some((progress, images)) => {
            let begun = progress.rows.len().max(1) - 1;
            observer.note(&format!("going on: {begun} of {} attacks begun", plan.stages.len()));
            (progress, images)
        }
        None => {
            let outcomes = PointOutcomes(vec![None; options.range.len()]);
            (Progress { outcomes, ..Progress::default() }, AdvImages::new())
        }
    };
    for line in warnings(model, data, options.range.clone(), plan)? {
        if !progress.warnings.contains(&line) {
            progress.warnings.push(line);
        }
    }
    progress.warnings.iter().for_each(|line| observer.note(&format!("warning: {line}")));
    let runs = |stage: &Stage| model.classes() >= stage.attack.min_classes();
    let last = plan.stages.iter().rposition(runs).map_or(0, |last| last + 1);
    let mut runner =
        Runner { model: &mut *model, data, plan, options, observer: &mut *observer, progress, images, last };
    runner.run_stage(0, None)?;
    for (number, stage) in plan.stages.iter().enumerate() {
        runner.run_stage(number + 1, Some(stage))?;
    }
    let Runner { progress: Progress { outcomes, rows, passes, warnings, .. }, images, .. } = runner;
    let range = options.range.clone();
    let (verification, predictions) =
        verify(model, data, range, plan.params.ball, &images, &outcomes, options.batch)?;
    let known = warnings.len();
    let mut outcome =
        Outcome { version: plan.version.clone(), rows, outcomes, warnings, verification, passes };
    outcome.count();
    outcome.warnings.extend(outcome.verification.complaint());
    outcome.warnings.iter().skip(known).for_each(|line| observer.note(&format!("warning: {line}")));
    Ok(ProtocolResult { outcome, images, predictions })
}

struct Runner<'a> {
    model: &'a mut dyn Model,
    data: &'a DeviceDataset,
    plan: &'a Plan,
    options: &'a RunOptions<'a>,
    observer: &'a mut dyn Observer,
    progress: Progress,
    images: AdvImages,
    /// The row of the last attack that runs.
    last: usize,
}

/// The outcome of a batch: the points on which an attempt succeeded, and the images to keep.
#[derive(Default)]
struct BatchOutcome {
    broken: Vec<usize>,
    images: AdvImages,
}

impl Runner<'_> {
    /// Runs row `number`, an attack or the clean pass, as far as it has not been done.
    fn run_stage(&mut self, number: usize, stage: Option<&Stage>) -> Result<()> {
        if self.progress.rows.len() > number + 1 {
            return Ok(());
        }
        if self.progress.rows.len() == number {
            self.begin_row(name(stage), is_skipped(stage, self.model.classes()));
        }
        let attempts = attempts(stage, self.model.classes());
        let mut pace = Pace::default();
        loop {
            let pairs = next_batch(&self.progress, attempts, self.options.batch);
            if pairs.is_empty() {
                break;
            }
            let began = Instant::now();
            let left = |point| attempts - self.progress.tried[point];
            pace.left = self.progress.outcomes.robust().map(left).sum();
            let BatchOutcome { broken, images: mut fresh } =
                self.run_batch(stage, &pairs, &pace, number == self.last && number > 0)?;
            for Pair { point, attempt } in &pairs {
                self.progress.tried[*point] = self.progress.tried[*point].max(attempt + 1);
            }
            broken.into_iter().for_each(|point| self.progress.outcomes.0[point] = Some(number));
            pace.done += pairs.len();
            pace.seconds += began.elapsed().as_secs_f64();
            self.progress.rows[number].seconds += began.elapsed().as_secs_f64();
            if let Some(state) = self.options.state {
                state.save(&self.progress, &fresh)?;
            }
            self.images.append(&mut fresh);
        }
        let AttackRow { attacked, seconds, .. } = self.progress.rows[number];
        let robust_acc = self.robust_accuracy();
        self.observer.attacked(&AttackSummary { attack: name(stage).into(), robust_acc, attacked, seconds });
        Ok(())
    }

    fn begin_row(&mut self, attack: &str, skipped: bool) {
        let attacked = if skipped { 0 } else { self.progress.outcomes.robust().count() };
        let row = AttackRow { attack: attack.to_owned(), attacked, skipped, ..AttackRow::default() };
        self.progress.rows.push(row);
        self.progress.tried = vec![0; self.options.range.len()];
    }

    /// Makes the attempts of a batch. The points on which one succeeded keep the image of the first; with
    /// `keep_all` the others keep that of the last. The clean pass keeps none.
    fn run_batch(
        &mut self,
        stage: Option<&Stage>,
        pairs: &[Pair],
        pace: &Pace,
        keep_all: bool,
    ) -> Result<BatchOutcome> {
        let device = self.data.device();
        let index = |pair: &Pair| (self.options.range.start + pair.point) as i32;
        let indices = Buffer::from_slice(device, &pairs.iter().map(index).collect::<Vec<_>>())?;
        let (x, y) = self.data.batch(&indices, &Augmentation::none())?;
        let at = AttackProgress {
            attack: name(stage).to_owned(),
            number: self.progress.rows.len() - 1,
            of: self.plan.stages.len(),
            left: self.progress.outcomes.robust().count(),
            robust_acc: self.robust_accuracy(),
            seconds_left: f64::NAN,
        };
        let mut model = WatchedModel {
            model: &mut *self.model,
            options: self.options,
            passes: &mut self.progress.passes,
            observer: &mut *self.observer,
            at,
            pace,
            attempts: pairs.len(),
            expected_calls: stage.map_or(1, |stage| stage.attack.passes()),
            calls: 0,
            began: Instant::now(),
            reported: None,
        };
        let points = Points { x: &x, y: &y, images: &indices };
        let AttackResult { x_adv, .. } = attack(stage, &mut model, points, pairs)?;
        let z = logits(&mut model, &x_adv)?;
        let unusable = not_finite(&z)?;
        if unusable > 0 {
            return Err(Error::NoAccuracy { unusable, images: pairs.len() });
        }
        let adv_correct = correct(device, &z, &y)?.to_vec()?;
        // The attempts on a point come in rising order.
        let mut rows = BTreeMap::new();
        for (row, pair) in pairs.iter().enumerate().filter(|(row, _)| adv_correct[*row] == 0) {
            rows.entry(pair.point).or_insert(row as i32);
        }
        let broken: Vec<usize> = rows.keys().copied().collect();
        if stage.is_none() {
            return Ok(BatchOutcome { broken, ..BatchOutcome::default() });
        }
        if keep_all {
            let others =
                pairs.iter().enumerate().filter(|(_, pair)| broken.binary_search(&pair.point).is_err());
            rows.extend(others.map(|(row, pair)| (pair.point, row as i32)));
        }
        if rows.is_empty() {
            return Ok(BatchOutcome::default());
        }
        let taken = Buffer::from_slice(device, &rows.values().copied().collect::<Vec<_>>())?;
        let images = gather(&x_adv, &taken)?.to_vec()?;
        let size = images.len() / rows.len();
        let images = rows.into_keys().zip(images.chunks(size).map(<[f32]>::to_vec)).collect();
        Ok(BatchOutcome { broken, images })
    }

    /// The points that are robust so far, in percent.
    fn robust_accuracy(&self) -> f64 {
        100.0 * self.progress.outcomes.robust().count() as f64 / self.options.range.len().max(1) as f64
    }
}

/// Whether an attack needs more classes than there are.
fn is_skipped(stage: Option<&Stage>, classes: usize) -> bool {
    stage.is_some_and(|stage| classes < stage.attack.min_classes())
}

/// The number of attempts of an attack, or of the clean pass, on each point.
pub(super) fn attempts(stage: Option<&Stage>, classes: usize) -> usize {
    match stage.and_then(|stage| stage.attack.targeted()) {
        _ if is_skipped(stage, classes) => 0,
        Some(targeted) => targeted.target_ranks(classes).count(),
        None => 1,
    }
}

pub(super) fn name(stage: Option<&Stage>) -> &str {
    stage.map_or(CLEAN, |stage| &stage.name)
}

/// The attempts `pairs`, one on each of the points; the clean pass returns the clean images.
fn attack(
    stage: Option<&Stage>,
    model: &mut dyn Model,
    points: Points,
    pairs: &[Pair],
) -> Result<AttackResult> {
    let (x, device) = (points.x, points.x.device());
    let Some(Stage { attack, .. }) = stage else {
        return Ok(AttackResult { x_adv: x.clone(), success: Buffer::zeros(device, pairs.len())? });
    };
    let Some(targeted) = attack.targeted() else { return attack.run(model, points) };
    let first = *targeted.target_ranks(model.classes()).start();
    let ranks: Vec<i32> = pairs.iter().map(|pair| (first + pair.attempt) as i32).collect();
    targeted.attempt(model, points, &Buffer::from_slice(device, &ranks)?)
}
