//! Where time and memory go: traces of any command, the profile of training steps, and one step explained
//! launch by launch.

pub mod explain;
pub mod memory;
pub mod phase;
pub mod table;
pub mod trace_file;

#[cfg(test)]
mod tests;
