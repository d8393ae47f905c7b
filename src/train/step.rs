//! One training step: the method's attack and loss, gradients, update, average.

use super::average::Average;
use crate::config::Config;
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::method::{Attacked, Entry, Given, Loss, Step};
use crate::nn::{Net, Param, Role};
use crate::ops::perturb::perturb;
use crate::ops::predict::correct;
use crate::ops::rows::repeat_labels;
use crate::ops::sgd::{SgdStep, sgd};
use crate::ops::split::Split;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::rc::Rc;

/// What stays the same over an epoch.
pub struct Rules<'a> {
    pub method: &'static Entry,
    pub settings: &'a Config,
    /// Adversarial weight perturbation's gamma; 0: none.
    pub awp_gamma: f32,
    pub seed: u64,
    /// 0-based.
    pub epoch: usize,
}

/// A batch on the device.
pub struct Batch<'a> {
    /// Images `[views * N,H,W,C]` in `[0,1]`, view after view.
    pub x: &'a Tensor,
    /// Labels `[N]`.
    pub y: &'a Buffer<i32>,
    /// The images' indices in the data set `[N]`.
    pub images: &'a Buffer<i32>,
    /// The number of the step in its epoch, 0-based.
    pub index: usize,
}

/// The networks of a run.
pub struct Nets<'a> {
    pub net: &'a mut Net,
    /// The averaged one.
    pub wa: Option<&'a mut Net>,
}

/// A loss with its gradients; nothing of it has been read from the device yet.
pub struct Differentiated {
    pub loss: Tensor,
    /// Terms before their weights.
    pub terms: Vec<(&'static str, Tensor)>,
    /// By parameter, in the network's order; `None` for buffers and for what the loss does not depend on.
    pub gradients: Vec<Option<Tensor>>,
    /// The logits of the training pass.
    pub logits: Option<Tensor>,
    /// The labels of all views, where there are several.
    labels: Option<Buffer<i32>>,
    pub attacked: Attacked,
    /// |S|, of methods that have one: of the S that the loss used.
    pub aligned: Option<Rc<Buffer<i32>>>,
}

/// What a step leaves to be looked at; nothing of it has been read from the device yet.
pub struct Stepped {
    pub loss: Tensor,
    pub terms: Vec<(&'static str, Tensor)>,
    /// 1 where the training pass was right, for each label; empty where the loss has no logits.
    pub hits: Option<Buffer<i32>>,
    /// The split of the samples, and |S|, of methods that have them.
    pub split: Option<Split>,
    pub aligned: Option<Rc<Buffer<i32>>>,
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
        sgd(
            &mut param.value,
            gradient,
            &mut velocity,
            SgdStep { lr, momentum, weight_decay, nesterov: false, first },
        )?;
        // Without momentum there is nothing to remember: the velocity was not written.
        param.momentum = (momentum != 0.0).then_some(velocity);
        Ok(())
    }
}

/// The tensors and counters of a network at one moment; shared with it until either changes.
struct Snapshot {
    values: Vec<Tensor>,
    train_passes: i64,
}

impl Snapshot {
    fn of(net: &Net) -> Snapshot {
        Snapshot {
            values: net.params.iter().map(|p| p.value.clone()).collect(),
            train_passes: net.train_passes,
        }
    }

