//! Shared by several methods: the step as a method sees it, losses, what is logged, and RAAT's two ideas.

pub mod log;
pub mod loss;
pub mod perturbation;
pub mod raat;
pub mod settings;
pub mod step;
