//! Work at typical sizes, to be timed or counted: operations, whole training steps, and the parts of these.

use std::rc::Rc;

use crate::attack::{Objective, Pgd, Points, logits};
use crate::config::Config;
use crate::device::{Buffer, Device, Real};
use crate::error::{Error, Result};
use crate::method::{self, Method};
use crate::nn::{Arch, Net, Param, ParamId, Shape};
use crate::ops::attack_step::linf_step;
use crate::ops::batch_norm::BnMode;
use crate::ops::cast::rounded;
use crate::ops::conv2d::{Conv, Convolve, Epilogue, Filter, Precision};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::fill::full;
use crate::ops::reduce::Reduction;
use crate::rng::{Key, Purpose, Stream};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::train::average::Average;
use crate::train::captured::{CapturedStep, Networks};
use crate::train::step::{Batch, Models, Sgd, StepConfig, train_step};
use half::bf16;

/// Something to do again and again.
pub type Work = Box<dyn FnMut() -> Result<()>>;

/// The batch that GPUs are measured on.
pub const BATCH: usize = 128;

/// Numbers in `[0, 1)`. Errors: more of them than kernels index.
pub fn random(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    let count = count.filter(|count| *count <= i32::MAX as usize).ok_or_else(|| {
        Error::value("shape", format!("{shape:?}"), format!("kernels index at most {} numbers", i32::MAX))
    })?;
    let mut stream = Stream::new(0, "bench");
    let numbers: Vec<f32> = (0..count).map(|_| stream.uniform()).collect();
    Tensor::from_slice(device, shape, &numbers)
}

/// Labels `[N]`, or indices.
pub fn labels(device: &Device, n: usize, classes: usize) -> Result<Buffer<i32>> {
    Buffer::from_slice(device, &(0..n).map(|i| (i % classes) as i32).collect::<Vec<_>>())
}

/// The sizes of a convolution whose images keep their size but for the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// `[N,H,W,C]`.
    pub input: [usize; 4],
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
}

impl Layer {
    pub fn conv(&self) -> Result<Conv> {
        let &Layer { input, out_channels, kernel, stride } = self;
        Conv::new(&input, &[out_channels, kernel, kernel, input[3]], stride, kernel / 2)
    }
}

/// Numbers of a map.
pub trait Numbers: Real {
    /// In `[0, 1)`.
    fn random(device: &Device, shape: &[usize]) -> Result<Tensor<Self>>;
}

impl Numbers for f32 {
    fn random(device: &Device, shape: &[usize]) -> Result<Tensor> {
        random(device, shape)
    }
}

impl Numbers for bf16 {
    fn random(device: &Device, shape: &[usize]) -> Result<Tensor<bf16>> {
        rounded(&random(device, shape)?)
    }
}

/// The three passes of a convolution that reads maps of X and writes maps of Y.
pub fn passes<X: Convolve<Y> + Numbers, Y: Numbers>(
    device: &Device,
    conv: Conv,
    precision: Precision,
) -> Result<[Work; 3]> {
    let (x, grad) = (X::random(device, &conv.in_shape())?, Y::random(device, &conv.out_shape())?);
    let weight = filter(device, &conv)?;
    let mut grad_x = Buffer::uninit(device, x.len())?;
    let mut grad_w = Buffer::uninit(device, weight.len())?;
    let filter = Rc::new(Filter::new(weight, precision));
    let (images, of_input, for_w, grad_of_w) = (x.clone(), filter.clone(), filter.clone(), grad.clone());
    Ok([
        Box::new(move || X::forward(&conv, &images, &filter, Epilogue::default(), None).map(drop)),
        Box::new(move || X::input_grad(&conv, &grad, &of_input, None, None, &mut grad_x, false)),
        Box::new(move || X::weight_grad(&conv, &x, &grad_of_w, &for_w, None, &mut grad_w, false)),
    ])
}

/// Weights of a convolution.
pub fn filter(device: &Device, conv: &Conv) -> Result<Tensor> {
    random(device, &[conv.out_channels, conv.kernel_height, conv.kernel_width, conv.in_channels])
}

