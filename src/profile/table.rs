//! Where the time of steps goes: sums over launches, by phase, by kernel and by layer.

use super::phase::Phase;
use crate::config::Config;
use crate::device::trace::{Event, Launch, Listener};
use crate::device::{Device, Peaks};
use crate::error::Result;
use crate::train::rehearsal::Rehearsal;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Sums over launches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sum {
    pub name: String,
    pub launches: u64,
    pub seconds: f64,
    pub flop: u64,
    pub bytes: u64,
    /// The least seconds that the launches can take.
    pub bound: f64,
}

/// Measures `steps` training steps of a configuration, at least one, after two to warm up.
pub fn profile(device: &Device, config: &Config, steps: usize) -> Result<Profile> {
    let roofline = device.peaks()?;
    let table = Arc::new(Mutex::new(Table { roofline: roofline.clone(), sums: Sums::default() }));
    let take = || std::mem::take(&mut table.lock().unwrap_or_else(PoisonError::into_inner).sums);
    device.listen(table.clone());
    let mut rehearsal = Rehearsal::new(device, config)?;
    let mut step = || {
        let began = Instant::now();
        rehearsal.step()?;
        device.settle()?;
        Ok((began.elapsed().as_secs_f64(), take()))
    };
    step()?;
    step()?;
    let mut measured = (0..steps.max(1)).map(|_| step()).collect::<Result<Vec<_>>>()?;
    measured.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let range = [measured[0].0, measured[measured.len() - 1].0];
    let (seconds, sums) = measured.swap_remove((measured.len() - 1) / 2);
    Ok(sums.profile(Profile {
        steps: steps.max(1),
        step_seconds: seconds,
        range,
        roofline,
        phases: Vec::new(),
        kernels: Vec::new(),
        layers: Vec::new(),
        total: Sum::default(),
    }))
}

/// Sums over the launches of a step.
struct Table {
    roofline: Peaks,
    sums: Sums,
}

/// Sums over launches by what they are part of.
#[derive(Default)]
pub(super) struct Sums {
    phases: HashMap<Phase, Sum>,
    kernels: HashMap<&'static str, Sum>,
    layers: HashMap<String, Sum>,
    total: Sum,
}

/// The step of the median time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Steps that were measured.
    pub steps: usize,
    /// Seconds from the beginning of the step to its end.
    pub step_seconds: f64,
    /// Those of the fastest and of the slowest step.
    pub range: [f64; 2],
    pub roofline: Peaks,
    /// In the order of a step.
    pub phases: Vec<Sum>,
    /// The longest first.
    pub kernels: Vec<Sum>,
    pub layers: Vec<Sum>,
    /// All launches.
    pub total: Sum,
}

impl Sum {
    fn add(&mut self, launch: &Launch, bound: f64) {
        self.launches += 1;
        self.seconds += launch.span.map_or(0.0, |span| span.seconds());
        self.flop += launch.work.flop.unwrap_or(0);
        self.bytes += launch.work.bytes();
        self.bound += bound;
    }

    /// The share of the roofline, in percent.
    pub fn roof(&self) -> f64 {
        100.0 * self.bound / self.seconds
    }
}

impl Sums {
    pub fn add(&mut self, launch: &Launch, roofline: &Peaks) {
        let (bound, _) = roofline.bound(&launch.work);
        self.phases.entry(Phase::of(&launch.path)).or_default().add(launch, bound);
        self.kernels.entry(launch.kernel).or_default().add(launch, bound);
        if let Some(layer) = launch.path.layer() {
            self.layers.entry(layer.to_string()).or_default().add(launch, bound);
        }
        self.total.add(launch, bound);
    }

    /// By phase, in the order of a step.
    pub fn phases(&self) -> Vec<Sum> {
        let mut phases: Vec<_> = self.phases.iter().collect();
        phases.sort_by_key(|(phase, _)| **phase);
        phases.into_iter().map(|(phase, sum)| Sum { name: phase.to_string(), ..sum.clone() }).collect()
    }

    /// Of all launches, under this name.
    pub fn total(&self, name: &str) -> Sum {
        Sum { name: name.into(), ..self.total.clone() }
    }

    /// The tables of these sums, with everything else of `about`.
    fn profile(self, about: Profile) -> Profile {
        let longest = |sums: &mut dyn Iterator<Item = (String, Sum)>| {
            let mut sums: Vec<Sum> = sums.map(|(name, sum)| Sum { name, ..sum }).collect();
            sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            sums
        };
        Profile {
            phases: self.phases(),
            total: self.total("all kernels"),
            kernels: longest(&mut self.kernels.into_iter().map(|(name, sum)| (name.to_owned(), sum))),
            layers: longest(&mut self.layers.into_iter()),
            ..about
        }
    }
}

impl Listener for Table {
    fn hear(&mut self, event: Event) {
        if let Event::Launched(launch) = event {
            self.sums.add(&launch, &self.roofline);
        }
    }
}
