//! A run: its directory, what it reports, the network in a weight file, and the checks of its configuration.

pub mod dir;
pub mod network;
pub mod observer;
mod requirements;

pub use requirements::validate;
