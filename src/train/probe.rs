//! One training step on given data: what it computes, tensor by tensor, for comparison with any other implementation.

use super::checkpoint;
use super::config::Config;
use super::rundir::write_atomic;
use super::step::{Batch, Nets, Rules, differentiate};
use super::weights::WeightFile;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::method::{self, Given};
use crate::nn::{Arch, Net, Role, Shape};
use crate::ops::rows::{join, rows_of};
use crate::tensor::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is to be computed.
pub struct Request {
    /// Method, model, keys and device.
    pub config: Config,
    /// 0-based epoch that the step belongs to.
    pub epoch: usize,
    pub weights: PathBuf,
    /// The averaged network's weights; `None`: those of the network.
    pub wa_weights: Option<PathBuf>,
    /// safetensors: `x` f32 `[N,C,H,W]` in `[0,1]`, `y` i64 `[N]`; optionally `x2`, `noise`, `noise2` shaped as x, and `mix`, one number.
    pub batch: PathBuf,
    pub out: PathBuf,
}

/// A tensor of the result, in PyTorch's layout.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<usize>, Vec<f32>),
    U8(Vec<usize>, Vec<u8>),
}

/// The tensors of a batch file.
struct Given32 {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    y: Vec<i32>,
}

impl Given32 {
    fn read(path: &Path) -> Result<Given32> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read the batch"))?;
        let wrong = |problem: String| Error::file(path, problem);
        let content = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
        let (mut tensors, mut y) = (BTreeMap::new(), None);
        for (name, tensor) in content.iter() {
            let bytes = tensor.data();
            let found = || wrong(format!("{name} is {:?} {:?}", tensor.dtype(), tensor.shape()));
            match (name, tensor.dtype()) {
                ("y", Dtype::I64) => y = Some(bytes.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c) as i32).collect()),
                ("y", Dtype::I32) => y = Some(bytes.as_chunks().0.iter().map(|c| i32::from_le_bytes(*c)).collect()),
                ("x" | "x2" | "noise" | "noise2" | "mix", Dtype::F32) => {
                    let values = bytes.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
                    tensors.insert(name.to_owned(), (tensor.shape().to_vec(), values));
                }
                ("x" | "x2" | "noise" | "noise2" | "mix", Dtype::F64) => {
                    let values = bytes.as_chunks().0.iter().map(|c| f64::from_le_bytes(*c) as f32).collect();
                    tensors.insert(name.to_owned(), (tensor.shape().to_vec(), values));
                }
                ("x" | "x2" | "noise" | "noise2" | "mix" | "y", _) => {
                    return Err(Error::file(path, format!("{}; expected F32, and I64 for y", found())));
                }
                _ => return Err(Error::unknown("tensor of a batch", name, ["x", "y", "x2", "noise", "noise2", "mix"])),
            }
        }
        let y = y.ok_or_else(|| wrong("has no y; expected x f32 [N,C,H,W] and y i64 [N]".into()))?;
        Ok(Given32 { path: path.to_owned(), tensors, y })
    }

    /// Images `[N,H,W,C]`; `None` when they are not there.
    fn images(&self, device: &Device, name: &str) -> Result<Option<Tensor>> {
        let Some((shape, values)) = self.tensors.get(name) else { return Ok(None) };
        let &[n, c, h, w] = shape.as_slice() else {
            return Err(Error::file(&self.path, format!("{name} is {shape:?}; expected [N,C,H,W]")));
        };
        if n != self.y.len() || self.tensors.get("x").is_some_and(|(x, _)| x != shape) {
            return Err(Error::file(
                &self.path,
                format!("{name} is {shape:?}, which does not fit {} labels and x", self.y.len()),
            ));
        }
        let pixels = name.starts_with('x');
        if let Some(bad) = values.iter().find(|v| !v.is_finite() || pixels && !(0.0..=1.0).contains(*v)) {
            let expected = if pixels { "a number in [0,1]" } else { "a finite number" };
            return Err(Error::file(&self.path, format!("{name} holds {bad}; expected {expected}")));
        }
        Tensor::from_slice(device, &[n, h, w, c], &transposed(values, n, c, h * w)).map(Some)
    }
}

/// `[n, rows, columns]` to `[n, columns, rows]`.
fn transposed(values: &[f32], n: usize, rows: usize, columns: usize) -> Vec<f32> {
    let at = |i: usize, column: usize, row: usize| values[(i * rows + row) * columns + column];
    let matrix = |i| (0..columns).flat_map(move |column| (0..rows).map(move |row| at(i, column, row)));
    (0..n).flat_map(matrix).collect()
}

/// Images back in `[N,C,H,W]`.
fn nchw(images: &Tensor) -> Result<Values> {
    let [n, h, w, c] = images.nhwc("images")?;
    Ok(Values::F32(vec![n, c, h, w], transposed(&images.to_vec()?, n, h * w, c)))
}

fn floats(tensor: &Tensor) -> Result<Values> {
    Ok(Values::F32(tensor.shape().to_vec(), tensor.to_vec()?))
}

