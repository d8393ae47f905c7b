//! A network of any family: normalisation, stem, stages, pooling, classifier.

use super::families::{Arch, Layers};
use super::layers::{Builder, Pass};
use super::maps::Maps;
use super::params::{Leaves, Param, Params, Role};
use crate::device::Device;
use crate::device::trace::Range;
use crate::error::{Error, Result};
use crate::ops::batch_norm::BnMode;
use crate::ops::conv2d::Precision;
use crate::ops::head::Target;
use crate::ops::normalize::Normalize;
use crate::ops::valid::Rows;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// A network with its parameters.
pub struct Net {
    pub params: Params,
    normalize: Option<Normalize>,
    layers: Layers,
    channels: usize,
    classes: usize,
    /// Passes in train mode so far, whatever images they had: PyTorch's `num_batches_tracked`.
    pub train_passes: i64,
}

/// The input and the output of a network.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Channels of an image.
    pub channels: usize,
    /// Height of an image: 64 and more take a stem of stride 2.
    pub height: usize,
    pub classes: usize,
    /// Per channel, subtracted and divided by before anything else; empty: no normalisation.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Net {
    /// A network with PyTorch's default initialisation.
    ///
    /// Errors: mean and std that do not fit the channels; out of memory.
    pub fn new(device: &Device, arch: &Arch, shape: &Shape, seed: u64) -> Result<Net> {
        Net::of_layers(device, shape, seed, arch.layers)
    }

    /// [`Net::new`] of the layers that `layers` adds: an architecture without a name, of any size.
    pub fn of_layers(
        device: &Device,
        shape: &Shape,
        seed: u64,
        layers: impl FnOnce(&mut Builder) -> Result<Layers>,
    ) -> Result<Net> {
        let _network = device.scope(Range::Network);
        let normalize = match (shape.mean.as_slice(), shape.std.as_slice()) {
            ([], []) => None,
            (mean, std) => Some(Normalize::new(device, mean, std, shape.channels)?),
        };
        let mut params = Params::new();
        let builder = &mut Builder { device, params: &mut params, shape, seed, prefix: String::new() };
        let layers = layers(builder)?;
        Ok(Net {
            params,
            normalize,
            layers,
            channels: shape.channels,
            classes: shape.classes,
            train_passes: 0,
        })
    }

    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The precision of convolutions from now on; float32 in a new network.
    pub fn set_precision(&mut self, precision: Precision) {
        self.params.set_precision(precision);
    }

    /// The result of `work` on the network with convolutions of this precision.
    pub fn with_precision<R>(&mut self, precision: Precision, work: impl FnOnce(&mut Net) -> R) -> R {
        let before = self.params.precision();
        self.set_precision(precision);
        let result = work(self);
        self.set_precision(before);
        result
    }

    /// Puts the trained parameters on a tape, for passes whose weights are differentiated.
    pub fn leaves(&self, tape: &Tape) -> Leaves {
        self.params.leaves(tape)
    }

    /// Logits `[N, classes]` of images `[N,H,W,C]`. With `leaves`, weights are differentiated; without, they
    /// are frozen.
    pub fn forward(&mut self, tape: &Tape, x: Var, bn: BnMode, leaves: Option<&Leaves>) -> Result<Var> {
        self.forward_rows(tape, x, bn, leaves, &Rows::All)
    }

    /// [`Net::forward`] of the images that `rows` says. With `Rows::First` the logits of the others are those
    /// of features 0 (in folded passes: of whatever the memory holds), and give no gradient to a weight when
    /// their own is 0.
    pub fn forward_rows(
        &mut self,
        tape: &Tape,
        x: Var,
        bn: BnMode,
        leaves: Option<&Leaves>,
        rows: &Rows,
    ) -> Result<Var> {
        let features = self.features_rows(tape, x, bn, leaves, rows)?;
        let pass = &mut Pass { tape, params: &mut self.params, bn, leaves, rows };
        self.layers.classifier.forward(pass, features)
    }

    /// Logits of penultimate features.
    pub fn classify(&mut self, tape: &Tape, features: Var, leaves: Option<&Leaves>) -> Result<Var> {
        let pass = &mut Pass { tape, params: &mut self.params, bn: BnMode::Eval, leaves, rows: &Rows::All };
        self.layers.classifier.forward(pass, features)
    }

    /// The penultimate features `[N, width]`, which the classifier reads.
    pub fn features(&mut self, tape: &Tape, x: Var, bn: BnMode, leaves: Option<&Leaves>) -> Result<Var> {
        self.features_rows(tape, x, bn, leaves, &Rows::All)
    }

    fn features_rows(
        &mut self,
        tape: &Tape,
        x: Var,
        bn: BnMode,
        leaves: Option<&Leaves>,
        rows: &Rows,
    ) -> Result<Var> {
        let (_, last) = self.maps(tape, x, bn, leaves, rows, false)?;
        let features = last.pooled(tape)?;
        last.release(tape, &[]);
        Ok(features)
    }

    /// The gradients of the loss of logits against `target`, summed over the images x `[N,H,W,C]`; weights
    /// are frozen. One kernel goes from the last feature maps to their gradient.
    pub fn gradients(&mut self, tape: &Tape, x: Var, bn: BnMode, target: Target) -> Result<Gradients> {
        let forward = tape.device().scope(Range::Forward);
        let (_, last) = self.maps(tape, x, bn, None, &Rows::All, false)?;
        drop(forward);
        let pass = &mut Pass { tape, params: &mut self.params, bn, leaves: None, rows: &Rows::All };
        self.layers.classifier.gradients(pass, last, target)
    }

    /// The output of every stage, averaged over its pixels `[N,C]`, and last the penultimate features: those
    /// of the last stage again, but for pre-activation networks after their last batch norm. Weights are
    /// frozen.
    pub fn stages(&mut self, tape: &Tape, x: Var, bn: BnMode) -> Result<Vec<Var>> {
        let (stages, last) = self.maps(tape, x, bn, None, &Rows::All, true)?;
        stages.into_iter().chain([last]).map(|maps| maps.pooled(tape)).collect()
    }

    /// The feature maps at the end of every stage, and the logits `[N, classes]`, in eval mode with frozen
    /// weights.
    pub fn stage_maps(&mut self, tape: &Tape, x: Var) -> Result<(Vec<Maps>, Var)> {
        let (stages, last) = self.maps(tape, x, BnMode::Eval, None, &Rows::All, true)?;
        let features = last.pooled(tape)?;
        Ok((stages, self.classify(tape, features, None)?))
    }

    /// The feature maps `[N,H,W,C]` at the end of every stage, if they are wanted, and those that are pooled
    /// for the classifier. All others are released as soon as they have been read: an attack leaves nothing
    /// but ReLU masks.
    fn maps(
        &mut self,
        tape: &Tape,
        x: Var,
        bn: BnMode,
        leaves: Option<&Leaves>,
        rows: &Rows,
        keep_stages: bool,
    ) -> Result<(Vec<Maps>, Maps)> {
        let shape = tape.value(x).nhwc("network input")?;
        if shape[3] != self.channels {
            let expected = format!("[N,H,W,{}] images", self.channels);
            return Err(Error::Shape { op: "network input", expected, got: shape.to_vec() });
        }
        if bn == BnMode::Train {
            self.train_passes += 1;
        }
        let pass = &mut Pass { tape, params: &mut self.params, bn, leaves, rows };
        let images = match &self.normalize {
            Some(normalize) => normalize.forward(tape, x)?,
            None => x,
        };
        // float32: bf16's steps near 1 are 1/256, an attack's are 2/255 and less.
        let mut hidden = self.layers.stem.forward(pass, Maps::F32(images))?;
        Maps::F32(images).release(tape, &[Maps::F32(x)]);
        let mut stages = Vec::new();
        for stage in &self.layers.stages {
            for block in stage {
                let next = block.forward(pass, hidden)?;
                hidden.release(tape, &stages);
                hidden = next;
            }
            if keep_stages {
                stages.push(hidden);
            }
        }
        if let Some(last) = &self.layers.last {
            let next = last.forward(pass, hidden)?;
            hidden.release(tape, &stages);
            hidden = next;
        }
        Ok((stages, hidden))
    }

    /// Names, file shapes and values (PyTorch's layout) of all parameters and buffers.
    pub fn export(&self) -> Result<Vec<Exported>> {
        let file = |p: &Param| p.in_file(&p.value).map(|(shape, values)| (p.name.clone(), shape, values));
        self.params.iter().map(file).collect()
    }

    /// Names and file shapes, as [`Net::import`] wants them.
    pub fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let shape =
            |p: &Param| if p.role == Role::Filter { file_shape(&p.value) } else { p.value.shape().to_vec() };
        self.params.iter().map(|p| (p.name.clone(), shape(p))).collect()
    }

    /// Overwrites every parameter and buffer; `find` gives the values of a name in PyTorch's layout. Check
    /// names and shapes first.
    pub fn import(&mut self, device: &Device, find: impl Fn(&str) -> Option<Vec<f32>>) -> Result<()> {
        for param in self.params.iter_mut() {
            let shape = param.value.shape().to_vec();
            let Some(mut values) = find(&param.name) else { continue };
            if param.role == Role::Filter {
                let [o, h, w, i] = [shape[0], shape[1], shape[2], shape[3]];
                values = permute(&values, &[o, i, h, w], [0, 2, 3, 1]);
            }
            param.value = Tensor::from_slice(device, &shape, &values)?;
        }
        Ok(())
    }
}

