//! The operations that can be inspected, and the work that each launches.

use super::shape::{Grammar, Sizes};
use super::{Request, Settings};
use crate::attack::{self, Params, Points};
use crate::bench::DEFAULT_PRECISION;
use crate::bench::work::{BATCH, Job, Layer, Work, attack_step, jobs, labels, passes, random};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::batch_norm::{BnMode, Norm, batch_norm};
use crate::ops::conv2d::Precision;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::ops::valid::Rows;
use crate::ops::{add, global_avg_pool, linear, relu};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// An operation by name.
pub struct Operation {
    pub name: &'static str,
    pub about: &'static str,
    pub takes: Takes,
}

/// What describes an operation's work.
pub enum Takes {
    /// Sizes, with those at which it is run by default.
    Shape(Grammar, &'static str, fn(&Device, &Sizes) -> Result<Vec<Work>>),
    /// A network and a batch, and perhaps the method or the attack.
    Job(Option<&'static str>, fn(&Device, &Job, usize, &Settings) -> Result<Vec<Work>>),
}

const NHWC: Grammar = Grammar { axes: "NxHxWxC", settings: &[] };
const CONV: Grammar = Grammar { axes: "NxHxWxC", settings: &["out", "kernel", "stride"] };
const LAYER: &str = "128x32x32x64";
const IMAGES: &str = "512x32x32x64";

macro_rules! operations {
    ($($name:literal, $about:literal, $takes:expr;)+) => {
        &[$(Operation { name: $name, about: $about, takes: $takes }),+]
    };
}

/// In the order of the help.
pub static OPERATIONS: &[Operation] = operations! {
    "conv2d", "the three passes of a convolution",
        Takes::Shape(CONV, LAYER, |device, sizes| convolution(device, sizes, &[0, 1, 2]));
    "conv2d-forward", "its forward pass",
        Takes::Shape(CONV, LAYER, |device, sizes| convolution(device, sizes, &[0]));
    "conv2d-input-gradient", "the gradient of its input",
        Takes::Shape(CONV, LAYER, |device, sizes| convolution(device, sizes, &[1]));
    "conv2d-weight-gradient", "the gradient of its weights",
        Takes::Shape(CONV, LAYER, |device, sizes| convolution(device, sizes, &[2]));
    "batch-norm", "forward and backward with the batch's statistics", Takes::Shape(NHWC, IMAGES, norm);
    "relu", "forward and backward", Takes::Shape(NHWC, IMAGES, |device, sizes| {
        on_tape(device, &[&sizes.axes], |tape, x| relu::relu(tape, x[0]))
    });
    "add", "forward and backward", Takes::Shape(NHWC, IMAGES, |device, sizes| {
        on_tape(device, &[&sizes.axes, &sizes.axes], |tape, x| add::add(tape, x[0], x[1]))
    });
    "global-avg-pool", "forward and backward", Takes::Shape(NHWC, "128x4x4x512", |device, sizes| {
        on_tape(device, &[&sizes.axes], |tape, x| global_avg_pool::global_avg_pool(tape, x[0]))
    });
    "linear", "a fully connected layer, forward and backward",
        Takes::Shape(Grammar { axes: "NxK", settings: &["out"] }, "128x512", |device, sizes| {
            let (inputs, outputs) = (sizes.axes[1], sizes.get("out").unwrap_or(10));
            on_tape(device, &[&sizes.axes, &[outputs, inputs], &[outputs]], |tape, x| {
                linear::linear(tape, x[0], x[1], Some(x[2]))
            })
        });
    "cross-entropy", "forward and backward",
        Takes::Shape(Grammar { axes: "NxK", settings: &[] }, "128x10", |device, sizes| {
            let y = labels(device, sizes.axes[0], sizes.axes[1])?;
            on_tape(device, &[&sizes.axes], move |tape, x| cross_entropy(tape, x[0], &y, Reduction::Mean))
        });
    "attack-step", "a step of an Linf attack", Takes::Shape(NHWC, "10000x32x32x3", |device, sizes| {
        Ok(vec![attack_step(device, &sizes.axes)?])
    });
    "step", "a training step", Takes::Job(Some("method"), |device, job, n, settings| {
        Ok(vec![job.step(device, settings.method.as_deref().unwrap_or("pgd-at"), n, DEFAULT_PRECISION)?])
    });
    "attack", "an attack on a network", Takes::Job(Some("attack"), |device, job, n, settings| {
        Ok(vec![attack(device, job, n, settings.attack.as_deref().unwrap_or("apgd-ce"))?])
    });
    "evaluation", "the logits of a batch",
        Takes::Job(None, |device, job, n, _| part(device, job, n, "evaluation"));
    "training-pass", "loss and gradients of a batch",
        Takes::Job(None, |device, job, n, _| part(device, job, n, "training pass"));
    "update", "SGD on all parameters", Takes::Job(None, |device, job, n, _| part(device, job, n, "update"));
};

/// The operation of this name.
pub fn find(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

/// Work, and its sizes in words.
pub struct Prepared {
    pub detail: String,
    pub works: Vec<Work>,
}

impl Operation {
    /// Whether it runs a network.
    pub fn is_job(&self) -> bool {
        matches!(self.takes, Takes::Job(..))
    }

    /// Whether these are sizes in its form.
    pub fn takes_shape(&self, text: &str) -> bool {
        matches!(&self.takes, Takes::Shape(grammar, ..) if grammar.parse(text).is_ok())
    }

    /// The flags that it takes besides those for all.
    fn takes_flag(&self, flag: &str) -> bool {
        match &self.takes {
            Takes::Shape(..) => flag == "shape",
            Takes::Job(own, _) => flag == "model" || flag == "batch" || *own == Some(flag),
        }
    }

    /// Errors: a setting that it does not take, or that has a wrong value.
    pub fn prepare(&self, device: &Device, request: &Request) -> Result<Prepared> {
        let Settings { shape, model, batch, method, attack } = &request.settings;
        for (flag, given) in [
            ("shape", shape.is_some()),
            ("model", model.is_some()),
            ("batch", batch.is_some()),
            ("method", method.is_some()),
            ("attack", attack.is_some()),
        ] {
            if given && !self.takes_flag(flag) {
                return Err(Error::value("inspect", self.name, format!("takes no --{flag}")));
            }
        }
        match &self.takes {
            Takes::Shape(grammar, default, build) => {
                let text = shape.as_deref().unwrap_or(default);
                Ok(Prepared { detail: text.into(), works: build(device, &grammar.parse(text)?)? })
            }
            Takes::Job(own, build) => {
                let n = batch.unwrap_or(BATCH);
                if n == 0 {
                    return Err(Error::value("batch", 0, "must be 1 or more"));
                }
                let detail = match own {
                    Some("method") => format!("{}, ", method.as_deref().unwrap_or("pgd-at")),
                    Some(_) => format!("{}, ", attack.as_deref().unwrap_or("apgd-ce")),
                    None => String::new(),
                };
                let model = model.as_deref().unwrap_or("resnet18");
                let jobs = jobs(Some(model))?;
                let works = jobs.iter().map(|job| build(device, job, n, &request.settings));
                let works = works.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                Ok(Prepared { detail: format!("{detail}{model}, batch {n}"), works })
            }
        }
    }
}

fn convolution(device: &Device, sizes: &Sizes, wanted: &[usize]) -> Result<Vec<Work>> {
    let input = sizes.nhwc();
    let layer = Layer {
        input,
        out_channels: sizes.get("out").unwrap_or(input[3]),
        kernel: sizes.get("kernel").unwrap_or(3),
        stride: sizes.get("stride").unwrap_or(1),
    };
    let passes = passes::<f32, f32>(device, layer.conv()?, Precision::F32)?.into_iter().enumerate();
    Ok(passes.filter(|(pass, _)| wanted.contains(pass)).map(|(_, work)| work).collect())
}

/// An operation on random numbers, forward and backward to all of them.
fn on_tape(
    device: &Device,
    shapes: &[&[usize]],
    operation: impl Fn(&Tape, &[Var]) -> Result<Var> + 'static,
) -> Result<Vec<Work>> {
    let inputs = shapes.iter().map(|shape| random(device, shape)).collect::<Result<Vec<Tensor>>>()?;
    let device = device.clone();
    Ok(vec![Box::new(move || {
        let tape = Tape::new(&device);
        let leaves: Vec<Var> = inputs.iter().map(|input| tape.leaf(input.clone())).collect();
        let result = operation(&tape, &leaves)?;
        let upstream = random(&device, tape.value(result).shape())?;
        tape.backward(result, Some(upstream)).map(drop)
    })])
}

fn norm(device: &Device, sizes: &Sizes) -> Result<Vec<Work>> {
    let channels = [sizes.nhwc()[3]];
    let [mean, var] = [random(device, &channels)?, random(device, &channels)?];
    on_tape(device, &[&sizes.axes, &channels, &channels], move |tape, x| {
        let (mean, var) = (&mut mean.clone(), &mut var.clone());
        let norm = Norm { weight: x[1], bias: x[2], mean, var, mode: BnMode::Train, rows: &Rows::All };
        batch_norm(tape, x[0], norm, true)
    })
}

fn attack(device: &Device, job: &Job, n: usize, name: &str) -> Result<Work> {
    let attack = attack::by_name(name, &Params::default())?;
    let mut net = job.net(device)?;
    let (x, y, images) = (job.images(device, n)?, labels(device, n, 10)?, labels(device, n, usize::MAX)?);
    Ok(Box::new(move || attack.run(&mut net, Points { x: &x, y: &y, images: &images }).map(drop)))
}

fn part(device: &Device, job: &Job, n: usize, name: &str) -> Result<Vec<Work>> {
    let parts = job.parts(device, n)?.into_iter();
    Ok(parts.filter(|part| part.name == name).map(|part| part.work).collect())
}