/// Computes the step and writes its tensors: `loss`, `loss.<term>` (before its weight), `x_adv` (and `x_adv2`), `margin.clean`, `margin.adv`,
/// `margin.reduced` and `boundary` (u8) of methods that split, `grad.<parameter>` (zeros where the loss does not depend on it),
/// `buffer.<name>`: the running statistics after the passes that the loss needs.
///
/// Errors: files of the wrong content, keys and ranges; nothing is written then.
pub fn run(request: &Request) -> Result<BTreeMap<String, Values>> {
    let Request { config, epoch, .. } = request;
    config.validate()?;
    let method = method::find(&config.method)?;
    let device = Device::by_name(&config.device.to_string())?;
    let given = Given32::read(&request.batch)?;
    let lacks = |name: &str, why: &str| Error::file(&request.batch, format!("has no {name}; {why}"));
    let settings = config.settings();
    let x = given.images(&device, "x")?.ok_or_else(|| lacks("x", "expected x f32 [N,C,H,W] and y i64 [N]"))?;
    let x2 = match ((method.views)(&settings), given.images(&device, "x2")?) {
        (1, _) => None,
        (_, Some(x2)) => Some(x2),
        (_, None) => return Err(lacks("x2", &format!("{} takes two views of each image", config.method))),
    };
    let file = WeightFile::read(&request.weights)?;
    let mut net = network(&device, config, &file, x.nhwc("x")?)?;
    if let Some(bad) = given.y.iter().find(|y| !(0..net.classes() as i32).contains(*y)) {
        return Err(Error::file(&request.batch, format!("y holds {bad}; the network has classes 0 to {}", net.classes() - 1)));
    }
    let mut wa = match &request.wa_weights {
        Some(path) => network(&device, config, &WeightFile::read(path)?, x.nhwc("x")?)?,
        None => network(&device, config, &file, x.nhwc("x")?)?,
    };
    let mix = given.tensors.get("mix").and_then(|(_, values)| values.first().copied());
    if let Some(r) = mix.filter(|r| !(0.0..=1.0).contains(r)) {
        return Err(Error::file(&request.batch, format!("mix is {r}; expected a number in [0,1]")));
    }
    let noise = [given.images(&device, "noise")?, given.images(&device, "noise2")?];
    let b = given.y.len();
    let both = x2.as_ref().map(|x2| join(&x, x2)).transpose()?;
    let labels = Buffer::from_slice(&device, &given.y)?;
    let images = Buffer::from_slice(&device, &(0..b as i32).collect::<Vec<_>>())?;
    let batch = Batch { x: both.as_ref().unwrap_or(&x), y: &labels, images: &images, index: 0 };
    let rules = Rules { method, settings: &settings, awp_gamma: config.awp(*epoch), seed: config.seed, epoch: *epoch };
    let nets = &mut Nets { net: &mut net, wa: Some(&mut wa) };
    let done = differentiate(nets, &batch, &rules, &Given { noise, mix })?;

    let mut out = BTreeMap::new();
    out.insert("loss".into(), Values::F32(vec![], done.loss.to_vec()?));
    for (name, term) in &done.terms {
        out.insert(format!("loss.{name}"), Values::F32(vec![], term.to_vec()?));
    }
    let x_adv = &done.attacked.x_adv;
    out.insert("x_adv".into(), nchw(&rows_of(x_adv, 0, b)?)?);
    if x_adv.shape()[0] > b {
        out.insert("x_adv2".into(), nchw(&rows_of(x_adv, b, b)?)?);
    }
    if let Some(align) = &done.attacked.align {
        out.insert("margin.clean".into(), floats(&align.split.clean)?);
        out.insert("margin.adv".into(), floats(&align.split.adv)?);
        out.insert("margin.reduced".into(), floats(&align.split.reduced)?);
        let boundary = align.split.boundary.to_vec()?;
        out.insert("boundary".into(), Values::U8(vec![boundary.len()], boundary));
    }
    for (param, gradient) in net.params.iter().zip(&done.gradients) {
        if param.role == Role::Buffer {
            out.insert(format!("buffer.{}", param.name), floats(&param.value)?);
            continue;
        }
        let (shape, values) = match gradient {
            Some(gradient) => param.in_file(gradient)?,
            None => param.in_file(&Tensor::zeros(&device, param.value.shape())?)?,
        };
        out.insert(format!("grad.{}", param.name), Values::F32(shape, values));
    }
    write(&out, &request.out)?;
    Ok(out)
}

/// The network of the file's weights; how many classes it has, its classifier says.
fn network(device: &Device, config: &Config, file: &WeightFile, [_, height, _, channels]: [usize; 4]) -> Result<Net> {
    let classifier = ["linear.bias", "fc.bias"].iter().find_map(|name| file.tensors.get(*name));
    let classes = classifier.map(|(shape, _)| shape.iter().product());
    let classes = classes.ok_or_else(|| Error::file(&file.path, "has no classifier (linear.bias or fc.bias)"))?;
    let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect();
    let shape = Shape { channels, height, classes, mean: single(&config.mean), std: single(&config.std) };
    let mut net = Net::new(device, &Arch::find(&config.model)?.spec(), &shape, 0)?;
    checkpoint::load(&mut net, device, file)?;
    Ok(net)
}

/// Writes tensors as safetensors, whole or not at all.
pub fn write(tensors: &BTreeMap<String, Values>, path: &Path) -> Result<()> {
    let wrong = |e: safetensors::SafeTensorError| Error::file(path, e.to_string());
    let view = |(name, values): (&String, &Values)| -> Result<_> {
        let (dtype, shape, bytes) = match values {
            Values::F32(shape, values) => (Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Values::U8(shape, values) => (Dtype::U8, shape, values.clone()),
        };
        Ok((name.clone(), dtype, shape.clone(), bytes))
    };
    let owned: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors.iter().map(view).collect::<Result<_>>()?;
    let views =
        owned.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(wrong)?)));
    let bytes = serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(wrong)?;
    write_atomic(path, &bytes)
}
