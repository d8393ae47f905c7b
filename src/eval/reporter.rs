//! Progress reports while an attack runs: a model that counts its passes, and the estimate of the time left.

use super::outcome::Passes;
use super::protocol::RunOptions;
use crate::attack::Model;
use crate::error::{Error, Result};
use crate::ops::head::Target;
use crate::run::observer::{AttackProgress, Observer};
use crate::tape::{Gradients, Tape, Var};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The least time between two reports.
const INTERVAL: Duration = Duration::from_millis(250);

/// Attempts of the current attack in this session: how many were made in how much time, and how many are left
/// at most.
#[derive(Default)]
pub struct Pace {
    pub done: usize,
    pub seconds: f64,
    pub left: usize,
}

/// A model that counts its passes, reports, and fails once the evaluation is to stop.
pub struct WatchedModel<'a> {
    pub model: &'a mut dyn Model,
    pub options: &'a RunOptions<'a>,
    pub passes: &'a mut Passes,
    pub observer: &'a mut dyn Observer,
    /// The report; only the time left changes.
    pub at: AttackProgress,
    pub pace: &'a Pace,
    /// Attempts in the batch.
    pub attempts: usize,
    /// About how many calls of the model they take.
    pub expected_calls: usize,
    pub calls: usize,
    pub began: Instant,
    pub reported: Option<Instant>,
}

impl WatchedModel<'_> {
    /// Counts a pass, and stops before it if that is asked.
    fn count(&mut self, tape: &Tape, x: Var) -> Result<()> {
        if self.options.stop.load(Ordering::SeqCst) {
            return Err(self.options.interrupted());
        }
        let images = tape.value(x).shape().first().copied().unwrap_or(0) as u64;
        self.passes.forward += images;
        self.passes.differentiated += if tape.needs(x) { images } else { 0 };
        self.report();
        self.calls += 1;
        Ok(())
    }

    /// Reports before the next call.
    fn report(&mut self) {
        if self.reported.is_some_and(|reported| reported.elapsed() < INTERVAL) {
            return;
        }
        self.reported = Some(Instant::now());
        let (pace, calls) = (self.pace, self.calls);
        let part = self.attempts as f64 * (calls as f64 / self.expected_calls.max(calls).max(1) as f64);
        let (done, seconds) = (pace.done as f64 + part, pace.seconds + self.began.elapsed().as_secs_f64());
        self.at.seconds_left = if part < 1.0 && pace.done == 0 {
            f64::NAN
        } else {
            seconds / done * (pace.left as f64 - part).max(0.0)
        };
        self.observer.attacking(&self.at);
    }
}

impl Model for WatchedModel<'_> {
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        self.count(tape, x)?;
        self.model.logits(tape, x)
    }

    fn gradients(&mut self, tape: &Tape, x: Var, target: Target) -> Result<Gradients> {
        self.count(tape, x)?;
        self.model.gradients(tape, x, target)
    }

    fn classes(&self) -> usize {
        self.model.classes()
    }
}

impl RunOptions<'_> {
    fn interrupted(&self) -> Error {
        let (saved, resume) = match self.state {
            Some(state) => (format!("progress is kept in {}", state.folder().display()), "the same command"),
            None => ("nothing is kept without --state DIR".into(), "the same command, which begins again"),
        };
        Error::Interrupted { saved, resume: resume.into() }
    }
}
