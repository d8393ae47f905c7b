//! What several methods share: the step as a method sees it, its settings, its loss, and RAAT's alignment.

pub mod align;
pub mod loss;
pub mod settings;
pub mod step;
