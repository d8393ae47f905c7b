//! The memory of a step by what it holds.

use super::phase::Phase;
use crate::device::trace::{Event, Listener, Path, Range};
use serde::Serialize;
use std::collections::HashMap;
use strum::{Display, VariantArray};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, VariantArray, Serialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum TensorClass {
    /// The networks' weights and statistics, and those of the average.
    Weights,
    /// Of the parameters.
    Gradients,
    Momentum,
    /// What the training pass keeps for its backward pass, and the gradients of it.
    Activations,
    /// All that is allocated while adversarial images are made.
    Attack,
    /// Images, labels, and batches of them.
    Data,
    Others,
}

impl TensorClass {
    fn of(path: &Path) -> TensorClass {
        if path.ranges().any(|range| range == Range::Network) {
            return TensorClass::Weights;
        }
        let gradient = path.ranges().any(|range| range == Range::Gradient);
        match Phase::of(path) {
            Phase::TrainingBackward if gradient => TensorClass::Gradients,
            Phase::TrainingForward | Phase::TrainingBackward => TensorClass::Activations,
            Phase::AttackStart | Phase::AttackForward | Phase::AttackBackward | Phase::AttackStep => {
                TensorClass::Attack
            }
            Phase::Evaluation if path.ranges().any(|range| range == Range::Attack) => TensorClass::Attack,
            Phase::Update => TensorClass::Momentum,
            Phase::Data => TensorClass::Data,
            Phase::Evaluation | Phase::Average | Phase::Other => TensorClass::Others,
        }
    }
}

/// Bytes of a class: at the moment when all classes together held most, and at its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClassBytes {
    pub class: TensorClass,
    pub at_peak: u64,
    pub most: u64,
}

/// Counts the bytes of buffers by class.
#[derive(Default)]
pub struct MemoryCount {
    buffers: HashMap<u64, (TensorClass, u64)>,
    now: HashMap<TensorClass, u64>,
    most: HashMap<TensorClass, u64>,
    at_peak: HashMap<TensorClass, u64>,
    peak: u64,
}

impl MemoryCount {
    /// The most bytes of all buffers.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    pub fn classes(&self) -> Vec<ClassBytes> {
        let of = |counts: &HashMap<_, _>, class| counts.get(&class).copied().unwrap_or(0);
        let bytes =
            |&class| ClassBytes { class, at_peak: of(&self.at_peak, class), most: of(&self.most, class) };
        TensorClass::VARIANTS.iter().map(bytes).collect()
    }

    fn free(&mut self, address: u64) {
        if let Some((class, bytes)) = self.buffers.remove(&address) {
            *self.now.entry(class).or_default() -= bytes;
        }
    }
}

impl Listener for MemoryCount {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Allocated { address, bytes, path } => {
                let class = TensorClass::of(&path);
                self.buffers.insert(address, (class, bytes));
                let now = self.now.entry(class).or_default();
                *now += bytes;
                let most = self.most.entry(class).or_default();
                *most = (*most).max(*now);
                let all = self.now.values().sum();
                if all > self.peak {
                    (self.peak, self.at_peak) = (all, self.now.clone());
                }
            }
            Event::Freed { address } => self.free(address),
            Event::Launched(_) | Event::Closed { .. } => {}
        }
    }
}
