//! What the steps of an epoch add up to.

use super::margins::Margins;
use super::step::Stepped;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Sums over the steps of an epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Loss times images.
    pub loss: f64,
    /// The named terms, times images.
    pub terms: Vec<(String, f64)>,
    /// Labels that the training passes were compared with, and how many were right.
    pub judged: usize,
    pub hits: usize,
    /// The splits of the samples, of methods that make them.
    pub margins: Margins,
    pub images: usize,
    pub seconds: f64,
}

impl Totals {
    /// Adds a step over `images` images whose loss was `loss`. Waits for the device.
    pub fn add(&mut self, images: usize, loss: f32, stepped: &Stepped) -> Result<()> {
        self.loss += loss as f64 * images as f64;
        for (i, (name, term)) in stepped.terms.iter().enumerate() {
            if self.terms.len() <= i {
                self.terms.push(((*name).to_owned(), 0.0));
            }
            self.terms[i].1 += term.item()? as f64 * images as f64;
        }
        if let Some(hits) = &stepped.hits {
            self.judged += hits.len();
            self.hits += hits.to_vec()?.iter().filter(|hit| **hit != 0).count();
        }
        if let Some(split) = &stepped.split {
            let aligned =
                stepped.aligned.as_ref().map(|s| s.to_vec()).transpose()?.and_then(|s| s.first().copied());
            self.margins.add(split, aligned, images)?;
        }
        self.images += images;
        Ok(())
    }

    /// The part of the labels that training passes got right; `None` where there were none.
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.hits as f64 / self.judged as f64)
    }
}
