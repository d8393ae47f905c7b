//! Studies over whole runs: comparisons of methods, and what the papers show of a trained network.

pub mod analyse;
pub mod compare;
