//! The layers that networks are made of.

use super::init::Init;
use super::maps::{Maps, each_type};
use super::net::Shape;
use super::params::{Leaves, NormIds, ParamId, Params, Role};
use crate::device::trace::{Range, Scope};
use crate::device::{Device, Real};
use crate::error::Result;
use crate::ops::add::add;
use crate::ops::batch_norm::{self, BnMode, Measured, Norm};
use crate::ops::conv2d::{self, Convolve, Precision};
use crate::ops::conv2d_folded::conv2d_folded;
use crate::ops::global_avg_pool::global_avg_pool;
use crate::ops::head::{Classifier, Target};
use crate::ops::linear::linear;
use crate::ops::relu::relu;
use crate::ops::valid::Rows;
use crate::tape::{Gradients, Tape, Var};

/// One forward pass: where it is recorded, how batch norms behave, and whether weights are differentiated.
pub struct Pass<'a> {
    pub tape: &'a Tape,
    pub params: &'a mut Params,
    pub bn: BnMode,
    /// `None`: weights are frozen, as inside an attack and in evaluation.
    pub leaves: Option<&'a Leaves>,
    /// Which images exist. A folded pass, which couples none, works on all of them.
    pub rows: &'a Rows,
}

impl Pass<'_> {
    /// Whether batch norms can be folded into the convolutions before them.
    fn folds(&self) -> bool {
        self.bn == BnMode::Eval && self.leaves.is_none()
    }

    /// Work of the layer with this parameter, for as long as the result lives.
    pub(super) fn layer(&self, id: ParamId) -> Scope {
        self.tape.device().layer(self.params.layer(id))
    }

    /// Whether a convolution of float32 images gives bf16.
    fn gives_bf16(&self) -> bool {
        self.params.precision() == Precision::Bf16
    }

    fn var(&self, id: ParamId) -> Var {
        match self.leaves.and_then(|l| l.get(id)) {
            Some(leaf) => leaf,
            None => self.tape.constant(self.params.value(id)),
        }
    }
}

/// Adds layers and their parameters under dotted names.
pub struct Builder<'a> {
    pub(super) device: &'a Device,
    pub(super) params: &'a mut Params,
    pub(super) shape: &'a Shape,
    pub(super) seed: u64,
    /// Goes before all names, with its dot.
    pub(super) prefix: String,
}

