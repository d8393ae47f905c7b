//! What a method can be told: the numbers of its formulas, and which of two readings it takes.

use crate::attack::{Ball, Pgd, Start, gradient};
use crate::error::Result;
use crate::nn::{BnMode, Net};
pub use crate::ops::contrastive::ContrastSet;
pub use crate::ops::split::Variant;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// The objective that RPAT is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    PgdAt,
    Trades,
    Mart,
    ConsistencyAt,
}

/// How the averaged network's batch norms work when it teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaMode {
    /// As in the released code: in train mode until its first evaluation, at the end of the epoch in which
    /// averaging starts.
    Code,
    /// Always in eval mode.
    Eval,
}

/// What AFA trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The backbone, then for the last `linear_epochs` the classifier.
    Auto,
    /// The backbone alone.
    Pretrain,
    /// The classifier on the frozen backbone.
    Linear,
}

/// The loss that makes x' in the joint objective of AFA and TRADES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JointAttack {
    Afa,
    Kl,
}

/// The images that AFA's classifier is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearOn {
    Adv,
    Clean,
}

/// The ball and the steps of the inner attack, and what a key overrides of the method's own choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inner {
    pub ball: Ball,
    pub step: f32,
    pub steps: usize,
    /// `None`: as the method starts.
    pub start: Option<Start>,
    /// `None`: as the method says.
    pub bn: Option<BnMode>,
}

impl Inner {
    /// The attack of a method that starts at `start` with batch norms in `bn`, unless a key says otherwise.
    pub fn pgd(&self, start: Start, bn: BnMode) -> InnerAttack {
        let Inner { ball, step, steps, .. } = *self;
        let pgd = Pgd { ball, start: self.start.unwrap_or(start), steps, step_size: step, momentum: None };
        InnerAttack { pgd, bn: self.bn.unwrap_or(bn) }
    }
}

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

/// The settings of all methods; each reads those that its entry names.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub inner: Inner,
    /// Epochs of the run.
    pub epochs: usize,
    /// Where a paper and its released code differ.
    pub variant: Variant,
    pub base: Base,
    pub beta: f32,
    pub lambda: f32,
    /// RPAT on Consistency-AT: the weight of its divergence.
    pub base_lambda: f32,
    pub temperature: f32,
    pub rho: f32,
    /// RPAT: the weight of the clean image in x_a.
    pub a: f32,
    pub rpat_start_epoch: usize,
    /// TRADES: `[train]` passes, 3 or 2.
    pub trades_passes: usize,
    /// TRADES, MART: standard deviation of the start.
    pub start_sigma: f32,
    /// DICAR: l ~ Beta(mix_beta, mix_beta).
    pub mix_beta: f64,
    pub wa_mode: WaMode,
    /// 0-based epoch in which averaging starts.
    pub average_start: usize,
    /// ReBAT++: 0-based epoch from which the attack is stronger, and how.
    pub late_epoch: usize,
    pub late_eps: f32,
    pub late_steps: usize,
    pub tau: f32,
    pub contrast: ContrastSet,
    pub joint_attack: JointAttack,
    pub stage: Stage,
    pub linear_epochs: usize,
    pub linear_on: LinearOn,
    /// Boundary study: the part of the perturbation that boundary samples and the others keep.
    pub rho_boundary: f32,
    pub rho_other: f32,
}
