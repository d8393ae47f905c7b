//! TRADES. Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between Robustness
//! and Accuracy, ICML 2019, arXiv 1901.08573, equation 5.
//!
//! ```text
//! x' = PGD(KL(p(x)[eval] || p(x'))) from x + 0.001 N(0,1), not clipped
//! loss = CE(z(x)[train], y) + beta KL(p(x) || p(x'))      gradient through both sides
//! ```
//!
//! The benchmark code of RPAT and RAAT makes three `[train]` passes, over x, x' and x again, of which the
//! last feeds the KL: so does this, and `trades_passes = 2` drops the third. Its value is that of the first,
//! but the running statistics move once more.

use super::{AdversarialLoss, BaseLoss, Loss, Method, Step};
use crate::attack::Start;
use crate::error::Result;
use crate::nn::BnMode;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::head::Target;
use crate::ops::kl::kl;
use crate::ops::reduce::Reduction;
use crate::tensor::Tensor;

pub const METHOD: Method = Method {
    name: "trades",
    about: "cross entropy on clean images plus beta times the divergence from clean to adversarial \
        predictions",
    paper: "Zhang et al., ICML 2019, arXiv 1901.08573",
    keys: &["beta", "trades_passes", "start_sigma"],
    prepare: |step| Ok(AdversarialLoss::on(attack(step)?, loss)),
    ..Method::BASE
};

/// The attack on the divergence from the clean prediction.
pub fn attack(step: &mut Step) -> Result<Tensor> {
    let pgd = step.pgd(Start::Gaussian(step.set.start_sigma), BnMode::Eval);
    let clean = step.eval(step.x)?;
    let start = step.start(&pgd, step.x, 0)?;
    pgd.ascend(step.net, step.x, start, Target::Logits(&clean))
}

pub fn loss(step: &mut Step, x_adv: &Tensor) -> Result<BaseLoss> {
    let z = step.train(step.x)?;
    let z_adv = step.train(x_adv)?;
    let again = if step.set.trades_passes == 3 { step.train(step.x)? } else { z };
    let ce = cross_entropy(step.tape, z, step.y, Reduction::Mean)?;
    let divergence = kl(step.tape, again, z_adv, Reduction::Mean)?;
    let loss = Loss::new(step.tape, z_adv, &[("ce", 1.0, ce), ("kl", step.set.beta, divergence)])?;
    Ok(BaseLoss { loss, adv: z_adv, clean: Some(z) })
}
