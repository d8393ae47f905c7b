//! The families of networks, a file each: its blocks, the names of its layers, and its named architectures.
//!
//! A new family is a new file with `ARCHITECTURES`, listed here.

pub mod basic;
pub mod bottleneck;
pub mod preact;
pub mod wide;

use super::layers::{Builder, Layer, Linear};
use super::residual::Stages;
use crate::error::{Error, Result};

/// All architectures, by family.
const FAMILIES: &[&[Arch]] =
    &[basic::ARCHITECTURES, bottleneck::ARCHITECTURES, preact::ARCHITECTURES, wide::ARCHITECTURES];

/// A named architecture.
pub struct Arch {
    pub name: &'static str,
    /// One line for `saddle models`.
    pub about: &'static str,
    /// Adds the layers and their parameters, in PyTorch's order.
    pub(super) layers: fn(&mut Builder) -> Result<Layers>,
}

/// A network without its parameters, between the normalised images `[N,H,W,C]` and the logits. The classifier
/// reads the average over all pixels of the last feature map.
pub struct Layers {
    pub stem: Box<dyn Layer>,
    /// The blocks of each resolution.
    pub stages: Stages,
    /// The layer after the last stage, in pre-activation families.
    pub last: Option<Box<dyn Layer>>,
    pub classifier: Linear,
}

/// Every architecture.
pub fn architectures() -> impl Iterator<Item = &'static Arch> {
    FAMILIES.iter().copied().flatten()
}

impl Arch {
    /// The architecture of this name; underscores and hyphens both work. Errors name the nearest.
    pub fn find(name: &str) -> Result<&'static Arch> {
        let wanted = name.trim().to_lowercase().replace('_', "-");
        let found = architectures().find(|arch| arch.name == wanted);
        found.ok_or_else(|| Error::unknown("model", name, architectures().map(|arch| arch.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/nn/families");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(files.filter(|name| name != "mod.rs").count(), FAMILIES.len());
        let first: BTreeSet<&str> = FAMILIES.iter().map(|family| family[0].name).collect();
        assert_eq!(first.len(), FAMILIES.len(), "a family is listed twice");
        let names: BTreeSet<&str> = architectures().map(|arch| arch.name).collect();
        assert_eq!(names.len(), architectures().count(), "two architectures have one name");
    }
}
