//! A training step as a method sees it, in the words of the papers: `z(x)[train]`, `z(x)[eval]`, the attack,
//! the averaged network.

use super::inner_attack::InnerAttack;
use crate::attack::{InMode, RngKey, Start, logits};
use crate::config::{Config, WaMode};
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::nn::{BnMode, Leaves, Net, Rows};
use crate::ops::head::Target;
use crate::ops::slice::{concat_tensor, slice_tensor};
use crate::rng::{Key, Purpose, Stream};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Random numbers that are given, not drawn: to compare a step with another implementation.
#[derive(Clone, Debug, Default)]
pub struct FixedNoise {
    /// For each view: the start of the attack, as the difference to the clean images.
    pub noise: [Option<Tensor>; 2],
}

/// A training step as a method sees it.
pub struct Step<'a> {
    pub net: &'a mut Net,
    /// The averaged network, of methods that have one.
    pub wa: Option<&'a mut Net>,
    /// Where the differentiated passes of this step are recorded.
    pub tape: &'a Tape,
    /// The network's parameters on that tape.
    pub leaves: &'a Leaves,
    /// Clean images in `[0,1]`, view after view: `[views * B,H,W,C]`.
    pub x: &'a Tensor,
    /// Labels of all views `[views * B]`.
    pub y: &'a Buffer<i32>,
    /// Labels of one view `[B]`.
    pub y1: &'a Buffer<i32>,
    /// The images' indices in the training set `[B]`.
    pub images: &'a Buffer<i32>,
    pub set: &'a Config,
    pub fixed: &'a FixedNoise,
    /// 0-based.
    pub epoch: usize,
    /// DICAR's r `[1]`.
    pub mix: &'a Tensor,
}

impl Step<'_> {
    /// B.
    pub fn batch(&self) -> usize {
        self.images.len()
    }

    /// View `view` of the clean images `[B,H,W,C]`.
    pub fn view(&self, view: usize) -> Result<Tensor> {
        if self.x.shape()[0] == self.batch() {
            Ok(self.x.clone())
        } else {
            slice_tensor(self.x, view * self.batch(), self.batch())
        }
    }

    /// The attack of a method that starts at `start` with batch norms in `bn`, unless a key says otherwise.
    pub fn pgd(&self, start: Start, bn: BnMode) -> InnerAttack {
        InnerAttack { pgd: self.set.pgd(start), bn: self.set.attack_bn.unwrap_or(bn) }
    }

    /// `z(x)[train]`, differentiated.
    pub fn train(&mut self, x: &Tensor) -> Result<Var> {
        self.train_rows(x, &Rows::All)
    }

    /// `z(x)[train]`, differentiated, of images whose number is in device memory.
    pub fn train_rows(&mut self, x: &Tensor, rows: &Rows) -> Result<Var> {
        self.net.forward_rows(
            self.tape,
            self.tape.constant(x.clone()),
            BnMode::Train,
            Some(self.leaves),
            rows,
        )
    }

    /// `z(x)[eval]` without gradient.
    pub fn eval(&mut self, x: &Tensor) -> Result<Tensor> {
        logits(self.net, x)
    }

    /// A pass without gradient whose only effect is on the running statistics, if `bn` moves them.
    pub fn pass(&mut self, x: &Tensor, bn: BnMode) -> Result<()> {
        if bn == BnMode::Train { logits(&mut InMode { net: self.net, bn }, x).map(|_| ()) } else { Ok(()) }
    }

    /// Logits of the averaged network, without gradient.
    pub fn wa(&mut self, x: &Tensor) -> Result<Tensor> {
        let bn = match self.set.wa_mode {
            WaMode::Code if self.epoch <= self.set.average_start_epoch => BnMode::Train,
            _ => BnMode::Eval,
        };
        let missing = || {
            Error::value(
                "average",
                "none",
                "this method needs the averaged network; leave it to the method or set ema",
            )
        };
        logits(&mut InMode { net: self.wa.as_deref_mut().ok_or_else(missing)?, bn }, x)
    }

    /// Whether averaging, and with it the averaged network's part in the loss, has started.
    pub fn averaging(&self) -> bool {
        self.epoch >= self.set.average_start_epoch
    }

    /// `x' = PGD(CE)` from a uniform start, batch norm in eval mode, on all views at once: the attack of most
    /// methods.
    pub fn pgd_on_cross_entropy(&mut self) -> Result<Tensor> {
        let attack = self.pgd(Start::Uniform, BnMode::Eval);
        self.attack_ce(&attack, self.x, 0)
    }

    /// The attack on the cross entropy of `x`, the images of view `view` and of those after it.
    pub fn attack_ce(&mut self, attack: &InnerAttack, x: &Tensor, view: usize) -> Result<Tensor> {
        let start = self.start(attack, x, view)?;
        let labels = if x.shape()[0] == self.batch() { self.y1 } else { self.y };
        attack.ascend(self.net, x, start, Target::Labels(labels))
    }

    /// The start of an attack on `x`; `view` is the first view in it.
    pub fn start(&self, attack: &InnerAttack, x: &Tensor, view: usize) -> Result<Tensor> {
        let b = self.batch();
        if x.shape()[0] > b {
            let first = self.start(attack, &slice_tensor(x, 0, b)?, view)?;
            return concat_tensor(&first, &self.start(attack, &slice_tensor(x, b, b)?, view + 1)?);
        }
        match self.fixed.noise.get(view).and_then(Option::as_ref) {
            Some(noise) => attack.pgd.start.at(x, noise),
            None => {
                let key = Key::new(self.set.seed, Purpose::AttackStart, self.epoch as u32, view as u32);
                attack.pgd.start.draw(attack.pgd.ball, x, RngKey { key, images: self.images })
            }
        }
    }
}

/// DICAR's r = max(l, 1 - l) with l ~ Beta(mix_beta, mix_beta), one for the batch of a step, both counted
/// from 0.
pub fn draw_mix(set: &Config, epoch: usize, step: usize) -> f32 {
    let name = format!("mix of epoch {epoch}, step {step}");
    let l = Stream::new(set.seed, &name).beta(set.mix_beta, set.mix_beta);
    l.max(1.0 - l) as f32
}
