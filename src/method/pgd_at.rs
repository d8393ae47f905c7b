//! PGD-AT. Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
//! arXiv 1706.06083, equation 2.1: min_theta E max_{|d| <= eps} L(theta, x + d, y).
//!
//! ```text
//! x' = PGD(CE) from x             batch norm in eval mode
//! loss = CE(z(x')[train], y)
//! ```

use super::{Entry, Loss, Step};
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;

pub const METHOD: Entry = Entry {
    name: "pgd-at",
    about: "cross entropy on PGD images: the baseline of adversarial training",
    paper: "Madry et al., ICLR 2018, arXiv 1706.06083",
    loss,
};

fn loss(step: &mut Step) -> Result<Loss> {
    let draws = step.draws(0);
    let x_adv = step.attack.cross_entropy(step.net, step.x, step.y, draws)?;
    let x_adv = step.tape.constant(x_adv);
    let z = step.net.forward(step.tape, x_adv, BnMode::Train, Some(step.leaves))?;
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    Ok(Loss { total: ce, terms: vec![("ce", ce)], logits: z })
}
