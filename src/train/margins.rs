//! Statistics of RAAT's split over an epoch: quantiles of the margins, and the parts of the samples in its
//! sets.

use crate::error::Result;
use crate::ops::split::Split;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Width of a histogram's bin, and the largest margin that is told apart.
const WIDTH: f32 = 0.02;
const REACH: f32 = 20.0;

/// The quantiles that are recorded, in percent.
const QUANTILES: [usize; 5] = [5, 25, 50, 75, 95];

/// The margins of an epoch's samples, counted in bins, so that an epoch of any length takes little memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Histogram(Vec<u32>);

impl Histogram {
    fn count(&mut self, margins: &Tensor) -> Result<()> {
        self.0.resize((2.0 * REACH / WIDTH) as usize, 0);
        let last = self.0.len() - 1;
        for margin in margins.to_vec()? {
            self.0[(((margin + REACH) / WIDTH).max(0.0) as usize).min(last)] += 1;
        }
        Ok(())
    }

    /// Quantiles, each the middle of its bin.
    fn quantiles(&self) -> Map<String, Value> {
        let total: u64 = self.0.iter().map(|n| *n as u64).sum();
        let quantile = |percent: usize| {
            let mut below = 0;
            let reached = |n: &u32| {
                below += *n as u64;
                below * 100 >= total * percent as u64 && below > 0
            };
            let bin = self.0.iter().position(reached).unwrap_or(0);
            ((bin as f64 + 0.5) * WIDTH as f64 - REACH as f64) * 1000.0
        };
        QUANTILES.iter().map(|q| (format!("q{q}"), json!(quantile(*q).round() / 1000.0))).collect()
    }
}

/// What an epoch's splits came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Margins {
    clean: Histogram,
    adv: Histogram,
    reduced: Histogram,
    samples: usize,
    boundary: usize,
    /// Images that could be in S, and those that were.
    images: usize,
    aligned: usize,
}

impl Margins {
    /// Adds the split of one step of `images` images, `aligned` of which were in S. Waits for the device.
    pub fn add(&mut self, split: &Split, aligned: Option<i32>, images: usize) -> Result<()> {
        self.clean.count(&split.clean)?;
        self.adv.count(&split.adv)?;
        self.reduced.count(&split.reduced)?;
        let boundary = split.boundary.to_vec()?;
        self.samples += boundary.len();
        self.boundary += boundary.iter().filter(|flag| **flag != 0).count();
        if let Some(aligned) = aligned {
            self.images += images;
            self.aligned += aligned as usize;
        }
        Ok(())
    }

    /// The object for `metrics.jsonl`; `None` when there was no split.
    pub fn record(&self) -> Option<Value> {
        let part = |n: usize, of: usize| (of > 0).then(|| n as f64 / of as f64);
        (self.samples > 0).then(|| {
            json!({
                "boundary": part(self.boundary, self.samples),
                "aligned": part(self.aligned, self.images),
                "margin.clean": self.clean.quantiles(),
                "margin.adv": self.adv.quantiles(),
                "margin.reduced": self.reduced.quantiles(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn quantiles_of_margins() {
        let device = Device::host().unwrap();
        let mut histogram = Histogram::default();
        let margins: Vec<f32> =
            (0..1000).map(|i| (i as f32 + 0.5) * 0.01 - 5.0).chain([f32::INFINITY, -1e9]).collect();
        histogram.count(&Tensor::from_slice(&device, &[1002], &margins).unwrap()).unwrap();
        let quantiles = histogram.quantiles();
        for (name, want) in [("q5", -4.5), ("q50", 0.0), ("q95", 4.5)] {
            assert!((quantiles[name].as_f64().unwrap() - want).abs() < 0.05, "{quantiles:?}");
        }
        assert_eq!(Margins::default().record(), None);
    }
}
