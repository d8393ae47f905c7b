//! The protocol of AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690).
//!
//! ```text
//! clean pass: a point is robust while it is classified correctly
//! for each attack in order, while points are robust:
//!     attack them, in batches;  ask the network again about the images that come back
//!     misclassified: the point is broken by this attack and keeps the image
//! robust accuracy <- robust points / all points;  verify the images
//! ```
//! An attack on nine targets makes nine attempts on a point. A batch is filled with pairs of a point and an
//! attempt: first one pair of every robust point, those with the fewest attempts in front, then, when too few
//! points are left for a whole batch, the following attempts of the same points. The first attempt that
//! succeeds counts, so that batch size, packing, shards and interruptions change no bit of the result.

use super::checks::checks;
use super::plan::{Plan, Stage};
use super::state::State;
use super::verdict::{CLEAN, Outcomes, Passes, Row, Verdict};
use super::verify::{Verification, verify};
use crate::attack::{AttackResult, Model, Points, logits};
use crate::data::device_dataset::DeviceDataset;
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ops::augment::Augmentation;
use crate::ops::predict::correct;
use crate::ops::survivors::take;
use crate::run::observer::{Judged, Judging, Observer};
use crate::tape::{Tape, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The adversarial images `[H,W,C]` of broken points, by the point's place in the range that is judged.
pub type Images = BTreeMap<usize, Vec<f32>>;

/// How a plan is carried out: on which points, and what does not change the result.
pub struct Conduct<'a> {
    /// Indices of the data set.
    pub range: Range<usize>,
    pub batch: usize,
    /// Where progress is kept.
    pub state: Option<&'a State>,
    /// Raised by whoever wants an end.
    pub stop: &'a AtomicBool,
}

/// A verdict, and what it is about.
pub struct Judgement {
    pub verdict: Verdict,
    pub images: Images,
    /// Of the verification, for each point.
    pub predictions: Vec<i32>,
}

/// Where an evaluation stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub outcomes: Outcomes,
    /// Attempts of the attack in hand on each point.
    pub tried: Vec<usize>,
    /// The clean pass and the attacks that have begun; the last one is in hand.
    pub rows: Vec<Row>,
    pub passes: Passes,
    pub warnings: Vec<String>,
}

/// Judges a model.
///
/// Errors: [`Error::Interrupted`] after `conduct.stop`; a state that cannot be written; whatever the model
/// reports.
pub fn judge(
    model: &mut dyn Model,
    data: &DeviceDataset,
    plan: &Plan,
    conduct: &Conduct,
    observer: &mut dyn Observer,
) -> Result<Judgement> {
    let kept = conduct.state.map(State::load).transpose()?.flatten();
    let (mut standing, images) = match kept {
        Some((standing, images)) => {
            observer.note(&format!(
                "going on: {} of {} attacks begun",
                standing.rows.len().max(1) - 1,
                plan.stages.len()
            ));
            (standing, images)
        }
        None => (
            Standing { outcomes: Outcomes(vec![None; conduct.range.len()]), ..Standing::default() },
            Images::new(),
        ),
    };
    for line in checks(model, data, conduct.range.clone(), plan)? {
        if !standing.warnings.contains(&line) {
            standing.warnings.push(line);
        }
    }
    standing.warnings.iter().for_each(|line| observer.note(&format!("warning: {line}")));
    let mut judge =
        Judge { model: &mut *model, data, plan, conduct, observer: &mut *observer, standing, images };
    judge.stage(0, None)?;
    for (number, stage) in plan.stages.iter().enumerate() {
        judge.stage(number + 1, Some(stage))?;
    }
    let Judge { standing: Standing { outcomes, rows, passes, warnings, .. }, images, .. } = judge;
    let (range, ball) = (conduct.range.clone(), plan.ball);
    let (verification, predictions): (Verification, _) =
        verify(model, data, range, ball, (&images, &outcomes), conduct.batch)?;
    let known = warnings.len();
    let mut verdict =
        Verdict { version: plan.version.clone(), rows, outcomes, warnings, verification, passes };
    verdict.count();
    verdict.warnings.extend(verdict.verification.complaint());
    verdict.warnings.iter().skip(known).for_each(|line| observer.note(&format!("warning: {line}")));
    Ok(Judgement { verdict, images, predictions })
}

struct Judge<'a> {
    model: &'a mut dyn Model,
    data: &'a DeviceDataset,
    plan: &'a Plan,
    conduct: &'a Conduct<'a>,
    observer: &'a mut dyn Observer,
    standing: Standing,
    images: Images,
}