impl Param {
    /// Shape and values, in PyTorch's layout, of a tensor of this parameter's shape: its value, its gradient.
    pub fn in_file(&self, tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>)> {
        let values = tensor.to_vec()?;
        Ok(match self.role {
            Role::Filter => (file_shape(tensor), permute(&values, tensor.shape(), [0, 3, 1, 2])),
            _ => (tensor.shape().to_vec(), values),
        })
    }
}

/// A tensor as files hold it: name, shape and values in PyTorch's layout.
pub type Exported = (String, Vec<usize>, Vec<f32>);

/// OIHW of a filter `[O,H,W,I]`.
fn file_shape(filter: &Tensor) -> Vec<usize> {
    let shape = filter.shape();
    vec![shape[0], shape[3], shape[1], shape[2]]
}

/// Reorders the axes of a four-dimensional array: axis i of the result is axis `order[i]` of `values`.
fn permute(values: &[f32], shape: &[usize], order: [usize; 4]) -> Vec<f32> {
    let mut strides = [1; 4];
    for axis in (0..3).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    let [a, b, c, d] = order.map(|axis| (shape[axis], strides[axis]));
    let mut out = Vec::with_capacity(values.len());
    for i in 0..a.0 {
        for j in 0..b.0 {
            for k in 0..c.0 {
                out.extend((0..d.0).map(|l| values[i * a.1 + j * b.1 + k * c.1 + l * d.1]));
            }
        }
    }
    out
}
