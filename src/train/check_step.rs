//! One training step on given data, tensor by tensor, for comparison with any other implementation.

use super::step::{Batch, Models, StepConfig, differentiate};
use crate::config::{Config, PrecisionChoice};
use crate::data::ImageShape;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result, ensure};
use crate::files::check_outputs;
use crate::files::tensor_file::{Images, TensorFile, Values, write};
use crate::files::weights::{Normalisation, WeightFile};
use crate::method::{self, FixedNoise, LogValue, draw_mix};
use crate::nn::{Param, Precision, Role};
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

/// The batch file, its images and their labels.
struct BatchFile {
    file: TensorFile,
    x: Images,
    y: Vec<i32>,
}

impl BatchFile {
    fn read(path: &Path) -> Result<BatchFile> {
        let file = TensorFile::read(path, &BATCH)?;
        if let Some(other) = file.others.first() {
            return Err(Error::unknown("tensor of a batch", other, BATCH));
        }
        let y = file.labels()?;
        let x = file.images("x")?;
        let x = x.ok_or_else(|| file.wrong("has no x; expected x f32 [N,C,H,W] and y i64 [N]"))?;
        let batch = BatchFile { file, x, y };
        batch.check_shape("x", &batch.x)?;
        Ok(batch)
    }

    /// Errors: `images` are not as many as the labels, or not shaped as x.
    fn check_shape(&self, name: &str, Images { shape, .. }: &Images) -> Result<()> {
        let labels = self.y.len();
        ensure(shape[0] == labels && *shape == self.x.shape, || {
            let problem = format!("which does not fit {labels} labels and x");
            self.file.wrong(format!("{name} has {shape:?} as [N,H,W,C], {problem}"))
        })
    }

    /// Images or noise `[N,H,W,C]`; `None` when they are not there.
    fn images(&self, device: &Device, name: &str) -> Result<Option<Tensor>> {
        let found = if name.starts_with('x') { self.file.images(name)? } else { self.file.changes(name)? };
        let Some(images) = found else { return Ok(None) };
        self.check_shape(name, &images)?;
        Tensor::from_slice(device, &images.shape, &images.pixels).map(Some)
    }
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
    let mut config = Config { init: Some(check.weights.clone()), ..check.config.clone() };
    // A comparison is exact unless it is asked to be otherwise.
    if config.precision == PrecisionChoice::Auto {
        config.precision = PrecisionChoice::Fixed(Precision::F32);
    }
    let config = &config;
    super::validate(config)?;
    let method = method::find(&config.method)?;
    let wa_weights = check.wa_weights.iter().map(|path| ("--wa-weights", path.as_path()));
    let inputs = [("--weights", check.weights.as_path()), ("--batch", &check.batch)];
    check_outputs(&[("out", &check.out)], &inputs.into_iter().chain(wa_weights).collect::<Vec<_>>())?;
    let device = config.device.open()?;
    let given = BatchFile::read(&check.batch)?;
    let x = Tensor::from_slice(&device, &given.x.shape, &given.x.pixels)?;
    let views = (method.views)(config);
    let x2 = given.images(&device, "x2")?.filter(|_| views > 1);
    ensure(views == 1 || x2.is_some(), || {
        given.file.wrong(format!("has no x2; {} takes two views of each image", config.method))
    })?;
    let [file, wa_file] = weights(check)?;
    let [_, height, width, channels] = given.x.shape;
    let shape = ImageShape { height, width, channels };
    let overrides = WeightOverrides { model: Some(config.model.clone()), ..WeightOverrides::default() };
    let network = |file| network::open(&device, file, &overrides, (Classes::AtLeast(0), shape));
    let ((mut net, _), (mut wa, _)) = (network(file)?, network(wa_file)?);
    [&mut net, &mut wa].into_iter().for_each(|net| net.set_precision(config.precision.on(&device)));
    given.file.within(&given.y, net.classes())?;
    let mix = match given.file.get("mix") {
        Some(Values::F32(_, values)) => values.first().copied(),
        Some(_) => return Err(given.file.wrong("mix is not F32")),
        None => None,
    };
    if let Some(r) = mix.filter(|r| !(0.0..=1.0).contains(r)) {
        return Err(given.file.wrong(format!("mix is {r}; expected a number in [0,1]")));
    }
    let noise = [given.images(&device, "noise")?, given.images(&device, "noise2")?];
    let b = given.y.len();
    let both = x2.as_ref().map(|x2| concat_tensor(&x, x2)).transpose()?;
    let labels = Buffer::from_slice(&device, &given.y)?;
    let images = Buffer::from_slice(&device, &(0..b as i32).collect::<Vec<_>>())?;
    let mix = Tensor::from_slice(&device, &[1], &[mix.unwrap_or_else(|| draw_mix(config, *epoch, 0))])?;
    let batch = Batch { x: both.as_ref().unwrap_or(&x), y: &labels, images: &images, mix: &mix };
    let step_config = StepConfig { method, set: config, epoch: *epoch };
    let models = &mut Models { net: &mut net, wa: Some(&mut wa) };
    let done = differentiate(models, &batch, &step_config, &FixedNoise { noise })?;

    let mut out = BTreeMap::from([("loss".to_owned(), Values::F32(vec![], done.loss.to_vec()?))]);
    for (name, term) in &done.terms {
        out.insert(format!("loss.{name}"), Values::F32(vec![], term.to_vec()?));
    }
    for (view, name) in ["x_adv", "x_adv2"].into_iter().enumerate().take(done.x_adv.shape()[0] / b) {
        let images = slice_tensor(&done.x_adv, view * b, b)?;
        out.insert(name.into(), Values::images(&images.nhwc(name)?, &images.to_vec()?));
    }
    for (name, value) in &done.log {
        match value {
            LogValue::Values(values) => out.insert((*name).into(), floats(values)?),
            LogValue::Flags(f) => out.insert((*name).into(), Values::U8(vec![f.len()], f.to_vec()?)),
            LogValue::Count(_) | LogValue::Absent => None,
        };
    }
    let gradient = |param: &Param, gradient: &Tensor| -> Result<(String, Values)> {
        let (shape, values) = param.in_file(gradient)?;
        Ok((format!("grad.{}", param.name), Values::F32(shape, values)))
    };
    for param in net.params.iter() {
        out.extend([match param.role {
            Role::Buffer => (format!("buffer.{}", param.name), floats(&param.value)?),
            _ => gradient(param, &Tensor::zeros(&device, param.value.shape())?)?,
        }]);
    }
    for (id, values) in &done.gradients {
        out.extend([gradient(net.params.get(*id), values)?]);
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
