//! Studies over whole runs: comparisons of methods, and the papers' motivating figures of a trained network.

pub mod analyse;
pub mod compare;
pub mod precision;
