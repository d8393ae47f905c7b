//! Training methods, one file each, in the order and with the symbols of the paper's algorithm. A new method
//! is one new file with a `METHOD`, its `mod` line and its place in [`METHODS`]. `common/` is shared.
//!
//! A method's `prepare` makes the adversarial images of a step and returns them with the loss on them, a
//! closure: adversarial weight perturbation differentiates it twice on the same images.

pub mod afa;
pub mod afa_trades;
pub mod boundary_at;
pub mod common;
pub mod consistency_at;
pub mod mart;
pub mod pgd_at;
pub mod raat;
pub mod raat_pp;
pub mod raat_sharp;
pub mod rebat;
pub mod rebat_pp;
pub mod rpat;
pub mod rpat_pp;
pub mod standard;
pub mod trades;

pub use common::keys::{apply, check_keys, is_read, load_recipe};
pub use common::log::{Log, LogValue};
pub use common::loss::{AdversarialLoss, BaseLoss, Loss};
pub use common::step::{FixedNoise, Step, draw_mix};

use crate::config::Config;
use crate::error::{Error, Result};

/// Every method.
pub static METHODS: &[Method] = &[
    afa::METHOD,
    afa_trades::METHOD,
    boundary_at::METHOD,
    consistency_at::METHOD,
    mart::METHOD,
    pgd_at::METHOD,
    raat::METHOD,
    raat_pp::METHOD,
    raat_sharp::METHOD,
    rebat::METHOD,
    rebat_pp::METHOD,
    rpat::METHOD,
    rpat_pp::METHOD,
    standard::METHOD,
    trades::METHOD,
];

/// A training method.
#[derive(Clone, Copy)]
pub struct Method {
    /// As on the command line and in recipes.
    pub name: &'static str,
    pub about: &'static str,
    /// Authors, venue, arXiv number.
    pub paper: &'static str,
    /// The keys of the group "Method" that it reads.
    pub keys: &'static [&'static str],
    /// The number of augmented views of each image in a step.
    pub views: fn(&Config) -> usize,
    /// Whether it needs the averaged network.
    pub averaged: bool,
    /// Epochs before the classifier is trained: the learning-rate schedule begins anew after them, and no
    /// best epoch is among them.
    pub pretraining: fn(&Config) -> usize,
    /// The adversarial images of a step, and the loss on them.
    pub prepare: fn(&mut Step) -> Result<AdversarialLoss>,
    /// Called after the update of the weights.
    pub after: fn(&mut Step) -> Result<()>,
}

impl Method {
    /// PGD-AT without a name: most methods have one view, no averaged network, and nothing to do after an
    /// update.
    const BASE: Method = Method {
        name: "",
        about: "",
        paper: "",
        keys: &[],
        views: |_| 1,
        averaged: false,
        pretraining: |_| 0,
        prepare: |step| Ok(AdversarialLoss::on(step.pgd_on_cross_entropy()?, pgd_at::loss)),
        after: |_| Ok(()),
    };
}

/// The method of this name; underscores and hyphens both work, and words for the signs: `rebat-plus-plus`,
/// `raat-sharp`. Errors name the nearest.
pub fn find(name: &str) -> Result<&'static Method> {
    let wanted = name
        .trim()
        .to_lowercase()
        .replace('_', "-")
        .replace("-plus-plus", "++")
        .replace("-pp", "++")
        .replace("-sharp", "#");
    let found = METHODS.iter().find(|method| method.name == wanted);
    found.ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|method| method.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_and_the_list_agree() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/method");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let text = include_str!("mod.rs");
        let lines = text.lines().map(str::trim);
        let listed: Vec<&str> = lines.filter_map(|line| line.strip_suffix("::METHOD,")).collect();
        assert_eq!(listed, files);
        assert_eq!(METHODS.len(), files.len());
    }
}
