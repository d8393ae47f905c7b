//! One training step on given data, tensor by tensor, for comparison with any other implementation.

use super::step::{Batch, Models, StepConfig, differentiate};
use crate::config::Config;
use crate::data::ImageShape;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::files::tensor_file::{Images, TensorFile, Values, write};
use crate::files::weights::{Normalisation, WeightFile};
use crate::method::{self, FixedNoise, LogValue};
use crate::nn::Role;
use crate::ops::slice::{concat_tensor, slice_tensor};
use crate::run::network::{self, Classes, WeightOverrides};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A step to compute.
pub struct StepCheck {
    /// Method, model, keys and device.
    pub config: Config,
    /// Whether `mean` and `std` of `config` were given; else images are normalised as the metadata of
    /// `weights` say.
    pub normalised: bool,
    /// 0-based epoch that the step belongs to.
    pub epoch: usize,
    pub weights: PathBuf,
    /// The averaged network's weights; `None`: those of the network.
    pub wa_weights: Option<PathBuf>,
    /// safetensors: `x` f32 `[N,C,H,W]` in `[0,1]`, `y` i64 `[N]`; optionally `x2`, `noise`, `noise2` shaped
    /// as x, and `mix`, one number.
    pub batch: PathBuf,
    pub out: PathBuf,
}

/// The tensors that a batch file may hold.
const BATCH: [&str; 6] = ["x", "y", "x2", "noise", "noise2", "mix"];

/// The batch file, its labels and the shape of its images.
struct BatchFile {
    file: TensorFile,
    y: Vec<i32>,
    /// `[N,H,W,C]`
    shape: [usize; 4],
}

impl BatchFile {
    fn read(path: &Path) -> Result<BatchFile> {
        let file = TensorFile::read(path, &BATCH)?;
        if let Some(other) = file.others.first() {
            return Err(Error::unknown("tensor of a batch", other, BATCH));
        }
        let y = file.labels()?;
        let x = file
            .images("x")?
            .ok_or_else(|| file.wrong("has no x; expected x f32 [N,C,H,W] and y i64 [N]"))?;
        Ok(BatchFile { file, y, shape: x.shape })
    }

    /// Images or noise `[N,H,W,C]`; `None` when they are not there.
    fn images(&self, device: &Device, name: &str) -> Result<Option<Tensor>> {
        let found = if name.starts_with('x') { self.file.images(name)? } else { self.file.changes(name)? };
        let Some(Images { shape, pixels }) = found else { return Ok(None) };
        if shape[0] != self.y.len() || shape != self.shape {
            let problem = format!(
                "{name} has {shape:?} as [N,H,W,C], which does not fit {} labels and x",
                self.y.len()
            );
            return Err(self.file.wrong(problem));
        }
        Tensor::from_slice(device, &shape, &pixels).map(Some)
    }
}

/// Images back in `[N,C,H,W]`.
fn nchw(images: &Tensor) -> Result<Values> {
    Ok(Values::images(&images.nhwc("images")?, &images.to_vec()?))
}

fn floats(tensor: &Tensor) -> Result<Values> {
    Ok(Values::F32(tensor.shape().to_vec(), tensor.to_vec()?))
}

