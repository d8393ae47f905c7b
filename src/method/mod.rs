//! Training methods, one file each, in the order and with the symbols of the paper's algorithm. `build.rs` lists the files of this folder:
//! a new method is one new file with a `METHOD` entry.

use crate::attack::{Draws, Pgd};
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::nn::{Leaves, Net};
use crate::rng::{Key, Purpose};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

include!(concat!(env!("OUT_DIR"), "/method.rs"));

/// What the registry knows of a method.
pub struct Entry {
    /// As on the command line and in recipes.
    pub name: &'static str,
    pub about: &'static str,
    /// Authors, venue, arXiv number.
    pub paper: &'static str,
    /// The loss of one step.
    pub loss: fn(&mut Step) -> Result<Loss>,
}

/// What a method gets for one training step.
pub struct Step<'a> {
    pub net: &'a mut Net,
    /// Where the differentiated passes of this step are recorded.
    pub tape: &'a Tape,
    /// The network's parameters on that tape.
    pub leaves: &'a Leaves,
    /// Clean images `[N,H,W,C]` in `[0,1]`.
    pub x: &'a Tensor,
    /// Labels `[N]`.
    pub y: &'a Buffer<i32>,
    /// The images' indices in the training set `[N]`.
    pub images: &'a Buffer<i32>,
    /// The inner attack.
    pub attack: Pgd,
    pub seed: u64,
    /// 0-based.
    pub epoch: usize,
}

impl<'a> Step<'a> {
    /// The random numbers of the inner attack on view `view` of the images.
    pub fn draws(&self, view: u32) -> Draws<'a> {
        Draws { key: Key::new(self.seed, Purpose::AttackStart, self.epoch as u32, view), images: self.images }
    }
}

/// What a method computes in one step.
pub struct Loss {
    /// The scalar to minimise.
    pub total: Var,
    /// Its named terms, for the records.
    pub terms: Vec<(&'static str, Var)>,
    /// The logits `[N, classes]` by which training accuracy is counted.
    pub logits: Var,
}

/// Every method.
pub fn methods() -> Vec<&'static Entry> {
    macro_rules! entries {
        ($($file:ident),*) => { vec![$(&$file::METHOD),*] };
    }
    every!(entries)
}

/// The method of this name; underscores and hyphens both work. Errors name the nearest.
pub fn find(name: &str) -> Result<&'static Entry> {
    let wanted = name.trim().to_lowercase().replace('_', "-");
    let all = methods();
    let found = all.iter().find(|m| m.name == wanted).copied();
    found.ok_or_else(|| Error::unknown("method", name, all.iter().map(|m| m.name)))
}