impl Builder<'_> {
    /// The same builder for names that begin with `prefix`.
    pub fn within(&mut self, prefix: &str) -> Builder<'_> {
        Builder {
            device: self.device,
            params: self.params,
            shape: self.shape,
            seed: self.seed,
            prefix: format!("{}{prefix}.", self.prefix),
        }
    }

    fn add(&mut self, name: &str, role: Role, shape: &[usize], init: Init) -> Result<ParamId> {
        self.params.add(self.device, format!("{}{name}", self.prefix), role, shape, init)
    }

    pub fn conv(
        &mut self,
        name: &str,
        cin: usize,
        cout: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<Conv> {
        let init = Init::fan_in(cin * kernel * kernel, self.seed);
        let shape = [cout, kernel, kernel, cin];
        let weight = self.add(&format!("{name}.weight"), Role::Filter, &shape, init)?;
        Ok(Conv { weight, stride, pad: kernel / 2 })
    }

    /// The first convolution, 3x3; of stride 2 for images of 64 rows and more.
    pub fn stem(&mut self, name: &str, cout: usize) -> Result<Conv> {
        let stride = if self.shape.height >= 64 { 2 } else { 1 };
        self.conv(name, self.shape.channels, cout, 3, stride)
    }

    pub fn batch_norm(&mut self, name: &str, channels: usize) -> Result<BatchNorm> {
        let mut add = |suffix: &str, role, value| {
            self.add(&format!("{name}.{suffix}"), role, &[channels], Init::Constant(value))
        };
        Ok(BatchNorm(NormIds {
            weight: add("weight", Role::Weight, 1.0)?,
            bias: add("bias", Role::Weight, 0.0)?,
            mean: add("running_mean", Role::Buffer, 0.0)?,
            var: add("running_var", Role::Buffer, 1.0)?,
        }))
    }

    /// A convolution and the batch norm after it, by their two names.
    pub fn conv_bn(
        &mut self,
        (conv, bn): (&str, &str),
        cin: usize,
        cout: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<ConvBn> {
        let conv = self.conv(conv, cin, cout, kernel, stride)?;
        let bn = self.batch_norm(bn, cout)?;
        Ok(self.pair(conv, bn))
    }

    /// A convolution, and the batch norm that comes right after it.
    pub fn pair(&mut self, conv: Conv, bn: BatchNorm) -> ConvBn {
        self.params.pair(conv.weight, bn.0);
        ConvBn { conv, bn }
    }

    /// The last layer, from `inputs` features to the logits.
    pub fn classifier(&mut self, name: &str, inputs: usize) -> Result<Linear> {
        let (init, outputs) = (Init::fan_in(inputs, self.seed), self.shape.classes);
        let weight = self.add(&format!("{name}.weight"), Role::Weight, &[outputs, inputs], init)?;
        let bias = self.add(&format!("{name}.bias"), Role::Weight, &[outputs], init)?;
        Ok(Linear { weight, bias })
    }
}

/// A function of feature maps `[N,H,W,C]`.
pub trait Layer {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps>;
}

/// A convolution without bias; padding kernel / 2.
pub struct Conv {
    pub(super) weight: ParamId,
    stride: usize,
    pad: usize,
}

impl Conv {
    fn apply<X: Convolve<Y>, Y: Real>(&self, pass: &mut Pass, x: Var<X>) -> Result<Var<Y>> {
        let filter = pass.params.filter(self.weight)?;
        let _layer = pass.layer(self.weight);
        let weight = pass.var(self.weight);
        conv2d::conv2d_prepared(pass.tape, x, weight, &filter, self.stride, self.pad, pass.rows)
    }

    /// The same for a batch norm, with the statistics that it reads.
    fn measured<X: Convolve<Y>, Y: Real>(&self, pass: &mut Pass, x: Var<X>) -> Result<Measured<Y>> {
        if pass.bn == BnMode::Eval {
            return Ok(self.apply(pass, x)?.into());
        }
        let filter = pass.params.filter(self.weight)?;
        let _layer = pass.layer(self.weight);
        let weight = pass.var(self.weight);
        conv2d::conv2d_measured(pass.tape, x, weight, &filter, self.stride, self.pad, pass.rows)
    }
}

impl Layer for Conv {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        Ok(match x {
            Maps::F32(x) if pass.gives_bf16() => Maps::Bf16(self.apply(pass, x)?),
            Maps::F32(x) => Maps::F32(self.apply(pass, x)?),
            Maps::Bf16(x) => Maps::Bf16(self.apply(pass, x)?),
        })
    }
}

/// A convolution and the batch norm after it.
pub struct ConvBn {
    conv: Conv,
    bn: BatchNorm,
}

impl ConvBn {
    /// bn(conv(x)) + residual, then ReLU: one kernel where the batch norm can be folded.
    pub fn apply(&self, pass: &mut Pass, x: Maps, residual: Option<Maps>, activate: bool) -> Result<Maps> {
        let of_bf16 = |residual: Option<Maps>| residual.map(Maps::bf16).transpose();
        Ok(match x {
            Maps::F32(x) if pass.gives_bf16() => {
                Maps::Bf16(self.apply_to(pass, x, of_bf16(residual)?, activate)?)
            }
            Maps::F32(x) => {
                Maps::F32(self.apply_to(pass, x, residual.map(Maps::f32).transpose()?, activate)?)
            }
            Maps::Bf16(x) => Maps::Bf16(self.apply_to(pass, x, of_bf16(residual)?, activate)?),
        })
    }

