//! Where the time of steps goes: sums over launches, by phase, by kernel and by layer.

use super::phase::Phase;
use super::roofline::Roofline;
use crate::config::Config;
use crate::device::Device;
use crate::device::trace::{Event, Launch, Listener};
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

/// Measures `steps` training steps of a configuration after two to warm up.
pub fn profile(device: &Device, config: &Config, steps: usize) -> Result<Profile> {
    let table = Arc::new(Mutex::new(Table::new(Roofline::of(device)?)));
    let heard = || table.lock().unwrap_or_else(PoisonError::into_inner);
    device.listen(table.clone());
    let mut rehearsal = Rehearsal::new(device, config)?;
    for _ in 0..2 {
        rehearsal.step()?;
    }
    device.settle()?;
    heard().measuring = true;
    let began = Instant::now();
    for _ in 0..steps {
        rehearsal.step()?;
    }
    device.settle()?;
    let seconds = began.elapsed().as_secs_f64();
    let mut heard = heard();
    heard.measuring = false;
    Ok(heard.profile(steps, seconds))
}

/// Sums over the launches of the steps that were measured.
struct Table {
    roofline: Roofline,
    measuring: bool,
    phases: HashMap<Phase, Sum>,
    kernels: HashMap<&'static str, Sum>,
    layers: HashMap<String, Sum>,
    total: Sum,
}

/// The result, per step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub steps: usize,
    /// Seconds from the beginning of a step to its end.
    pub step_seconds: f64,
    pub roofline: Roofline,
    /// In the order of a step.
    pub phases: Vec<Sum>,
    /// The longest first.
    pub kernels: Vec<Sum>,
    pub layers: Vec<Sum>,
    /// All launches.
    pub total: Sum,
}

impl Sum {
    pub(super) fn named(name: impl Into<String>) -> Sum {
        Sum { name: name.into(), ..Sum::default() }
    }

    pub(super) fn add(&mut self, launch: &Launch, bound: f64) {
        self.launches += 1;
        self.seconds += launch.span.map_or(0.0, |span| span.seconds());
        self.flop += launch.work.flop.unwrap_or(0);
        self.bytes += launch.work.bytes();
        self.bound += bound;
    }

    fn per_step(mut self, name: String, steps: usize) -> Sum {
        let n = steps.max(1);
        (self.name, self.launches) = (name, self.launches / n as u64);
        (self.flop, self.bytes) = (self.flop / n as u64, self.bytes / n as u64);
        (self.seconds, self.bound) = (self.seconds / n as f64, self.bound / n as f64);
        self
    }

    /// The share of the roofline, in percent.
    pub fn roof(&self) -> f64 {
        100.0 * self.bound / self.seconds
    }
}

impl Table {
    fn new(roofline: Roofline) -> Table {
        Table {
            roofline,
            measuring: false,
            phases: HashMap::new(),
            kernels: HashMap::new(),
            layers: HashMap::new(),
            total: Sum::default(),
        }
    }

    /// The sums of `steps` steps that took `seconds` together.
    fn profile(&self, steps: usize, seconds: f64) -> Profile {
        let longest = |mut sums: Vec<Sum>| {
            sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            sums
        };
        let mut phases: Vec<_> = self.phases.iter().collect();
        phases.sort_by_key(|(phase, _)| **phase);
        let sum = |name: String, sum: &Sum| sum.clone().per_step(name, steps);
        Profile {
            steps,
            step_seconds: seconds / steps.max(1) as f64,
            roofline: self.roofline.clone(),
            phases: phases.into_iter().map(|(phase, of)| sum(phase.to_string(), of)).collect(),
            kernels: longest(self.kernels.iter().map(|(name, of)| sum((*name).into(), of)).collect()),
            layers: longest(self.layers.iter().map(|(name, of)| sum(name.clone(), of)).collect()),
            total: sum("all kernels".into(), &self.total),
        }
    }
}

impl Listener for Table {
    fn hear(&mut self, event: Event) {
        let Event::Launched(launch) = event else { return };
        if !self.measuring {
            return;
        }
        let (bound, _) = self.roofline.bound(&launch.work);
        self.phases.entry(Phase::of(&launch.path)).or_default().add(&launch, bound);
        self.kernels.entry(launch.kernel).or_default().add(&launch, bound);
        if let Some(layer) = launch.path.layer() {
            self.layers.entry(layer.to_string()).or_default().add(&launch, bound);
        }
        self.total.add(&launch, bound);
    }
}
