//! The inner attack of adversarial training.

use crate::attack::{Pgd, gradient};
use crate::error::Result;
use crate::nn::{BnMode, Net};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// PGD on a network whose batch norms work in this mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InnerAttack {
    pub pgd: Pgd,
    pub bn: BnMode,
}

impl InnerAttack {
    /// Ascends `loss(logits)` from `x_adv`. No weight gradient is computed.
    pub fn ascend(
        &self,
        net: &mut Net,
        x: &Tensor,
        x_adv: Tensor,
        loss: impl Fn(&Tape, Var) -> Result<Var>,
    ) -> Result<Tensor> {
        self.pgd.ascend(x, x_adv, |x_adv| {
            gradient(x_adv, |tape, x| {
                let z = net.forward(tape, x, self.bn, None)?;
                loss(tape, z)
            })
        })
    }
}
