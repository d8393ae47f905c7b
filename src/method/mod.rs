//! Training methods, one file each, in the order and with the symbols of the paper's algorithm. `build.rs`
//! lists the files of this folder: a new method is one new file with a `METHOD` entry. `common/` is what
//! several methods share.
//!
//! A method has two halves, so that adversarial weight perturbation can differentiate the loss twice on the
//! same adversarial images: `attack` makes them, `loss` is differentiated.

pub mod common;

pub use common::keys::{apply, check_keys, load_recipe};
pub use common::loss::{Attacked, Loss};
pub use common::step::{Given, Step};

use crate::config::Config;
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/method.rs"));

/// What the registry knows of a method.
#[derive(Clone, Copy)]
pub struct Entry {
    /// As on the command line and in recipes.
    pub name: &'static str,
    pub about: &'static str,
    /// Authors, venue, arXiv number.
    pub paper: &'static str,
    /// The keys of the group "Method" that it reads.
    pub keys: &'static [&'static str],
    /// How many augmented views of each image a step gets.
    pub views: fn(&Config) -> usize,
    /// Whether it needs the averaged network.
    pub averaged: bool,
    /// Epochs before the classifier is trained: the learning-rate schedule begins anew behind them, and no
    /// best epoch is among them.
    pub pretraining: fn(&Config) -> usize,
    /// The adversarial images of a step.
    pub attack: fn(&mut Step) -> Result<Attacked>,
    /// The loss of a step on them.
    pub loss: fn(&mut Step, &Attacked) -> Result<Loss>,
    /// What happens after the update of the weights.
    pub after: fn(&mut Step) -> Result<()>,
}

impl Entry {
    /// What most methods have in common: one view, no averaged network, PGD on the cross entropy.
    const BASE: Entry = Entry {
        name: "",
        about: "",
        paper: "",
        keys: &[],
        views: |_| 1,
        averaged: false,
        pretraining: |_| 0,
        attack: common::loss::pgd_on_cross_entropy,
        loss: pgd_at::loss,
        after: |_| Ok(()),
    };
}

/// Every method.
pub fn methods() -> Vec<&'static Entry> {
    macro_rules! entries {
        ($($file:ident),*) => { vec![$(&$file::METHOD),*] };
    }
    every!(entries)
}

/// The method of this name; underscores and hyphens both work, and words for the signs: `rebat-plus-plus`,
/// `raat-sharp`. Errors name the nearest.
pub fn find(name: &str) -> Result<&'static Entry> {
    let wanted = name
        .trim()
        .to_lowercase()
        .replace('_', "-")
        .replace("-plus-plus", "++")
        .replace("-pp", "++")
        .replace("-sharp", "#");
    let all = methods();
    let found = all.iter().find(|m| m.name == wanted).copied();
    found.ok_or_else(|| Error::unknown("method", name, all.iter().map(|m| m.name)))
}