impl Judge<'_> {
    /// Runs row `number`: an attack, or the clean pass, as far as it has not been done.
    fn stage(&mut self, number: usize, stage: Option<&Stage>) -> Result<()> {
        if self.standing.rows.len() > number + 1 {
            return Ok(());
        }
        let attack = stage.map_or(CLEAN, |stage| &stage.name).to_owned();
        let skipped = stage.is_some_and(|stage| self.model.classes() < stage.attack.min_classes());
        if self.standing.rows.len() == number {
            let attacked = if skipped { 0 } else { self.standing.outcomes.robust().count() };
            self.standing.rows.push(Row {
                attack: attack.clone(),
                accuracy: 0.0,
                robust: 0,
                attacked,
                seconds: 0.0,
                skipped,
            });
            self.standing.tried = vec![0; self.conduct.range.len()];
        }
        let ranks = stage.and_then(|stage| Some(stage.attack.targeted()?.target_ranks(self.model.classes())));
        let (first, attempts) = ranks.map_or((0, 1), |ranks| (*ranks.start(), ranks.count()));
        let attempts = if skipped { 0 } else { attempts };
        let mut pace = Pace::default();
        loop {
            let pairs = next_batch(&self.standing, attempts, self.conduct.batch);
            if pairs.is_empty() {
                break;
            }
            let began = Instant::now();
            let left = |point| attempts - self.standing.tried[point];
            pace.left = self.standing.outcomes.robust().map(left).sum();
            let broken = self.attempt(stage, &pairs, first, &pace)?;
            for (point, tried) in &pairs {
                self.standing.tried[*point] = self.standing.tried[*point].max(tried + 1);
            }
            let mut fresh = Images::new();
            for (point, image) in broken {
                // The clean pass leaves the clean image.
                fresh.extend(stage.map(|_| (point, image)));
                self.standing.outcomes.0[point] = Some(number);
            }
            pace.done += pairs.len();
            pace.seconds += began.elapsed().as_secs_f64();
            self.standing.rows[number].seconds += began.elapsed().as_secs_f64();
            if let Some(state) = self.conduct.state {
                state.save(&self.standing, &fresh)?;
            }
            self.images.append(&mut fresh);
        }
        let Row { attacked, seconds, .. } = self.standing.rows[number];
        let (robust, points) = (self.standing.outcomes.robust().count(), self.conduct.range.len());
        let robust_acc = 100.0 * robust as f64 / points.max(1) as f64;
        self.observer.judged(&Judged { attack, robust_acc, attacked, seconds });
        Ok(())
    }

    /// Makes the attempts of a batch; the points that are broken, each with the image of its first attempt
    /// that succeeded.
    fn attempt(
        &mut self,
        stage: Option<&Stage>,
        pairs: &[(usize, usize)],
        first: usize,
        pace: &Pace,
    ) -> Result<Images> {
        let device = self.data.device();
        let indices: Vec<i32> =
            pairs.iter().map(|(point, _)| (self.conduct.range.start + point) as i32).collect();
        let indices = Buffer::from_slice(device, &indices)?;
        let (x, y) = self.data.batch(&indices, &Augmentation::none())?;
        let points = Points { x: &x, y: &y, images: &indices };
        let robust = self.standing.outcomes.robust().count();
        let mut at = Judging {
            attack: stage.map_or(CLEAN, |stage| &stage.name).to_owned(),
            number: self.standing.rows.len() - 1,
            of: self.plan.stages.len(),
            left: robust,
            robust_acc: 100.0 * robust as f64 / self.conduct.range.len() as f64,
            seconds_left: f64::NAN,
        };
        let (began, expected) = (Instant::now(), stage.map_or(1, |stage| stage.attack.passes()));
        let mut told = None;
        let observer = &mut *self.observer;
        let mut tell = |calls: usize| {
            if told.is_some_and(|told: Instant| told.elapsed() < Duration::from_millis(250)) {
                return;
            }
            told = Some(Instant::now());
            let part = pairs.len() as f64 * (calls as f64 / expected.max(calls).max(1) as f64);
            let (done, seconds) = (pace.done as f64 + part, pace.seconds + began.elapsed().as_secs_f64());
            at.seconds_left = if part < 1.0 && pace.done == 0 {
                f64::NAN
            } else {
                seconds / done * (pace.left as f64 - part).max(0.0)
            };
            observer.judging(&at);
        };
        let passes = &mut self.standing.passes;
        let mut model =
            Watched { model: &mut *self.model, conduct: self.conduct, passes, calls: 0, tell: &mut tell };
        let found = match stage {
            None => AttackResult { x_adv: x.clone(), success: Buffer::zeros(device, pairs.len())? },
            Some(stage) => match stage.attack.targeted() {
                None => stage.attack.run(&mut model, &x, &y, &indices)?,
                Some(ranked) => {
                    let ranks: Vec<i32> = pairs.iter().map(|(_, attempt)| (first + attempt) as i32).collect();
                    ranked.attempt(&mut model, points, &Buffer::from_slice(device, &ranks)?)?
                }
            },
        };
        let held = correct(device, &logits(&mut model, &found.x_adv)?, &y)?.to_vec()?;
        // Attempts of a point stand in rising order, and the first that succeeded counts.
        let mut rows = BTreeMap::new();
        for (row, (point, _)) in pairs.iter().enumerate().filter(|(row, _)| held[*row] == 0) {
            rows.entry(*point).or_insert(row as i32);
        }
        if rows.is_empty() {
            return Ok(Images::new());
        }
        let images =
            take(&found.x_adv, &Buffer::from_slice(device, &rows.values().copied().collect::<Vec<_>>())?)?
                .to_vec()?;
        let size = images.len() / rows.len();
        Ok(rows.into_keys().zip(images.chunks(size).map(<[f32]>::to_vec)).collect())
    }
}

