//! Adversarial images as a file, from any images by any attack.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::accuracy::not_finite;
use crate::attack::{self, AttackResult, Norm, Params, Points, logits};
use crate::data::ImageShape;
use crate::device::{Buffer, DeviceChoice};
use crate::error::{Error, Result};
use crate::files::tensor_file::{Images, TensorFile, Values, write};
use crate::files::weights::WeightFile;
use crate::files::{check_outputs, check_writable};
use crate::numeric::max_abs;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::gather::select;
use crate::ops::predict::argmax;
use crate::ops::reduce::Reduction;
use crate::run::network::{self, Classes, WeightOverrides};
use crate::run::observer::Observer;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Weights, images and attack.
pub struct CraftRequest {
    pub weights: WeightFile,
    /// `None`: the architecture in the weights' metadata.
    pub model: Option<String>,
    /// safetensors: `x` f32 `[N,C,H,W]` in `[0,1]` or u8 `[N,H,W,C]`, `y` i64 or i32 `[N]`.
    pub data: PathBuf,
    /// A name for [`attack::by_name`].
    pub attack: String,
    pub params: Params,
    pub batch: usize,
    pub device: DeviceChoice,
    /// Keep the clean image where the attack fails.
    pub keep_clean: bool,
    pub out: PathBuf,
}

/// The success of the attack.
pub struct CraftReport {
    pub attack: String,
    pub images: usize,
    /// Images classified correctly when clean, on the attack's images, and on both, in percent of all.
    pub clean: f64,
    pub adv: f64,
    pub robust: f64,
    /// Mean cross entropy at the adversarial images.
    pub loss: f64,
    /// Length of the longest perturbation, in the attack's norm; NaN if one has no length.
    pub longest: f64,
}

/// Attacks the images and writes `x_adv` f32 `[N,C,H,W]`, the attack's images also where it failed (unless
/// `keep_clean`), and for each image `y` i64, `pred` i64, the class predicted at x_adv, `success` u8, whether
/// that is another one than y, and `loss` f32, the cross entropy at x_adv.
///
/// Errors: files of the wrong content, an unknown attack; nothing is written then.
pub fn run(request: &CraftRequest, observer: &mut dyn Observer) -> Result<CraftReport> {
    let CraftRequest { params, batch, .. } = request;
    let attack = attack::by_name(&request.attack, params)?;
    let file = TensorFile::read(&request.data, &["x", "y"])?;
    let y = file.labels()?;
    let x =
        file.images("x")?.ok_or_else(|| file.wrong("has no x; expected x f32 [N,C,H,W] and y i64 [N]"))?;
    let Images { shape: [n, h, w, c], pixels } = &x;
    if *n != y.len() || *n == 0 || h * w * c == 0 {
        return Err(file.wrong(format!(
            "x has {n} images of {h}x{w}x{c}, y {} labels; expected as many, at least one",
            y.len()
        )));
    }
    file.within(&y, request.weights.classes()?)?;
    check_outputs(
        &[("out", &request.out)],
        &[("--weights", &request.weights.path), ("--data", &request.data)],
    )?;
    check_writable(&request.out)?;
    let device = request.device.open()?;
    let shape = ImageShape { height: *h, width: *w, channels: *c };
    let overrides = WeightOverrides { model: request.model.clone(), ..WeightOverrides::default() };
    let classes = Classes::AtLeast(y.iter().max().map_or(0, |y| *y as usize + 1));
    let (mut net, _) = network::open(&device, request.weights.clone(), &overrides, (classes, shape))?;

    let (mut images, mut predicted, mut losses) = (Vec::with_capacity(pixels.len()), Vec::new(), Vec::new());
    let (mut before, mut unusable, size) = (Vec::new(), 0, h * w * c);
    for (start, labels) in (0..).step_by((*batch).max(1)).zip(y.chunks((*batch).max(1))) {
        let count = labels.len();
        let clean_images =
            Tensor::from_slice(&device, &[count, *h, *w, *c], &pixels[start * size..(start + count) * size])?;
        let on_device = Buffer::from_slice(&device, labels)?;
        let indices =
            Buffer::from_slice(&device, &(start as i32..(start + count) as i32).collect::<Vec<_>>())?;
        before.extend(argmax(&device, &logits(&mut net, &clean_images)?)?.to_vec()?);
        let AttackResult { mut x_adv, success } =
            attack.run(&mut net, Points { x: &clean_images, y: &on_device, images: &indices })?;
        if request.keep_clean {
            x_adv = select(&success, &x_adv, &clean_images)?;
        }
        let z = logits(&mut net, &x_adv)?;
        unusable += not_finite(&z)?;
        predicted.extend(argmax(&device, &z)?.to_vec()?);
        let tape = Tape::new(&device);
        let loss = cross_entropy(&tape, tape.constant(z), &on_device, Reduction::PerSample)?;
        losses.extend(tape.value(loss).to_vec()?);
        images.extend(x_adv.to_vec()?);
        observer.evaluating(&attack.name(), start + count, *n);
    }
    observer.finished();
    if unusable > 0 {
        return Err(Error::NoAccuracy { unusable, images: *n });
    }

    let success: Vec<u8> = predicted.iter().zip(&y).map(|(p, y)| (p != y) as u8).collect();
    let right = |classes: &[i32], i: usize| classes[i] == y[i];
    let percent = |of: &dyn Fn(usize) -> bool| 100.0 * (0..*n).filter(|i| of(*i)).count() as f64 / *n as f64;
    let report = CraftReport {
        attack: attack.name(),
        images: *n,
        clean: percent(&|i| right(&before, i)),
        adv: percent(&|i| right(&predicted, i)),
        robust: percent(&|i| right(&before, i) && right(&predicted, i)),
        loss: losses.iter().map(|l| f64::from(*l)).sum::<f64>() / *n as f64,
        longest: longest(params.ball.norm, pixels, &images, size),
    };
    let tensors = [
        ("x_adv", Values::images(&x.shape, &images)),
        ("y", Values::integers(y.iter().map(|y| (*y).into()))),
        ("pred", Values::integers(predicted.iter().map(|p| (*p).into()))),
        ("success", Values::U8(vec![*n], success)),
        ("loss", Values::F32(vec![*n], losses)),
    ];
    write(&BTreeMap::from(tensors.map(|(name, values)| (name.to_owned(), values))), &request.out)?;
    Ok(report)
}

/// The length of the longest difference of two images of `size` numbers each; NaN where a number is NaN.
fn longest(norm: Norm, x: &[f32], x_adv: &[f32], size: usize) -> f64 {
    let length = |(x, x_adv): (&[f32], &[f32])| {
        let differences = x.iter().zip(x_adv).map(|(x, x_adv)| f64::from(x_adv - x));
        match norm {
            Norm::Linf => max_abs(differences),
            Norm::L2 => differences.map(|d| d * d).sum::<f64>().sqrt(),
        }
    };
    max_abs(x.chunks(size).zip(x_adv.chunks(size)).map(length))
}
