//! Shared by several methods: the step as a method sees it, losses, logs, keys, and RAAT's two ideas.

pub mod inner_attack;
pub mod keys;
pub mod log;
pub mod loss;
pub mod perturbation;
pub mod raat;
pub mod step;