/// A step of an Linf attack on images `[N,H,W,C]`.
pub fn attack_step(device: &Device, shape: &[usize]) -> Result<Work> {
    let images = || random(device, shape);
    let (clean, gradient, mut x_adv) = (images()?, images()?, images()?);
    Ok(Box::new(move || linf_step(&mut x_adv, &gradient, &clean, 0.01, 0.03)))
}

/// A network and the images that steps are measured on.
#[derive(Clone, Copy)]
pub struct Job {
    pub model: &'static str,
    pub side: usize,
    pub channels: usize,
    /// The batch on the host; on a GPU it is [`BATCH`].
    host_batch: usize,
    eps: &'static str,
}

/// A part of a step, and how often a step of PGD-AT and of RAAT has it when all images are in S.
pub struct Part {
    pub name: &'static str,
    pub counts: [usize; 2],
    /// How often the work does it.
    pub repeats: usize,
    pub work: Work,
}

impl Job {
    pub fn batch(&self, device: &Device) -> usize {
        if device.is_host() { self.host_batch } else { BATCH }
    }

    pub fn net(&self, device: &Device) -> Result<Net> {
        let shape =
            Shape { channels: self.channels, height: self.side, classes: 10, mean: vec![], std: vec![] };
        Net::new(device, Arch::find(self.model)?, &shape, 0)
    }

    pub fn images(&self, device: &Device, n: usize) -> Result<Tensor> {
        random(device, &[n, self.side, self.side, self.channels])
    }

    /// A training step of `method` on a batch of n images, with convolutions of this precision.
    pub fn step(&self, device: &Device, method: &str, n: usize, precision: &str) -> Result<Work> {
        let mut config = Config::default();
        config.apply(&[
            ("method", method),
            ("eps", self.eps),
            ("step_size", self.eps),
            ("average_start_epoch", "0"),
            ("precision", precision),
        ])?;
        let entry = method::find(method)?;
        let views = (entry.views)(&config);
        let (mut net, mut wa) = (self.net(device)?, self.net(device)?);
        [&mut net, &mut wa].into_iter().for_each(|net| net.set_precision(config.precision.on(device)));
        let (x, y) = (self.images(device, n.saturating_mul(views))?, labels(device, n, 10)?);
        let images = labels(device, n, usize::MAX)?;
        let average = Average::of(&config, entry);
        let (lr, mix) = (Buffer::from_slice(device, &[0.01])?, full(device, &[1], 0.75)?);
        let mut step = RepeatedStep {
            config,
            method: entry,
            net,
            wa: average.map(|_| wa),
            average,
            x,
            y,
            images,
            mix,
            lr,
            launched: false,
            captured: None,
        };
        Ok(Box::new(move || step.run()))
    }

    /// The parts of steps on a batch of n images.
    pub fn parts(&self, device: &Device, n: usize) -> Result<Vec<Part>> {
        const STEPS: usize = 10;
        let (x, y) = (self.images(device, n)?, labels(device, n, 10)?);
        let images = labels(device, n, usize::MAX)?;
        let mut net = self.net(device)?;
        let evaluated = x.clone();
        let pgd = Pgd { steps: STEPS, ..Pgd::default() };
        let key = Key::new(0, Purpose::AttackStart, 0, 0);
        let attack = Box::new(move || {
            let points = Points { x: &x, y: &y, images: &images };
            pgd.attack(&mut net, Objective::CrossEntropy, points, key).map(drop)
        });
        let mut net = self.net(device)?;
        let evaluation = Box::new(move || logits(&mut net, &evaluated).map(drop));
        let (_, update) = self.update(device)?;
        let part = |name, counts, repeats, work: Work| Part { name, counts, repeats, work };
        Ok(vec![
            part("attack step", [10, 20], STEPS, attack),
            part("evaluation", [0, 6], 1, evaluation),
            part("training pass", [1, 1], 1, self.pass(device, n)?),
            part("training pass, two views", [0, 2], 1, self.pass(device, 2 * n)?),
            part("update", [1, 1], 1, update),
        ])
    }