/// Computes the step and writes its tensors: `loss`, `loss.<term>` (before its weight), `x_adv` (and
/// `x_adv2`), numbers (f32) and flags (u8) of each sample that the method logs under their own names,
/// `grad.<parameter>` (zeros where the loss does not depend on it), `buffer.<name>`: the running statistics
/// after the passes that the loss needs.
///
/// Errors: files of the wrong content, keys and ranges; nothing is written then.
pub fn run(check: &StepCheck) -> Result<BTreeMap<String, Values>> {
    let StepCheck { epoch, .. } = check;
    let config = &Config { init: Some(check.weights.clone()), ..check.config.clone() };
    super::validate(config)?;
    let method = method::find(&config.method)?;
    let device = config.device.open()?;
    let given = BatchFile::read(&check.batch)?;
    let lacks = |name: &str, why: &str| Error::file(&check.batch, format!("has no {name}; {why}"));
    let x =
        given.images(&device, "x")?.ok_or_else(|| lacks("x", "expected x f32 [N,C,H,W] and y i64 [N]"))?;
    let x2 = match ((method.views)(config), given.images(&device, "x2")?) {
        (1, _) => None,
        (_, Some(x2)) => Some(x2),
        (_, None) => return Err(lacks("x2", &format!("{} takes two views of each image", config.method))),
    };
    let [file, wa_file] = weights(check)?;
    let [_, height, width, channels] = x.nhwc("x")?;
    let shape = ImageShape { height, width, channels };
    let overrides = WeightOverrides { model: Some(config.model.clone()), ..WeightOverrides::default() };
    let network = |file| network::open(&device, file, &overrides, (Classes::AtLeast(0), shape));
    let ((mut net, _), (mut wa, _)) = (network(file)?, network(wa_file)?);
    given.file.within(&given.y, net.classes())?;
    let mix = match given.file.get("mix") {
        Some(Values::F32(_, values)) => values.first().copied(),
        Some(_) => return Err(given.file.wrong("mix is not F32")),
        None => None,
    };
    if let Some(r) = mix.filter(|r| !(0.0..=1.0).contains(r)) {
        return Err(Error::file(&check.batch, format!("mix is {r}; expected a number in [0,1]")));
    }
    let noise = [given.images(&device, "noise")?, given.images(&device, "noise2")?];
    let b = given.y.len();
    let both = x2.as_ref().map(|x2| concat_tensor(&x, x2)).transpose()?;
    let labels = Buffer::from_slice(&device, &given.y)?;
    let images = Buffer::from_slice(&device, &(0..b as i32).collect::<Vec<_>>())?;
    let batch = Batch { x: both.as_ref().unwrap_or(&x), y: &labels, images: &images, index: 0 };
    let step_config = StepConfig { method, set: config, epoch: *epoch };
    let models = &mut Models { net: &mut net, wa: Some(&mut wa) };
    let done = differentiate(models, &batch, &step_config, &FixedNoise { noise, mix })?;

    let mut out = BTreeMap::new();
    out.insert("loss".into(), Values::F32(vec![], done.loss.to_vec()?));
    for (name, term) in &done.terms {
        out.insert(format!("loss.{name}"), Values::F32(vec![], term.to_vec()?));
    }
    let x_adv = &done.x_adv;
    out.insert("x_adv".into(), nchw(&slice_tensor(x_adv, 0, b)?)?);
    if x_adv.shape()[0] > b {
        out.insert("x_adv2".into(), nchw(&slice_tensor(x_adv, b, b)?)?);
    }
    for (name, value) in &done.log {
        match value {
            LogValue::Values(values) => out.insert((*name).into(), floats(values)?),
            LogValue::Flags(flags) => {
                out.insert((*name).into(), Values::U8(vec![flags.len()], flags.to_vec()?))
            }
            LogValue::Count(_) | LogValue::Absent => None,
        };
    }
    for param in net.params.iter() {
        if param.role == Role::Buffer {
            out.insert(format!("buffer.{}", param.name), floats(&param.value)?);
        } else {
            let (shape, zeros) = param.in_file(&Tensor::zeros(&device, param.value.shape())?)?;
            out.insert(format!("grad.{}", param.name), Values::F32(shape, zeros));
        }
    }
    for (id, gradient) in &done.gradients {
        let param = net.params.get(*id);
        let (shape, values) = param.in_file(gradient)?;
        out.insert(format!("grad.{}", param.name), Values::F32(shape, values));
    }
    write(&out, &check.out)?;
    Ok(out)
}

/// The weights of the network and of its average, with metadata that say how images are normalised: for both
/// as is given, or else as the network's own metadata say.
///
/// Errors: the average's metadata say something else.
fn weights(check: &StepCheck) -> Result<[WeightFile; 2]> {
    let Config { mean, std, .. } = &check.config;
    let given = check.normalised.then(|| Normalisation { mean: mean.clone(), std: std.clone() });
    let mut file = WeightFile::read(&check.weights)?;
    let both = match &given {
        Some(given) => given.clone(),
        None => file.normalisation()?.unwrap_or_default(),
    };
    let mut average = match &check.wa_weights {
        Some(path) => WeightFile::read(path)?,
        None => file.clone(),
    };
    if let (None, Some(stated)) = (&given, average.normalisation()?)
        && stated != both
    {
        let problem =
            format!("its network {stated}, that of --weights {both}; --set mean and --set std hold for both");
        return Err(Error::file(&average.path, problem));
    }
    file.set_normalisation(&both);
    average.set_normalisation(&both);
    Ok([file, average])
}
