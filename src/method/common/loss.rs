//! What a method computes in one step.

use super::align::Align;
use super::step::Step;
use crate::attack::Start;
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::nn::BnMode;
use crate::ops::combine::{combine, scaled};
use crate::ops::subset::Subset;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::rc::Rc;

/// What the first half of a step leaves for the second.
pub struct Attacked {
    /// Adversarial images of all views that were attacked.
    pub x_adv: Tensor,
    /// RAAT's split of the samples, and what follows from it.
    pub align: Option<Align>,
}

impl Attacked {
    /// What a method with a split trains on, and its S.
    pub fn aligned(&self) -> Result<(&Tensor, &Subset)> {
        let parts = self.align.as_ref().and_then(|align| Some((&align.x_ce, align.subset.as_ref()?)));
        parts.ok_or_else(|| Error::value("method", "raat", "its loss was asked for without its attack"))
    }
}

impl From<Tensor> for Attacked {
    fn from(x_adv: Tensor) -> Attacked {
        Attacked { x_adv, align: None }
    }
}

/// A loss: the weighted sum of named terms.
pub struct Loss {
    /// The scalar to minimise.
    pub total: Var,
    /// Its named terms before their weights, for the records.
    pub terms: Vec<(&'static str, Var)>,
    /// The logits by which training accuracy is counted, one row for each label of the step; `None` for a
    /// loss on features.
    pub logits: Option<Var>,
    /// The logits of the clean images, where the loss has them: an objective on top of this one reads them.
    pub clean: Option<Var>,
    /// |S|, where the loss made an S of its own instead of the attack's.
    pub aligned: Option<Rc<Buffer<i32>>>,
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
                None => scaled(tape, term, weight)?,
                Some(sum) => combine(tape, sum, 1.0, term, weight)?,
            });
        }
        // Nothing to minimise: zero.
        let total = match (total, terms.first()) {
            (Some(total), _) => total,
            (None, Some((_, _, term))) => scaled(tape, tape.detach(*term), 0.0)?,
            (None, None) => tape.constant(Tensor::zeros(tape.device(), &[1])?),
        };
        let terms = terms.iter().map(|&(name, _, term)| (name, term)).collect();
        Ok(Loss { total, terms, logits: logits.into(), clean: None, aligned: None })
    }

    /// The same with the logits of the clean images.
    pub fn with_clean(self, z: Var) -> Loss {
        Loss { clean: Some(z), ..self }
    }

    /// The same, which used this S instead of the attack's.
    pub fn with_subset(self, s: &Subset) -> Loss {
        Loss { aligned: Some(s.count.clone()), ..self }
    }

    /// `self + weight * term`.
    pub fn plus(mut self, tape: &Tape, name: &'static str, weight: f32, term: Var) -> Result<Loss> {
        if weight != 0.0 {
            self.total = combine(tape, self.total, 1.0, term, weight)?;
        }
        self.terms.push((name, term));
        Ok(self)
    }
}

/// `x' = PGD(CE)` from a uniform start, batch norm in eval mode, on all views at once: the attack of most
/// methods.
pub fn pgd_on_cross_entropy(step: &mut Step) -> Result<Attacked> {
    let pgd = step.pgd(Start::Uniform, BnMode::Eval);
    Ok(step.attack_ce(&pgd, &step.x.clone(), 0)?.into())
}
