//! What several methods share: the step as a method sees it, its loss, its keys, and RAAT's alignment.

pub mod align;
pub mod inner_attack;
pub mod keys;
pub mod loss;

pub mod step;
