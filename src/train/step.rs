//! One training step: the method's attack and loss, gradients, update, average.

use super::average::Average;
use crate::config::Config;
use crate::device::Buffer;
use crate::device::trace::Range;
use crate::error::{Error, Result};
use crate::method::{AdversarialLoss, FixedNoise, Log, Method, Step};
use crate::nn::{Net, Param, ParamId, Params, Role};
use crate::ops::awp::perturb;
use crate::ops::predict::correct;
use crate::ops::sgd::{SgdStep, Update, sgd};
use crate::ops::slice::repeat_labels;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::iter;

/// The part of a step's configuration that stays the same over an epoch.
pub struct StepConfig<'a> {
    pub method: &'static Method,
    pub set: &'a Config,
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
    /// DICAR's r `[1]`.
    pub mix: &'a Tensor,
}

/// The networks of a run.
pub struct Models<'a> {
    pub net: &'a mut Net,
    /// The averaged one.
    pub wa: Option<&'a mut Net>,
}

impl Models<'_> {
    /// The network, and the averaged one if there is one.
    fn each(&mut self) -> impl Iterator<Item = &mut Net> {
        iter::once(&mut *self.net).chain(self.wa.as_deref_mut())
    }
}

/// A loss with its gradients; nothing of it has been read from the device yet.
pub struct LossGradients {
    pub loss: Tensor,
    /// Terms before their weights.
    pub terms: Vec<(&'static str, Tensor)>,
    /// The gradients of the parameters that the loss depends on, in the network's order.
    pub gradients: Vec<(ParamId, Tensor)>,
    /// The logits by which training accuracy is counted.
    logits: Option<Tensor>,
    /// Further facts for the records.
    pub log: Log,
    /// X', of all views that were attacked.
    pub x_adv: Tensor,
}

/// The result of a step; nothing of it has been read from the device yet.
pub struct StepOutput {
    pub loss: Tensor,
    pub terms: Vec<(&'static str, Tensor)>,
    /// 1 where the training pass was right, for each label; `None` where the loss has no logits.
    pub hits: Option<Buffer<i32>>,
    /// Further facts for the records.
    pub log: Log,
}

/// SGD with momentum and weight decay.
#[derive(Clone, Copy)]
pub struct Sgd<'a> {
    /// The learning rate `[1]`.
    pub lr: &'a Buffer<f32>,
    pub momentum: f32,
    pub weight_decay: f32,
}

impl Sgd<'_> {
    /// Updates the parameters with gradients, which are in the network's order, and their momenta, each of
    /// which begins with a first gradient.
    pub fn update(&self, params: &mut Params, gradients: &[(ParamId, Tensor)]) -> Result<()> {
        let &Sgd { lr, momentum, weight_decay } = self;
        let mut updates = Vec::with_capacity(gradients.len());
        for (param, grad) in params.with_gradients(gradients) {
            let fresh = param.momentum.is_none();
            // Without momentum there is nothing to remember.
            if fresh && momentum != 0.0 {
                param.momentum = Some(Tensor::uninit(grad.device(), grad.shape())?);
            }
            let (weight, velocity) = (&mut param.value, param.momentum.as_mut());
            updates.push(Update { weight, grad, velocity, fresh });
        }
        sgd(updates, lr, SgdStep { momentum, weight_decay, nesterov: false })
    }
}

/// The tensors and counters of a network at one moment; shared with it until either changes.
struct Snapshot {
    values: Vec<Tensor>,
    train_passes: i64,
}

impl Snapshot {
    fn of(net: &mut Net) -> Snapshot {
        let values = net.params.iter().map(|param| param.value.clone()).collect();
        Snapshot { values, train_passes: net.train_passes }
    }

    fn restore(self, net: &mut Net) {
        net.params.iter_mut().zip(self.values).for_each(|(param, value)| param.value = value);
        net.train_passes = self.train_passes;
    }
}

/// The trained parameters, to be changed.
fn trained(net: &mut Net) -> impl Iterator<Item = &mut Param> {
    net.params.iter_mut().filter(|param| param.role != Role::Buffer)
}

/// A step under way: all that a method's functions read.
struct StepInputs<'a> {
    batch: &'a Batch<'a>,
    /// The labels of all views, where there are several.
    labels: Option<Buffer<i32>>,
    config: &'a StepConfig<'a>,
    fixed: &'a FixedNoise,
}

