//! PGD-AT. Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
//! arXiv 1706.06083, equation 2.1: min_theta E max_{|d| <= eps} L(theta, x + d, y).
//!
//! ```text
//! x' = PGD(CE) from x             uniform start, batch norm in eval mode
//! loss = CE(z(x')[train], y)
//! ```

use super::{Attacked, Entry, Loss, Step};
use crate::error::Result;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;

pub const METHOD: Entry = Entry {
    name: "pgd-at",
    about: "cross entropy on PGD images: the baseline of adversarial training",
    paper: "Madry et al., ICLR 2018, arXiv 1706.06083",
    loss,
    ..Entry::BASE
};

pub fn loss(step: &mut Step, made: &Attacked) -> Result<Loss> {
    let z = step.train(&made.x_adv)?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    Loss::new(step.tape, z, &[("ce", 1.0, ce)])
}
