//! What rounding to bf16 and tf32 does to an attack: its gradients, the loss that it reaches, and the robust
//! accuracy that it measures, against float32, for every checkpoint of a run.
//!
//! Weights, images and ball are the same in all; images that were made in another precision are judged by the
//! network in float32.

use crate::attack::{Objective, Points};
use crate::config::Config;
use crate::data;
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::device::{Buffer, DeviceChoice};
use crate::error::{Error, Result};
use crate::eval::accuracy::{Accuracy, answers};
use crate::files::weights::WeightFile;
use crate::nn::{Net, Precision};
use crate::ops::augment::Augmentation;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::reduce::Reduction;
use crate::rng::{Key, Purpose};
use crate::run::dir::RunDir;
use crate::run::network::{self, Classes, WeightOverrides};
use crate::run::observer::Observer;
use crate::run::provenance::Provenance;
use crate::tape::Tape;
use crate::tensor::Tensor;
use serde::Serialize;

/// The run, and how much of it is compared.
pub struct PrecisionRequest {
    pub run: RunDir,
    pub config: Config,
    /// Only the first n test images.
    pub n: Option<usize>,
    pub device: DeviceChoice,
    /// The command line, for the record.
    pub command: String,
}

/// The agreement of a gradient with the one of float32.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    /// `image`, or the stage whose output the gradient is of.
    pub place: String,
    /// The fraction of its numbers whose sign is that of float32, of those that are not 0 there.
    pub sign: f64,
    /// The cosine of the angle between the two, the mean over images.
    pub cosine: f64,
}

/// A checkpoint attacked in one precision.
#[derive(Clone, Debug, Serialize)]
pub struct PrecisionRow {
    /// The checkpoint's name: `best`, `last`, `epoch-10`.
    pub checkpoint: String,
    /// Its epoch, counted from 1.
    pub epoch: Option<usize>,
    pub precision: String,
    /// Of the gradient of the cross entropy at the clean images, from the image on.
    pub gradients: Vec<Agreement>,
    /// The mean cross entropy that the run's attack reaches, judged in float32.
    pub pgd_loss: f64,
    /// The percentage of images that withstand it, judged in float32.
    pub robust_acc: f64,
}

/// The comparison, and how it was made.
#[derive(Clone, Debug, Serialize)]
pub struct PrecisionReport {
    pub provenance: Provenance,
    pub dataset: String,
    pub images: usize,
    pub attack: String,
    pub rows: Vec<PrecisionRow>,
}

/// Compares the precisions on every checkpoint of a run.
///
/// Errors: no images, no checkpoint, or one that does not fit the data.
pub fn run(request: &PrecisionRequest, observer: &mut dyn Observer) -> Result<PrecisionReport> {
    let PrecisionRequest { config, n, .. } = request;
    if *n == Some(0) {
        return Err(Error::value("n", 0, "must be 1 or more"));
    }
    let checkpoints = request.run.checkpoints()?;
    let test = data::load(&config.dataset, config.data.as_deref())?.test;
    let test = test.subset(&(0..n.unwrap_or(test.len()).min(test.len())).collect::<Vec<_>>())?;
    let device = request.device.open()?;
    let images = DeviceDataset::new(&device, &test)?;
    let mut rows = Vec::new();
    for (checkpoint, path) in checkpoints {
        let input = (Classes::Exactly(test.classes), test.shape);
        let file = WeightFile::read(&path)?;
        let epoch = file.metadata.get("epoch").and_then(|text| text.parse().ok());
        let (mut net, _) = network::open(&device, file, &WeightOverrides::default(), input)?;
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            let Accuracy { percent, loss } = attacked(&mut net, &images, config, precision, |done| {
                observer.evaluating(&format!("{checkpoint}, {precision}"), done, test.len());
                Ok(())
            })?;
            rows.push(PrecisionRow {
                checkpoint: checkpoint.clone(),
                epoch,
                precision: precision.to_string(),
                gradients: agreements(&mut net, &images, config, precision)?,
                pgd_loss: loss,
                robust_acc: percent,
            });
        }
    }
    observer.finished();
    Ok(PrecisionReport {
        provenance: Provenance::now(&device, &request.command),
        dataset: test.name.clone(),
        images: test.len(),
        attack: format!(
            "PGD-{}, {}, eps {}, step {}",
            config.attack_steps, config.norm, config.eps, config.step_size
        ),
        rows,
    })
}