    /// Brings the parameters of `net` for which `which` holds back.
    fn restore(&self, net: &mut Net, which: impl Fn(Role) -> bool) {
        for (param, value) in net.params.iter_mut().zip(&self.values).filter(|(param, _)| which(param.role)) {
            param.value = value.clone();
        }
    }
}

/// The attack of a step and the gradients of its loss. With adversarial weight perturbation (Wu, Xia, Wang,
/// NeurIPS 2020, arXiv 2004.05884) the loss is differentiated at `w + gamma |w| / |g| g`, `g` being its
/// gradient at w on the same adversarial images.
pub fn differentiate(nets: &mut Nets, batch: &Batch, rules: &Rules, given: &Given) -> Result<Differentiated> {
    let labels = labels(batch)?;
    let attacked = in_step(nets, batch, &labels, rules, given, |step| (rules.method.attack)(step))?;
    if rules.awp_gamma == 0.0 {
        return pass(nets, batch, labels, rules, given, attacked);
    }
    let weights = Snapshot::of(nets.net);
    let teacher = nets.wa.as_deref().map(Snapshot::of);
    let first = pass(nets, batch, labels, rules, given, attacked)?;
    // The first pass only finds the direction: running statistics are as before.
    weights.restore(nets.net, |_| true);
    nets.net.train_passes = weights.train_passes;
    if let (Some(wa), Some(teacher)) = (nets.wa.as_deref_mut(), &teacher) {
        teacher.restore(wa, |_| true);
        wa.train_passes = teacher.train_passes;
    }
    for (param, gradient) in nets.net.params.iter_mut().zip(&first.gradients) {
        if let (true, Some(gradient)) = (param.value.shape().len() > 1, gradient) {
            param.value = perturb(&param.value, gradient, rules.awp_gamma)?;
        }
    }
    let second = pass(nets, batch, first.labels, rules, given, first.attacked)?;
    weights.restore(nets.net, |role| role != Role::Buffer);
    Ok(second)
}

/// The labels of all views.
fn labels(batch: &Batch) -> Result<Option<Buffer<i32>>> {
    match batch.x.shape().first().map(|rows| rows / batch.images.len().max(1)) {
        Some(1) => Ok(None),
        Some(2) => repeat_labels(batch.y).map(Some),
        _ => Err(Error::Shape {
            op: "training step",
            expected: "one or two views of each image".into(),
            got: batch.x.shape().to_vec(),
        }),
    }
}

/// The loss of one pass and its gradients.
fn pass(
    nets: &mut Nets,
    batch: &Batch,
    labels: Option<Buffer<i32>>,
    rules: &Rules,
    given: &Given,
    attacked: Attacked,
) -> Result<Differentiated> {
    let (loss, terms, gradients, logits, aligned) = in_step(nets, batch, &labels, rules, given, |step| {
        let loss: Loss = (rules.method.loss)(step, &attacked)?;
        let gradients = step.leaves.gradients(&mut step.tape.backward(loss.total, None)?);
        let value = |var| step.tape.value(var);
        let terms: Vec<_> = loss.terms.iter().map(|(name, term)| (*name, value(*term))).collect();
        Ok((value(loss.total), terms, gradients, loss.logits.map(value), loss.aligned))
    })?;
    let of_attack = || attacked.align.as_ref()?.subset.as_ref().map(|s| s.count.clone());
    let aligned = aligned.or_else(of_attack);
    Ok(Differentiated { loss, terms, gradients, logits, labels, attacked, aligned })
}

/// Runs `work` on a step with a tape of its own. Nothing but the result outlives it, so that an update is in
/// place.
fn in_step<T>(
    nets: &mut Nets,
    batch: &Batch,
    labels: &Option<Buffer<i32>>,
    rules: &Rules,
    given: &Given,
    work: impl FnOnce(&mut Step) -> Result<T>,
) -> Result<T> {
    let tape = Tape::new(batch.x.device());
    let leaves = nets.net.leaves(&tape);
    let &Rules { settings: set, seed, epoch, .. } = rules;
    work(&mut Step {
        net: nets.net,
        wa: nets.wa.as_deref_mut(),
        tape: &tape,
        leaves: &leaves,
        x: batch.x,
        y: labels.as_ref().unwrap_or(batch.y),
        y1: batch.y,
        images: batch.images,
        set,
        given,
        seed,
        epoch,
        index: batch.index,
    })
}

/// Attacks, differentiates, updates, and lets the average follow.
pub fn train_step(
    nets: &mut Nets,
    batch: &Batch,
    rules: &Rules,
    update: &Update,
    average: Option<&Average>,
) -> Result<Stepped> {
    let given = Given::default();
    let Differentiated { loss, terms, gradients, logits, labels, attacked, aligned } =
        differentiate(nets, batch, rules, &given)?;
    let y = labels.as_ref().unwrap_or(batch.y);
    // A loss on one view of several has the labels of one.
    let right =
        |z: &Tensor| correct(batch.x.device(), z, if z.shape()[0] == batch.y.len() { batch.y } else { y });
    let hits = logits.as_ref().map(right).transpose()?;
    let split = attacked.align.map(|align| align.split);
    for (param, gradient) in nets.net.params.iter_mut().zip(gradients) {
        if let (true, Some(gradient)) = (param.role != Role::Buffer, gradient) {
            update.apply(param, &gradient)?;
        }
    }
    in_step(nets, batch, &labels, rules, &given, |step| (rules.method.after)(step))?;
    if let (Some(average), Some(wa)) = (average, nets.wa.as_deref_mut()) {
        average.after_step(wa, nets.net, rules.epoch)?;
    }
    Ok(Stepped { loss, terms, hits, split, aligned })
}
