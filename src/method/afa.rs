//! AFA. Park, Kim, Oh, Park, Kwon: Adversarial Feature Alignment: Balancing Robustness and Accuracy in Deep
//! Learning via Adversarial Training, arXiv 2402.12187: a min-max over a fully supervised contrastive loss on
//! the penultimate features, then a linear classifier.
//!
//! ```text
//! pre-training:  x' = PGD from x on sum_i L_i, jointly over the batch
//!     clean features constant, batch norm in eval mode
//!     u = f / |f|_2;  s_ia = <u(x'_i), u(c_a)> / tau
//!     L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_a exp(s_ia) )
//!     loss = mean L_i      one [train] pass over [x; x']
//! linear stage:  backbone frozen [eval];  loss = CE(classifier(f(x')), y),  x' = PGD(CE)
//! ```
//!
//! Neither the released code nor the hyper-parameters are available. Our reading, with a key: tau; the
//! contrast set (`contrast`: the clean batch, or both with the anchor left out); the images of the linear
//! stage (`linear_on`) and its length (`linear_epochs`); and, as of every attack, a uniform start, ten steps
//! and batch norm in eval mode (`attack_start`, `attack_steps`, `attack_bn`). Our reading, without a key: no
//! projection head; one `[train]` pass over clean and adversarial images together; a gradient through the set
//! as well as the anchors in training, but not through the clean features in the attack; a backbone in eval
//! mode in the linear stage.
//!
//! `stage = "pretrain"` ends with the features, and no best epoch is chosen; `stage = "linear"` takes them,
//! and the classifier, from `init`.

use super::{AdversarialLoss, Loss, Method, Step};
use crate::attack::{Start, gradients};
use crate::config::{Config, LinearOn, Stage};
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::contrastive::contrastive;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::ops::slice::{concat_tensor, slice};
use crate::tape::Tape;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "afa",
    about: "adversarial supervised contrastive pre-training of the features, then a linear classifier",
    paper: "Park et al., arXiv 2402.12187",
    keys: &["tau", "contrast", "stage", "linear_epochs", "linear_on"],
    pretraining: |set| match set.stage {
        Stage::Auto => set.epochs.saturating_sub(set.linear_epochs),
        Stage::Pretrain => set.epochs,
        Stage::Linear => 0,
    },
    prepare,
    ..Method::BASE
};

fn pretrains(set: &Config, epoch: usize) -> bool {
    set.stage == Stage::Pretrain || epoch < (METHOD.pretraining)(set)
}

fn prepare(step: &mut Step) -> Result<AdversarialLoss> {
    if pretrains(step.set, step.epoch) {
        return Ok(AdversarialLoss::on(contrastive_attack(step)?, contrastive_loss));
    }
    let x_adv = match step.set.linear_on {
        LinearOn::Adv => step.pgd_on_cross_entropy()?,
        LinearOn::Clean => step.x.clone(),
    };
    Ok(AdversarialLoss::on(x_adv, linear_loss))
}

/// The attack that maximises the contrastive loss of the whole batch.
pub fn contrastive_attack(step: &mut Step) -> Result<Tensor> {
    let pgd = step.pgd(Start::Uniform, BnMode::Eval);
    let start = step.start(&pgd, step.x, 0)?;
    let (net, y, set) = (&mut *step.net, step.y, step.set);
    let scratch = Tape::new(step.x.device());
    let clean = net.features(&scratch, scratch.constant(step.x.clone()), BnMode::Eval, None)?;
    let clean = scratch.value(clean);
    pgd.pgd.ascend(step.x, start, |tape, x_adv| {
        gradients(tape, x_adv, |tape, x| {
            let adv = net.features(tape, x, pgd.bn, None)?;
            contrastive(tape, tape.constant(clean.clone()), adv, y, set.tau, set.contrast, Reduction::Sum)
        })
    })
}

fn contrastive_loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    let (tape, set, b) = (step.tape, step.set, step.batch());
    let both = tape.constant(concat_tensor(step.x, x_adv)?);
    let f = step.net.features(tape, both, BnMode::Train, Some(step.leaves))?;
    let (f_clean, f_adv) = (slice(tape, f, 0, b)?, slice(tape, f, b, b)?);
    let afa = contrastive(tape, f_clean, f_adv, step.y, set.tau, set.contrast, Reduction::Mean)?;
    Loss::new(tape, None, &[("afa", 1.0, afa)])
}

fn linear_loss(step: &mut Step, x_adv: &Tensor) -> Result<Loss> {
    let tape = step.tape;
    let f = step.net.features(tape, tape.constant(x_adv.clone()), BnMode::Eval, None)?;
    let z = step.net.classify(tape, f, Some(step.leaves))?;
    let ce = cross_entropy(tape, z, step.y, Reduction::Mean)?;
    Loss::new(tape, z, &[("ce", 1.0, ce)])
}