impl<'a> StepInputs<'a> {
    fn new(batch: &'a Batch, config: &'a StepConfig, fixed: &'a FixedNoise) -> Result<StepInputs<'a>> {
        let labels = match batch.x.shape().first().map(|rows| rows / batch.images.len().max(1)) {
            Some(1) => None,
            Some(2) => Some(repeat_labels(batch.y)?),
            _ => {
                let (expected, got) = ("one or two views of each image".into(), batch.x.shape().to_vec());
                return Err(Error::Shape { op: "training step", expected, got });
            }
        };
        Ok(StepInputs { batch, labels, config, fixed })
    }

    /// The labels of all views.
    fn labels(&self) -> &Buffer<i32> {
        self.labels.as_ref().unwrap_or(self.batch.y)
    }

    /// Runs `work` on a step with a tape of its own. Nothing but the result outlives it, so that an update
    /// is in place.
    fn on_tape<T>(&self, models: &mut Models, work: impl FnOnce(&mut Step) -> Result<T>) -> Result<T> {
        let tape = Tape::new(self.batch.x.device());
        let leaves = models.net.leaves(&tape);
        work(&mut Step {
            net: models.net,
            wa: models.wa.as_deref_mut(),
            tape: &tape,
            leaves: &leaves,
            x: self.batch.x,
            y: self.labels(),
            y1: self.batch.y,
            images: self.batch.images,
            set: self.config.set,
            fixed: self.fixed,
            epoch: self.config.epoch,
            mix: self.batch.mix,
        })
    }

    /// The attack of the step and the gradients of its loss. With adversarial weight perturbation (Wu, Xia,
    /// Wang, NeurIPS 2020, arXiv 2004.05884) the loss is differentiated at `w + gamma |w| / |g| g`, `g` being
    /// its gradient at w on the same adversarial images.
    fn differentiate(&self, models: &mut Models) -> Result<LossGradients> {
        let &StepConfig { method, set, epoch } = self.config;
        let gamma = set.awp(epoch);
        let attack = self.batch.x.device().scope(Range::Attack);
        let objective = self.on_tape(models, |step| (method.prepare)(step))?;
        drop(attack);
        if gamma == 0.0 {
            return self.backward(models, &objective);
        }
        let before: Vec<Snapshot> = models.each().map(Snapshot::of).collect();
        let first = self.backward(models, &objective)?;
        // The first pass only finds the direction: running statistics are as before. Nothing else may share
        // them then, so that the second pass moves them in place.
        models.each().zip(before).for_each(|(net, before)| before.restore(net));
        let weights: Vec<Tensor> = trained(models.net).map(|param| param.value.clone()).collect();
        for (id, gradient) in &first.gradients {
            let param = models.net.params.get_mut(*id);
            if param.value.shape().len() > 1 {
                param.value = perturb(&param.value, gradient, gamma)?;
            }
        }
        let second = self.backward(models, &objective)?;
        trained(models.net).zip(weights).for_each(|(param, weight)| param.value = weight);
        Ok(second)
    }

    /// The loss and its gradients.
    fn backward(&self, models: &mut Models, objective: &AdversarialLoss) -> Result<LossGradients> {
        self.on_tape(models, |step| {
            let forward = step.x.device().scope(Range::Forward);
            let loss = objective.loss(step)?;
            drop(forward);
            let gradients = step.leaves.gradients(&mut step.tape.backward(loss.total, None)?);
            let value = |var| step.tape.value(var);
            Ok(LossGradients {
                loss: value(loss.total),
                terms: loss.terms.iter().map(|(name, term)| (*name, value(*term))).collect(),
                gradients,
                logits: loss.logits.map(value),
                log: loss.log,
                x_adv: objective.x_adv.clone(),
            })
        })
    }
}

/// The adversarial images of a step, and the gradients of its loss, with random numbers that may be given.
pub fn differentiate(
    models: &mut Models,
    batch: &Batch,
    config: &StepConfig,
    fixed: &FixedNoise,
) -> Result<LossGradients> {
    StepInputs::new(batch, config, fixed)?.differentiate(models)
}

/// Attacks, differentiates, updates, and lets the average follow.
pub fn train_step(
    models: &mut Models,
    batch: &Batch,
    config: &StepConfig,
    sgd: Sgd,
    average: Option<&Average>,
) -> Result<StepOutput> {
    let fixed = FixedNoise::default();
    let inputs = StepInputs::new(batch, config, &fixed)?;
    let LossGradients { loss, terms, gradients, logits, log, .. } = inputs.differentiate(models)?;
    // A loss on one view of several has the labels of one.
    let labels = |z: &Tensor| if z.shape()[0] == batch.y.len() { batch.y } else { inputs.labels() };
    let hits = logits.as_ref().map(|z| correct(batch.x.device(), z, labels(z))).transpose()?;
    let update = batch.x.device().scope(Range::Update);
    sgd.update(&mut models.net.params, &gradients)?;
    drop((update, gradients));
    let _average = batch.x.device().scope(Range::Average);
    inputs.on_tape(models, |step| (config.method.after)(step))?;
    if let (Some(average), Some(wa)) = (average, models.wa.as_deref_mut()) {
        average.after_step(wa, models.net, config.epoch)?;
    }
    Ok(StepOutput { loss, terms, hits, log })
}
