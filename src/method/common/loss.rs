//! The loss of a step, and the adversarial images that it is a function of.

use super::log::Log;
use super::step::Step;
use crate::error::Result;
use crate::ops::axpby::axpby;
use crate::ops::fill::scale;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

type LossFn = dyn Fn(&mut Step, &Tensor) -> Result<Loss>;

/// The adversarial images of a step, and the loss on them as a function of the network: adversarial weight
/// perturbation calls it twice on the same images.
pub struct AdversarialLoss {
    /// X', of all views that were attacked.
    pub x_adv: Tensor,
    loss: Box<LossFn>,
}

impl AdversarialLoss {
    /// `loss` gets `x_adv`, and owns everything else that it reads besides the step.
    pub fn on<L: Into<Loss>>(
        x_adv: Tensor,
        loss: impl Fn(&mut Step, &Tensor) -> Result<L> + 'static,
    ) -> AdversarialLoss {
        AdversarialLoss { x_adv, loss: Box::new(move |step, x_adv| loss(step, x_adv).map(Into::into)) }
    }

    /// The loss of the network as it is now.
    pub fn loss(&self, step: &mut Step) -> Result<Loss> {
        (self.loss)(step, &self.x_adv)
    }
}

/// A loss: the weighted sum of named terms.
pub struct Loss {
    /// The scalar to minimise.
    pub total: Var,
    /// Its named terms before their weights, for the records.
    pub terms: Vec<(&'static str, Var)>,
    /// The logits by which training accuracy is counted, one row for each label of the step or of its first
    /// view; `None` for a loss on features.
    pub logits: Option<Var>,
    /// Further facts for the records.
    pub log: Log,
}

/// A loss that other methods add a term to, with the logits that the term reads.
pub struct BaseLoss {
    /// Its accuracy is counted by `adv`.
    pub loss: Loss,
    /// z(x').
    pub adv: Var,
    /// z(x), of a loss that makes a `[train]` pass over the clean images.
    pub clean: Option<Var>,
}

impl From<BaseLoss> for Loss {
    fn from(base: BaseLoss) -> Loss {
        base.loss
    }
}

impl Loss {
    /// The sum of `weight * term`. A term of weight 0 is reported and not differentiated.
    pub fn new(
        tape: &Tape,
        logits: impl Into<Option<Var>>,
        terms: &[(&'static str, f32, Var)],
    ) -> Result<Loss> {
        let mut total = None;
        for &(_, weight, term) in terms.iter().filter(|(_, weight, _)| *weight != 0.0) {
            total = Some(match total {
                None if weight == 1.0 => term,
                None => scale(tape, term, weight)?,
                Some(sum) => axpby(tape, sum, 1.0, term, weight)?,
            });
        }
        // Nothing to minimise: zero.
        let total = match (total, terms.first()) {
            (Some(total), _) => total,
            (None, Some((_, _, term))) => scale(tape, tape.detach(*term), 0.0)?,
            (None, None) => tape.constant(Tensor::zeros(tape.device(), &[1])?),
        };
        let terms = terms.iter().map(|&(name, _, term)| (name, term)).collect();
        Ok(Loss { total, terms, logits: logits.into(), log: Log::new() })
    }

    /// The same with facts for the records.
    pub fn with_log(self, log: Log) -> Loss {
        Loss { log, ..self }
    }

    /// `self + weight * term`.
    pub fn plus(mut self, tape: &Tape, name: &'static str, weight: f32, term: Var) -> Result<Loss> {
        if weight != 0.0 {
            self.total = axpby(tape, self.total, 1.0, term, weight)?;
        }
        self.terms.push((name, term));
        Ok(self)
    }
}
