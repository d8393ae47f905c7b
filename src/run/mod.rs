//! A run: its directory and records, what it reports, where its results come from, and the network in a
//! weight file.

pub mod dir;
pub mod network;
pub mod observer;
pub mod provenance;
mod records;