/// What float32 makes of the images of the run's attack in another precision.
fn attacked(
    net: &mut Net,
    images: &DeviceDataset,
    config: &Config,
    precision: Precision,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Accuracy> {
    let attack = config.evaluation_pgd(config.attack_steps);
    let key = Key::new(config.seed, Purpose::EvalStart, 0, 0);
    let craft = |net: &mut Net, points: Points| {
        net.with_precision(precision, |net| attack.attack(net, Objective::CrossEntropy, points, key))
    };
    Ok(answers(net, images, config.batch, craft, progress)?.accuracy())
}

/// The agreement of the gradients of the cross entropy with those of float32.
fn agreements(
    net: &mut Net,
    images: &DeviceDataset,
    config: &Config,
    precision: Precision,
) -> Result<Vec<Agreement>> {
    let mut sums: Vec<Sums> = Vec::new();
    for indices in in_order(images.device(), images.len, config.batch)? {
        let (x, y) = images.batch(&indices, &Augmentation::none())?;
        let exact = net.with_precision(Precision::F32, |net| gradients(net, &x, &y))?;
        let rounded = net.with_precision(precision, |net| gradients(net, &x, &y))?;
        sums.resize_with(exact.len(), Sums::default);
        for ((sums, exact), rounded) in sums.iter_mut().zip(&exact).zip(&rounded) {
            let size = exact.len() / indices.len();
            exact.chunks(size).zip(rounded.chunks(size)).for_each(|(a, b)| sums.add_image(a, b));
        }
    }
    let place = |at: usize| if at == 0 { "image".to_owned() } else { format!("stage {at}") };
    let agreement = |(at, sums): (usize, &Sums)| Agreement {
        place: place(at),
        sign: sums.agree as f64 / sums.numbers.max(1) as f64,
        cosine: sums.cosines / sums.images.max(1) as f64,
    };
    Ok(sums.iter().enumerate().map(agreement).collect())
}

#[derive(Default)]
struct Sums {
    agree: usize,
    numbers: usize,
    cosines: f64,
    images: usize,
}

impl Sums {
    fn add_image(&mut self, exact: &[f32], rounded: &[f32]) {
        let pairs = || exact.iter().zip(rounded).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let sum = |term: fn((f64, f64)) -> f64| pairs().map(term).sum::<f64>();
        let (dot, lengths) = (sum(|(a, b)| a * b), sum(|(a, _)| a * a).sqrt() * sum(|(_, b)| b * b).sqrt());
        self.numbers += exact.iter().filter(|a| **a != 0.0).count();
        let sign = |v: &f32| v.partial_cmp(&0.0);
        self.agree += exact.iter().zip(rounded).filter(|(a, b)| **a != 0.0 && sign(a) == sign(b)).count();
        // Of a gradient that vanishes there is no direction.
        if lengths > 0.0 {
            self.cosines += dot / lengths;
            self.images += 1;
        }
    }
}

/// The gradients of the summed cross entropy: of the images `[N,H,W,C]`, then of the maps after each stage.
fn gradients(net: &mut Net, x: &Tensor, y: &Buffer<i32>) -> Result<Vec<Vec<f32>>> {
    let tape = Tape::new(x.device());
    let image = tape.leaf(x.clone());
    let (stages, z) = net.stage_maps(&tape, image)?;
    stages.iter().for_each(|maps| maps.retain_grad(&tape));
    let loss = cross_entropy(&tape, z, y, Reduction::Sum)?;
    let gradients = tape.backward(loss, None)?;
    let missing = || Error::Internal { what: "a gradient is missing".into() };
    let of_image = gradients.get(image).ok_or_else(missing)?.to_vec();
    let of_stages = stages.iter().map(|maps| maps.gradient(&gradients)?.ok_or_else(missing));
    std::iter::once(of_image).chain(of_stages).collect()
}