    fn apply_to<X: Convolve<Y>, Y: Real>(
        &self,
        pass: &mut Pass,
        x: Var<X>,
        residual: Option<Var<Y>>,
        activate: bool,
    ) -> Result<Var<Y>> {
        let ConvBn { conv, bn } = self;
        if pass.folds() {
            let folded = pass.params.folded(pass.tape.device(), conv.weight)?;
            let _layer = pass.layer(conv.weight);
            return conv2d_folded(pass.tape, x, &folded, residual, activate, conv.stride, conv.pad);
        }
        let tape = pass.tape;
        let convolved = conv.measured(pass, x)?;
        let maps = convolved.x;
        let normed = bn.apply(pass, convolved, activate && residual.is_none())?;
        tape.release(maps);
        let Some(residual) = residual else { return Ok(normed) };
        let _layer = pass.layer(bn.0.weight);
        let sum = add(tape, normed, residual)?;
        tape.release(normed);
        if !activate {
            return Ok(sum);
        }
        let activated = relu(tape, sum)?;
        tape.release(sum);
        Ok(activated)
    }
}

/// relu(bn(conv(x))).
impl Layer for ConvBn {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        self.apply(pass, x, None, true)
    }
}

/// relu(bn(x)).
pub struct BnRelu(BatchNorm);

impl BnRelu {
    pub fn boxed(bn: BatchNorm) -> Box<dyn Layer> {
        Box::new(BnRelu(bn))
    }
}

impl Layer for BnRelu {
    fn forward(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        self.0.relu(pass, x)
    }
}

/// A batch norm over the channels of `[N,H,W,C]`, eps 1e-5, momentum 0.1.
pub struct BatchNorm(NormIds);

impl BatchNorm {
    /// relu(bn(x)).
    pub fn relu(&self, pass: &mut Pass, x: Maps) -> Result<Maps> {
        Ok(each_type!(x, |x| self.apply(pass, x, true)?))
    }

    fn apply<T: Real>(&self, pass: &mut Pass, x: impl Into<Measured<T>>, activate: bool) -> Result<Var<T>> {
        let ids = self.0;
        let _layer = pass.layer(ids.weight);
        let (weight, bias, mode, rows) = (pass.var(ids.weight), pass.var(ids.bias), pass.bn, pass.rows);
        if mode == BnMode::Train
            && let Some((mean, var)) = pass.params.pair_mut(ids.mean, ids.var)
        {
            return batch_norm::batch_norm(
                pass.tape,
                x,
                Norm { weight, bias, mean, var, mode, rows },
                activate,
            );
        }
        let (mean, var) = (&mut pass.params.value(ids.mean), &mut pass.params.value(ids.var));
        batch_norm::batch_norm(pass.tape, x, Norm { weight, bias, mean, var, mode, rows }, activate)
    }
}

/// x W^T + b.
pub struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    pub fn forward(&self, pass: &mut Pass, x: Var) -> Result<Var> {
        let _layer = pass.layer(self.weight);
        linear(pass.tape, x, pass.var(self.weight), Some(pass.var(self.bias)))
    }

    /// The gradients of the loss of the logits against `target`, summed over the images, from the last
    /// feature maps on, in a pass with frozen weights.
    pub fn gradients(&self, pass: &mut Pass, maps: Maps, target: Target) -> Result<Gradients> {
        match maps {
            Maps::F32(maps) => self.gradients_from(pass, maps, target),
            Maps::Bf16(maps) => self.gradients_from(pass, maps, target),
        }
    }

    fn gradients_from<T: Real>(&self, pass: &mut Pass, maps: Var<T>, target: Target) -> Result<Gradients> {
        let (tape, device) = (pass.tape, pass.tape.device());
        let [weight, bias] = [self.weight, self.bias].map(|id| pass.params.value(id));
        let classifier = Classifier { weight, bias: Some(bias) };
        if classifier.fits(device) {
            return tape.backward_from(maps, classifier.can_mask(), |maps, mask| {
                let _layer = pass.layer(self.weight);
                classifier.gradient(maps, target, mask)
            });
        }
        let forward = device.scope(Range::Forward);
        let features = global_avg_pool(tape, maps)?;
        let z = self.forward(pass, features)?;
        let loss = target.loss(tape, z)?;
        drop(forward);
        tape.backward(loss, None)
    }
}