/// Attempts of this session on the attack in hand: what was done in how much time, and what is left at most.
#[derive(Default)]
struct Pace {
    done: usize,
    seconds: f64,
    left: usize,
}

/// Pairs of a point and the number of an attempt that are next.
fn next_batch(standing: &Standing, attempts: usize, batch: usize) -> Vec<(usize, usize)> {
    let mut points: Vec<usize> =
        standing.outcomes.robust().filter(|point| standing.tried[*point] < attempts).collect();
    points.sort_by_key(|point| standing.tried[*point]);
    let round = |further: usize| points.iter().map(move |point| (*point, standing.tried[*point] + further));
    (0..attempts).flat_map(round).filter(|(_, attempt)| *attempt < attempts).take(batch.max(1)).collect()
}

/// A model whose passes are counted, and that fails once the evaluation is to stop.
struct Watched<'a> {
    model: &'a mut dyn Model,
    conduct: &'a Conduct<'a>,
    passes: &'a mut Passes,
    calls: usize,
    /// Gets the number of calls.
    tell: &'a mut dyn FnMut(usize),
}

impl Model for Watched<'_> {
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        if self.conduct.stop.load(Ordering::SeqCst) {
            let (saved, resume) = match self.conduct.state {
                Some(state) => {
                    (format!("progress is kept in {}", state.folder().display()), "the same command")
                }
                None => {
                    ("nothing is kept without --state DIR".into(), "the same command, which begins again")
                }
            };
            return Err(Error::Interrupted { saved, resume: resume.into() });
        }
        let images = tape.value(x).shape().first().copied().unwrap_or(0) as u64;
        self.passes.forward += images;
        self.passes.differentiated += if tape.needs(x) { images } else { 0 };
        (self.tell)(self.calls);
        self.calls += 1;
        self.model.logits(tape, x)
    }

    fn classes(&self) -> usize {
        self.model.classes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(outcomes: &[Option<usize>], tried: &[usize]) -> Standing {
        Standing { outcomes: Outcomes(outcomes.to_vec()), tried: tried.to_vec(), ..Standing::default() }
    }

    #[test]
    fn batches_are_filled_with_points_first_and_further_attempts_then() {
        let fresh = standing(&[None, Some(0), None, None], &[0; 4]);
        assert_eq!(next_batch(&fresh, 9, 2), [(0, 0), (2, 0)]);
        assert_eq!(next_batch(&fresh, 9, 3), [(0, 0), (2, 0), (3, 0)]);
        assert_eq!(next_batch(&fresh, 9, 5), [(0, 0), (2, 0), (3, 0), (0, 1), (2, 1)]);
        assert_eq!(next_batch(&fresh, 2, 100).len(), 6);
        assert_eq!(next_batch(&fresh, 1, 100), [(0, 0), (2, 0), (3, 0)]);
        // Those with the fewest attempts come first, and a point's attempts stay in order.
        let later = standing(&[None, Some(0), None, None], &[2, 0, 1, 3]);
        assert_eq!(next_batch(&later, 3, 4), [(2, 1), (0, 2), (2, 2)]);
        assert_eq!(next_batch(&standing(&[Some(1)], &[0]), 9, 4), []);
    }
}
