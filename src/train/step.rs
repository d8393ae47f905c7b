//! One training step: the method's loss, gradients, update.

use crate::attack::Pgd;
use crate::device::Buffer;
use crate::error::Result;
use crate::method::{Entry, Step};
use crate::nn::{Net, Param, Role};
use crate::ops::predict::correct;
use crate::ops::sgd::{SgdStep, sgd};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// What stays the same over an epoch.
pub struct Rules {
    pub method: &'static Entry,
    pub attack: Pgd,
    pub seed: u64,
    /// 0-based.
    pub epoch: usize,
}

/// A batch on the device.
pub struct Batch<'a> {
    /// Images `[N,H,W,C]` in `[0,1]`.
    pub x: &'a Tensor,
    /// Labels `[N]`.
    pub y: &'a Buffer<i32>,
    /// The images' indices in the data set `[N]`.
    pub images: &'a Buffer<i32>,
}

/// What a step leaves to be looked at; nothing of it has been read from the device yet.
pub struct Stepped {
    pub loss: Tensor,
    pub terms: Vec<(&'static str, Tensor)>,
    /// `[N]`, 1 where the training pass was right.
    pub hits: Buffer<i32>,
}

/// The numbers of SGD.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    pub lr: f32,
    pub momentum: f32,
    pub weight_decay: f32,
}

impl Update {
    /// Moves a parameter, and its momentum, which begins with the first gradient.
    pub fn apply(&self, param: &mut Param, gradient: &Tensor) -> Result<()> {
        let &Update { lr, momentum, weight_decay } = self;
        let first = param.momentum.is_none();
        let mut velocity = match param.momentum.take() {
            Some(velocity) => velocity,
            None => Tensor::uninit(gradient.device(), gradient.shape())?,
        };
        sgd(&mut param.value, gradient, &mut velocity, SgdStep { lr, momentum, weight_decay, nesterov: false, first })?;
        // Without momentum there is nothing to remember: the velocity was not written.
        param.momentum = (momentum != 0.0).then_some(velocity);
        Ok(())
    }
}

/// Attacks, differentiates and updates.
pub fn train_step(net: &mut Net, batch: &Batch, rules: &Rules, update: &Update) -> Result<Stepped> {
    let device = batch.x.device().clone();
    let tape = Tape::new(&device);
    let leaves = net.leaves(&tape);
    let &Batch { x, y, images } = batch;
    let &Rules { method, attack, seed, epoch } = rules;
    let loss = (method.loss)(&mut Step { net, tape: &tape, leaves: &leaves, x, y, images, attack, seed, epoch })?;
    let gradients = leaves.gradients(&mut tape.backward(loss.total, None)?);
    let stepped = Stepped {
        loss: tape.value(loss.total),
        terms: loss.terms.iter().map(|(name, term)| (*name, tape.value(*term))).collect(),
        hits: correct(&device, &tape.value(loss.logits), y)?,
    };
    // The tape and its leaves share the parameters; without them the update is in place.
    drop((tape, leaves));
    for (param, gradient) in net.params.iter_mut().zip(gradients) {
        if let (true, Some(gradient)) = (param.role != Role::Buffer, gradient) {
            update.apply(param, &gradient)?;
        }
    }
    Ok(stepped)
}
