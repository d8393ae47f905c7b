//! The phases of a training step or of an evaluation.

use crate::device::trace::{Path, Range};
use serde::Serialize;
use strum::{Display, VariantArray};

/// What a launch is part of, in the order of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, VariantArray, Serialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Making a batch.
    Data,
    #[strum(to_string = "attack start")]
    #[serde(rename = "attack start")]
    AttackStart,
    #[strum(to_string = "attack forward")]
    #[serde(rename = "attack forward")]
    AttackForward,
    #[strum(to_string = "attack backward")]
    #[serde(rename = "attack backward")]
    AttackBackward,
    /// Moving the images.
    #[strum(to_string = "attack step")]
    #[serde(rename = "attack step")]
    AttackStep,
    /// Logits without a gradient.
    Evaluation,
    #[strum(to_string = "training forward")]
    #[serde(rename = "training forward")]
    TrainingForward,
    #[strum(to_string = "training backward")]
    #[serde(rename = "training backward")]
    TrainingBackward,
    Update,
    Average,
    Other,
}

impl Phase {
    pub fn of(path: &Path) -> Phase {
        let in_attack = path.ranges().any(|range| matches!(range, Range::Attack | Range::AttackStep(_)));
        // The innermost range says most.
        let phase = path.ranges().rev().find_map(|range| match range {
            Range::Forward if in_attack => Some(Phase::AttackForward),
            Range::Backward if in_attack => Some(Phase::AttackBackward),
            Range::Forward => Some(Phase::TrainingForward),
            Range::Backward => Some(Phase::TrainingBackward),
            Range::AttackStep(_) => Some(Phase::AttackStep),
            Range::Attack => Some(Phase::AttackStart),
            Range::Evaluation => Some(Phase::Evaluation),
            Range::Update => Some(Phase::Update),
            Range::Average => Some(Phase::Average),
            Range::Data => Some(Phase::Data),
            Range::Network | Range::Epoch(_) | Range::Step(_) | Range::Gradient => None,
        });
        phase.unwrap_or(Phase::Other)
    }
}

/// The step of an attack that a launch is part of.
pub fn attack_step(path: &Path) -> Option<usize> {
    path.ranges().find_map(|range| if let Range::AttackStep(step) = range { Some(step) } else { None })
}
