//! A run under way: its records, its observer, and the ways in which it ends early.

use super::checkpoint::Progress;
use crate::error::{Error, Result};
use crate::run::dir::RunDir;
use crate::run::observer::Observer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run under way.
pub struct Run<'a> {
    pub dir: RunDir,
    pub observer: &'a mut dyn Observer,
    /// Raised to stop the run.
    pub stop: &'a AtomicBool,
    /// When this session began.
    pub began: Instant,
    /// Seconds of earlier sessions.
    pub earlier: f64,
}

impl Run<'_> {
    /// Wall time of this and earlier sessions.
    pub fn seconds(&self) -> f64 {
        self.earlier + self.began.elapsed().as_secs_f64()
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Reports the progress of an evaluation. Errors: the run was asked to stop.
    pub fn evaluating(&mut self, what: &str, done: usize, of: usize) -> Result<()> {
        self.observer.evaluating(what, done, of);
        if self.is_stopped() { Err(self.interrupted("all training so far")) } else { Ok(()) }
    }

    /// The error of a run that was asked to stop; `what` is saved.
    pub fn interrupted(&self, what: &str) -> Error {
        let root = self.dir.root().display();
        Error::Interrupted {
            saved: format!("{what} is saved in {root}"),
            resume: format!("saddle train --resume {root}"),
        }
    }

    /// The error of a loss that is not a number, in a step counted from 1.
    pub fn not_finite(&self, loss: f32, epoch: usize, step: usize, progress: &Progress) -> Error {
        let checkpoints = self.dir.root().join("checkpoints");
        let kept = match progress.epochs_done {
            0 => "no epoch was finished before".to_owned(),
            n => format!("the checkpoints of epoch {n} are kept in {}", checkpoints.display()),
        };
        Error::NotFinite { loss, epoch: epoch + 1, step, kept }
    }
}
