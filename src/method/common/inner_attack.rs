//! The inner attack of adversarial training.

use crate::attack::Pgd;
use crate::error::Result;
use crate::nn::{BnMode, Net};
use crate::ops::head::Target;
use crate::tensor::Tensor;

/// PGD on a network whose batch norms work in this mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InnerAttack {
    pub pgd: Pgd,
    pub bn: BnMode,
}

impl InnerAttack {
    /// Ascends the loss of the logits against `target` from `x_adv`. No weight gradient is computed.
    pub fn ascend(&self, net: &mut Net, x: &Tensor, x_adv: Tensor, target: Target) -> Result<Tensor> {
        self.pgd.ascend(x, x_adv, |tape, x| net.gradients(tape, x, self.bn, target))
    }
}
