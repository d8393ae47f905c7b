//! AFA (Park, Kim, Oh, Park, Kwon, arXiv 2402.12187) jointly with TRADES (Zhang et al., arXiv 1901.08573).
//!
//! ```text
//! x' = AFA's attack (joint_attack = "kl": TRADES');  one [train] pass over [x; x']
//! loss = CE(z(x), y) + beta KL(p(x) || p(x')) + lambda L_AFA
//! ```
//!
//! Our reading, with a key: AFA's attack makes x' (`joint_attack`), and, as in `afa`, tau, the contrast set
//! and the attack. Our reading, without one: one `[train]` pass over clean and adversarial images
//! together, from which all three terms take their features or logits; the contrastive loss on the features
//! that the classifier reads, without a projection head; a gradient through both sides of the divergence, and
//! through the set as well as the anchors.

use super::{AdversarialLoss, Loss, Method, Step, afa, trades};
use crate::config::JointAttack;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::contrastive::contrastive;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::kl::kl;
use crate::ops::reduce::Reduction;
use crate::ops::slice::{concat_tensor, slice};
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "afa-trades",
    about: "TRADES with AFA's contrastive loss on the features",
    paper: "Park et al., arXiv 2402.12187",
    keys: &["beta", "lambda", "tau", "contrast", "joint_attack", "start_sigma"],
    prepare,
    ..Method::BASE
};

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    let x_adv = match step.set.joint_attack {
        JointAttack::Afa => afa::contrastive_attack(step)?,
        JointAttack::Kl => trades::attack(step)?,
    };
    Ok(AdversarialLoss::on(x_adv, loss))
}

fn loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    let (tape, set, b) = (step.tape, step.set, step.batch());
    let both = tape.constant(concat_tensor(step.x, x_adv)?);
    let f = step.net.features(tape, both, BnMode::Train, Some(step.leaves))?;
    let z = step.net.classify(tape, f, Some(step.leaves))?;
    let (f_clean, f_adv) = (slice(tape, f, 0, b)?, slice(tape, f, b, b)?);
    let (z_clean, z_adv) = (slice(tape, z, 0, b)?, slice(tape, z, b, b)?);
    let ce = cross_entropy(tape, z_clean, step.y, Reduction::Mean)?;
    let kl = kl(tape, z_clean, z_adv, Reduction::Mean)?;
    let afa = contrastive(tape, f_clean, f_adv, step.y, set.tau, set.contrast, Reduction::Mean)?;
    Loss::new(tape, z_adv, &[("ce", 1.0, ce), ("kl", set.beta, kl), ("afa", set.lambda, afa)])
}