    /// The update of all parameters, and their number.
    pub fn update(&self, device: &Device) -> Result<(usize, Work)> {
        let mut net = self.net(device)?;
        let lr = Buffer::from_slice(device, &[0.0])?;
        let gradient = |(id, param): (ParamId, &Param)| Ok((id, Tensor::zeros(device, param.value.shape())?));
        let gradients = net.params.trained().map(gradient).collect::<Result<Vec<_>>>()?;
        let count = net.params.count();
        let sgd =
            move || Sgd { lr: &lr, momentum: 0.9, weight_decay: 5e-4 }.update(&mut net.params, &gradients);
        Ok((count, Box::new(sgd)))
    }

    /// Loss and gradients of n images.
    fn pass(&self, device: &Device, n: usize) -> Result<Work> {
        let mut net = self.net(device)?;
        let (x, y, device) = (self.images(device, n)?, labels(device, n, 10)?, device.clone());
        Ok(Box::new(move || {
            let tape = Tape::new(&device);
            let leaves = net.leaves(&tape);
            let z = net.forward(&tape, tape.constant(x.clone()), BnMode::Train, Some(&leaves))?;
            let loss = cross_entropy(&tape, z, &y, Reduction::Mean)?;
            leaves.gradients(&mut tape.backward(loss, None)?);
            Ok(())
        }))
    }
}

/// A training step that is done again and again, on a GPU as in training: the first time its launches, the
/// second time it is captured, and replayed from then on.
struct RepeatedStep {
    config: Config,
    method: &'static Method,
    net: Net,
    wa: Option<Net>,
    average: Option<Average>,
    x: Tensor,
    y: Buffer<i32>,
    images: Buffer<i32>,
    mix: Tensor,
    lr: Buffer<f32>,
    launched: bool,
    captured: Option<CapturedStep>,
}

impl Networks for RepeatedStep {
    fn nets(&mut self) -> impl Iterator<Item = &mut Net> {
        [Some(&mut self.net), self.wa.as_mut()].into_iter().flatten()
    }
}

impl RepeatedStep {
    fn run(&mut self) -> Result<()> {
        let device = self.x.device().clone();
        if device.is_host() || device.is_traced() || !self.launched {
            self.launched = true;
            return self.launch();
        }
        let captured = match self.captured.take() {
            Some(captured) => captured,
            None => CapturedStep::of(&device, self, RepeatedStep::launch)?,
        };
        captured.replay(self)?;
        self.captured = Some(captured);
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        let RepeatedStep { config, method, net, wa, average, x, y, images, mix, lr, .. } = self;
        let step_config = StepConfig { method, set: config, epoch: 0 };
        let sgd = Sgd { lr, momentum: 0.9, weight_decay: 5e-4 };
        let mut models = Models { net, wa: wa.as_mut() };
        let batch = Batch { x, y, images, mix };
        train_step(&mut models, &batch, &step_config, sgd, average.as_ref()).map(drop)
    }
}

static JOBS: [Job; 3] = [
    Job { model: "resnet-mini", side: 8, channels: 1, host_batch: 128, eps: "0.1" },
    Job { model: "resnet18", side: 32, channels: 3, host_batch: 32, eps: "8/255" },
    Job { model: "wrn-28-10", side: 32, channels: 3, host_batch: 8, eps: "8/255" },
];

/// The job with this network, or the digits net's and ResNet-18's. Networks that are not listed get images
/// like CIFAR's. Errors: there is no such network.
pub fn jobs(model: Option<&str>) -> Result<Vec<Job>> {
    let Some(wanted) = model else { return Ok(JOBS[..2].to_vec()) };
    let model = Arch::find(wanted)?.name;
    let listed = JOBS.iter().find(|job| job.model == model);
    Ok(vec![listed.copied().unwrap_or(Job { model, ..JOBS[1] })])
}
