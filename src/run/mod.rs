//! A run: its directory, what it reports, and the network in a weight file.

pub mod dir;
pub mod network;
pub mod observer;
