//! Sums over the steps of an epoch.

use super::epoch_log::EpochLog;
use super::step_report::StepReport;
use serde::{Deserialize, Serialize};

/// Sums over the steps of an epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EpochStats {
    /// Loss times images.
    loss: f64,
    /// The named terms, times images.
    terms: Vec<(String, f64)>,
    /// Labels that the training passes were compared with, and the number of right predictions.
    labels: usize,
    hits: usize,
    /// Further facts, of methods that log them.
    pub log: EpochLog,
    pub images: usize,
    /// Seconds of training.
    pub seconds: f64,
}

impl EpochStats {
    /// Adds a step.
    pub fn add(&mut self, step: &StepReport) {
        let images = step.images as f64;
        self.loss += step.loss as f64 * images;
        for (i, (name, term)) in step.terms.iter().enumerate() {
            if self.terms.len() <= i {
                self.terms.push(((*name).to_owned(), 0.0));
            }
            self.terms[i].1 += *term as f64 * images;
        }
        self.labels += step.labels;
        self.hits += step.hits;
        self.log.add(&step.log);
        self.images += step.images;
    }

    pub fn mean_loss(&self) -> f64 {
        self.loss / self.images.max(1) as f64
    }

    /// The means of the terms, by name.
    pub fn mean_terms(&self) -> Vec<(String, f64)> {
        let images = self.images.max(1) as f64;
        self.terms.iter().map(|(name, sum)| (name.clone(), sum / images)).collect()
    }

    /// The part of the labels that training passes got right; `None` where there were none.
    pub fn accuracy(&self) -> Option<f64> {
        (self.labels > 0).then(|| self.hits as f64 / self.labels as f64)
    }
}
