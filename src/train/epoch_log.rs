//! The log of a method over an epoch: means over all samples, and quantiles.

use super::step_report::Logged;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Width of a histogram's bin, and the largest value that has a bin of its own.
const WIDTH: f32 = 0.02;
const REACH: f32 = 20.0;

/// The quantiles that are recorded, in percent.
const QUANTILES: [usize; 5] = [5, 25, 50, 75, 95];

/// The values of an epoch's samples, counted in bins, so that an epoch of any length takes little memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Histogram(Vec<u32>);

impl Histogram {
    fn count(&mut self, values: &[f32]) {
        self.0.resize((2.0 * REACH / WIDTH) as usize, 0);
        let last = self.0.len() - 1;
        for value in values {
            self.0[(((value + REACH) / WIDTH).max(0.0) as usize).min(last)] += 1;
        }
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

/// One name of the log over an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Statistic {
    /// A sum over `of` samples or images.
    Mean {
        sum: u64,
        of: u64,
    },
    Quantiles(Histogram),
    Absent,
}

/// The log of an epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EpochLog(Vec<(String, Statistic)>);

impl EpochLog {
    /// Adds the log of one step.
    pub fn add(&mut self, log: &[(&'static str, Logged)]) {
        for (name, value) in log {
            match (self.statistic(name, value), value) {
                (Statistic::Mean { sum, of }, Logged::Part { count, of: all }) => {
                    *sum += count;
                    *of += all;
                }
                (Statistic::Quantiles(histogram), Logged::Values(values)) => histogram.count(values),
                _ => {}
            }
        }
    }

    /// The statistic of this name; a new one, of the kind that `value` asks for, at its first mention.
    fn statistic(&mut self, name: &str, value: &Logged) -> &mut Statistic {
        let place = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            let empty = match value {
                Logged::Part { .. } => Statistic::Mean { sum: 0, of: 0 },
                Logged::Values(_) => Statistic::Quantiles(Histogram::default()),
                Logged::Absent => Statistic::Absent,
            };
            self.0.push((name.to_owned(), empty));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }

    /// The object for `metrics.jsonl`; `None` when nothing was logged.
    pub fn record(&self) -> Option<Map<String, Value>> {
        let record = |statistic: &Statistic| match statistic {
            Statistic::Mean { sum, of } => json!(*sum as f64 / *of as f64),
            Statistic::Quantiles(histogram) => json!(histogram.quantiles()),
            Statistic::Absent => Value::Null,
        };
        let all = self.0.iter().map(|(name, statistic)| (name.clone(), record(statistic)));
        (!self.0.is_empty()).then(|| all.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_values() {
        let mut histogram = Histogram::default();
        let values: Vec<f32> =
            (0..1000).map(|i| (i as f32 + 0.5) * 0.01 - 5.0).chain([f32::INFINITY, -1e9]).collect();
        histogram.count(&values);
        let quantiles = histogram.quantiles();
        for (name, want) in [("q5", -4.5), ("q50", 0.0), ("q95", 4.5)] {
            assert!((quantiles[name].as_f64().unwrap() - want).abs() < 0.05, "{quantiles:?}");
        }
    }

    #[test]
    fn an_epoch_is_its_samples_together() {
        let step = |[set, flags]: [u64; 2], [count, images]: [u64; 2]| {
            let (flags, count) = (Logged::Part { count: set, of: flags }, Logged::Part { count, of: images });
            [("flags", flags), ("count", count), ("nothing", Logged::Absent)]
        };
        let mut log = EpochLog::default();
        assert_eq!(log.record(), None);
        log.add(&step([1, 4], [2, 2]));
        log.add(&step([2, 2], [0, 1]));
        let record = serde_json::to_value(log.record().unwrap()).unwrap();
        assert_eq!(record, json!({ "flags": 0.5, "count": 2.0 / 3.0, "nothing": null }));
        let text = serde_json::to_string(&log).unwrap();
        assert_eq!(serde_json::from_str::<EpochLog>(&text).unwrap().record(), log.record());
    }
}
