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
pub struct StepConfig<'a> {
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
pub struct Models<'a> {
    pub net: &'a mut Net,
    /// The averaged one.
    pub wa: Option<&'a mut Net>,
}

/// A loss with its gradients; nothing of it has been read from the device yet.
pub struct LossGradients {
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
pub struct StepOutput {
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
pub struct Sgd {
    pub lr: f32,
    pub momentum: f32,
    pub weight_decay: f32,
}

impl Sgd {
    /// Moves a parameter, and its momentum, which begins with the first gradient.
    pub fn apply(&self, param: &mut Param, gradient: &Tensor) -> Result<()> {
        let &Sgd { lr, momentum, weight_decay } = self;
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
pub fn differentiate(
    models: &mut Models,
    batch: &Batch,
    config: &StepConfig,
    given: &Given,
) -> Result<LossGradients> {
    let labels = labels(batch)?;
    let attacked = in_step(models, batch, &labels, config, given, |step| (config.method.attack)(step))?;
    if config.awp_gamma == 0.0 {
        return pass(models, batch, labels, config, given, attacked);
    }
    let weights = Snapshot::of(models.net);
    let teacher = models.wa.as_deref().map(Snapshot::of);
    let first = pass(models, batch, labels, config, given, attacked)?;
    // The first pass only finds the direction: running statistics are as before.
    weights.restore(models.net, |_| true);
    models.net.train_passes = weights.train_passes;
    if let (Some(wa), Some(teacher)) = (models.wa.as_deref_mut(), &teacher) {
        teacher.restore(wa, |_| true);
        wa.train_passes = teacher.train_passes;
    }
    for (param, gradient) in models.net.params.iter_mut().zip(&first.gradients) {
        if let (true, Some(gradient)) = (param.value.shape().len() > 1, gradient) {
            param.value = perturb(&param.value, gradient, config.awp_gamma)?;
        }
    }
    let second = pass(models, batch, first.labels, config, given, first.attacked)?;
    weights.restore(models.net, |role| role != Role::Buffer);
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
    models: &mut Models,
    batch: &Batch,
    labels: Option<Buffer<i32>>,
    config: &StepConfig,
    given: &Given,
    attacked: Attacked,
) -> Result<LossGradients> {
    let (loss, terms, gradients, logits, aligned) = in_step(models, batch, &labels, config, given, |step| {
        let loss: Loss = (config.method.loss)(step, &attacked)?;
        let gradients = step.leaves.gradients(&mut step.tape.backward(loss.total, None)?);
        let value = |var| step.tape.value(var);
        let terms: Vec<_> = loss.terms.iter().map(|(name, term)| (*name, value(*term))).collect();
        Ok((value(loss.total), terms, gradients, loss.logits.map(value), loss.aligned))
    })?;
    let of_attack = || attacked.align.as_ref()?.subset.as_ref().map(|s| s.count.clone());
    let aligned = aligned.or_else(of_attack);
    Ok(LossGradients { loss, terms, gradients, logits, labels, attacked, aligned })
}

/// Runs `work` on a step with a tape of its own. Nothing but the result outlives it, so that an update is in
/// place.
fn in_step<T>(
    models: &mut Models,
    batch: &Batch,
    labels: &Option<Buffer<i32>>,
    config: &StepConfig,
    given: &Given,
    work: impl FnOnce(&mut Step) -> Result<T>,
) -> Result<T> {
    let tape = Tape::new(batch.x.device());
    let leaves = models.net.leaves(&tape);
    let &StepConfig { settings: set, seed, epoch, .. } = config;
    work(&mut Step {
        net: models.net,
        wa: models.wa.as_deref_mut(),
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
    models: &mut Models,
    batch: &Batch,
    config: &StepConfig,
    optimizer: &Sgd,
    average: Option<&Average>,
) -> Result<StepOutput> {
    let given = Given::default();
    let LossGradients { loss, terms, gradients, logits, labels, attacked, aligned } =
        differentiate(models, batch, config, &given)?;
    let y = labels.as_ref().unwrap_or(batch.y);
    // A loss on one view of several has the labels of one.
    let right =
        |z: &Tensor| correct(batch.x.device(), z, if z.shape()[0] == batch.y.len() { batch.y } else { y });
    let hits = logits.as_ref().map(right).transpose()?;
    let split = attacked.align.map(|align| align.split);
    for (param, gradient) in models.net.params.iter_mut().zip(gradients) {
        if let (true, Some(gradient)) = (param.role != Role::Buffer, gradient) {
            optimizer.apply(param, &gradient)?;
        }
    }
    in_step(models, batch, &labels, config, &given, |step| (config.method.after)(step))?;
    if let (Some(average), Some(wa)) = (average, models.wa.as_deref_mut()) {
        average.after_step(wa, models.net, config.epoch)?;
    }
    Ok(StepOutput { loss, terms, hits, split, aligned })
}
