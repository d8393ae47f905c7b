//! One training step, launch by launch, without running it: what each does, and what its memory is for.

use super::memory::{ClassBytes, MemoryCount};
use super::phase::{Phase, attack_step};
use super::table::{Sum, Sums};
use crate::config::Config;
use crate::device::trace::{Event, Launch, Listener};
use crate::device::{Binding, Device, Peaks, Precision};
use crate::error::Result;
use crate::train::rehearsal::Rehearsal;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// A launch, or several in a row that differ in their sizes only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub kernel: &'static str,
    pub layer: Option<String>,
    pub shape: String,
    pub launches: u64,
    pub grid: [u32; 3],
    pub threads: usize,
    pub read: u64,
    pub written: u64,
    pub flop: Option<u64>,
    pub precision: Precision,
    /// The least seconds of all its launches, and what takes them.
    pub bound: f64,
    pub binding: Binding,
}

/// Launches of one phase in their order; of an attack's steps with the same launches, those of the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// The number of its first launch in the step, from 1.
    pub first: u64,
    pub phase: Phase,
    /// The first and the last of the attack's steps.
    pub attack_steps: Option<[usize; 2]>,
    pub rows: Vec<Row>,
}

/// A step explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    pub sections: Vec<Section>,
    /// In the order of a step.
    pub phases: Vec<Sum>,
    pub total: Sum,
    pub roofline: Peaks,
    pub memory: Vec<ClassBytes>,
    /// The most bytes that buffers held at once.
    pub peak: u64,
    /// Bytes that the device's allocator took from the system for them.
    pub held: u64,
}

/// What is heard of the steps.
#[derive(Default)]
struct Notes {
    launches: Vec<Launch>,
    memory: MemoryCount,
}

impl Listener for Notes {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Launched(launch) => self.launches.push(launch),
            other => self.memory.hear(other),
        }
    }
}

/// Explains a training step of this configuration on a device, which is of no use for anything else
/// afterwards.
pub fn explain(device: &Device, config: &Config) -> Result<Explanation> {
    let roofline = device.peaks()?;
    let notes = Arc::new(Mutex::new(Notes::default()));
    let heard = || notes.lock().unwrap_or_else(PoisonError::into_inner);
    device.listen(notes.clone());
    device.rehearse();
    let mut rehearsal = Rehearsal::new(device, config)?;
    // The first step of a run prepares things, such as momentum; the second is like all others.
    rehearsal.step()?;
    heard().launches.clear();
    rehearsal.step()?;
    let Notes { launches, memory } = &*heard();
    let mut sums = Sums::default();
    launches.iter().for_each(|launch| sums.add(launch, &roofline));
    Ok(Explanation {
        sections: sections(launches, &roofline),
        phases: sums.phases(),
        total: sums.total("all launches"),
        roofline,
        memory: memory.classes(),
        peak: memory.peak(),
        held: device.memory_held() as u64,
    })
}

/// The launches by phase, and steps of an attack that are alike together.
fn sections(launches: &[Launch], roofline: &Peaks) -> Vec<Section> {
    let same_step = |a: &Launch, b: &Launch| attack_step(&a.path) == attack_step(&b.path);
    let (mut groups, mut done) = (Vec::<Vec<Section>>::new(), 0);
    for part in launches.chunk_by(same_step) {
        let step = part.first().and_then(|launch| attack_step(&launch.path));
        let section = |part: &[Launch]| {
            let phase = part.first().map_or(Phase::Other, |launch| Phase::of(&launch.path));
            let (first, rows) = (done + 1, rows(part, roofline));
            done += part.len() as u64;
            Section { first, phase, attack_steps: step.map(|step| [step, step]), rows }
        };
        let same_phase = |a: &Launch, b: &Launch| Phase::of(&a.path) == Phase::of(&b.path);
        let group: Vec<Section> = part.chunk_by(same_phase).map(section).collect();
        match groups.last_mut().filter(|last| follows(last, &group)) {
            Some(last) => {
                for section in last {
                    section.attack_steps = section.attack_steps.map(|[first, last]| [first, last + 1]);
                }
            }
            None => groups.push(group),
        }
    }
    groups.into_iter().flatten().collect()
}

/// Whether a step of an attack comes after others of the same launches.
fn follows(before: &[Section], step: &[Section]) -> bool {
    let number = |sections: &[Section]| sections.first().and_then(|section| section.attack_steps);
    let (Some([_, last]), Some([next, _])) = (number(before), number(step)) else { return false };
    let alike = |(a, b): (&Section, &Section)| a.phase == b.phase && a.rows == b.rows;
    next == last + 1 && before.len() == step.len() && before.iter().zip(step).all(alike)
}

/// The rows of launches of one phase. Those of one kernel in a row that are of no layer are one.
fn rows(launches: &[Launch], roofline: &Peaks) -> Vec<Row> {
    let is_alike =
        |a: &Launch, b: &Launch| a.kernel == b.kernel && a.path.layer().is_none() && b.path.layer().is_none();
    launches.chunk_by(is_alike).filter_map(|part| row(part, roofline)).collect()
}

fn row(part: &[Launch], roofline: &Peaks) -> Option<Row> {
    let first = part.first()?;
    let bounds = part.iter().map(|launch| roofline.bound(&launch.work));
    let of = |number: fn(&Launch) -> u64| part.iter().map(number).sum();
    Some(Row {
        kernel: first.kernel,
        layer: first.path.layer().map(|layer| layer.to_string()),
        shape: if part.len() == 1 { first.work.shape.clone() } else { "several".into() },
        launches: part.len() as u64,
        grid: first.grid,
        threads: first.threads,
        read: of(|launch| launch.work.read),
        written: of(|launch| launch.work.written),
        flop: first.work.flop.map(|_| of(|launch| launch.work.flop.unwrap_or(0))),
        precision: first.work.precision,
        bound: bounds.map(|(seconds, _)| seconds).sum(),
        binding: roofline.bound(&first.work).1,
    })
}
