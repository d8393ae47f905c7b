//! What the papers show of a trained network: their motivating figures, made from a run, as data and as
//! pictures.

pub mod layers;
pub mod margins;
pub mod perception;
pub mod sweep;

use crate::attack::{RngKey, logits};
use crate::config::{Config, Select, key};
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::data::{self, Dataset};
use crate::device::{Buffer, DeviceChoice};
use crate::error::{Error, Result};
use crate::files::weights::WeightFile;
use crate::files::write_atomic;
use crate::nn::Net;
use crate::ops::augment::Augmentation;
use crate::rng::{Key, Purpose};
use crate::run::network::{self, Classes, WeightOverrides, weight_file};
use crate::run::observer::Observer;
use crate::tensor::Tensor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A figure that is made from a trained network.
pub struct Figure {
    /// As on the command line, and the stem of its files.
    pub name: &'static str,
    pub about: &'static str,
    make: fn(&mut Subject) -> Result<Made>,
}

/// The registry: a new figure is one file and one line here.
pub static FIGURES: &[Figure] = &[perception::FIGURE, margins::FIGURE, layers::FIGURE];

/// The figure of this name. Errors name the nearest.
pub fn find(name: &str) -> Result<&'static Figure> {
    let wanted = name.trim().to_lowercase();
    FIGURES
        .iter()
        .find(|f| f.name == wanted)
        .ok_or_else(|| Error::unknown("figure", name, FIGURES.iter().map(|f| f.name)))
}

/// What came of a figure.
pub struct Made {
    /// The data, with a line of headings.
    pub csv: String,
    /// The picture.
    pub svg: String,
    /// The main numbers: what, and how much.
    pub facts: Vec<(String, f64)>,
}

impl Made {
    /// The facts as `analysis.json` has them.
    fn record(&self) -> Value {
        self.facts.iter().map(|(what, value)| (what.clone(), json!(value))).collect()
    }

    /// Writes `NAME.csv` and `NAME.svg`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        write_atomic(&folder.join(format!("{name}.csv")), self.csv.as_bytes())?;
        write_atomic(&folder.join(format!("{name}.svg")), self.svg.as_bytes())
    }
}

/// The figures of a run, and the record of how they were made, `analysis.json`.
pub struct Analysis {
    pub made: Vec<(&'static str, Made)>,
    record: Value,
    out: PathBuf,
}

impl Analysis {
    /// One more figure in the record.
    pub fn add(&mut self, name: &'static str, made: Made) -> Result<()> {
        self.record["figures"][name] = made.record();
        self.made.push((name, made));
        self.write()
    }

    fn write(&self) -> Result<()> {
        write_atomic(&self.out.join("analysis.json"), format!("{:#}\n", self.record).as_bytes())
    }
}

/// Which figures are to be made of which run.
pub struct Request {
    pub run: PathBuf,
    /// The run's settings.
    pub config: Config,
    pub figures: Vec<&'static Figure>,
    /// Only the first n test images.
    pub n: Option<usize>,
    /// Training images that nearest neighbours are looked for among, at most.
    pub gallery: usize,
    /// Where the files go.
    pub out: PathBuf,
    pub device: DeviceChoice,
    /// The command line, for the record.
    pub command: String,
}

/// A trained network and the images that it is shown with.
pub struct Subject {
    net: Net,
    /// The test images, clean and attacked.
    batches: Vec<Attacked>,
    /// Training images.
    gallery: DeviceDataset,
    /// The part of its perturbation that x'' keeps.
    rho: f32,
    batch: usize,
}

/// A batch of test images.
struct Attacked {
    x: Tensor,
    /// x', under the attack that a run's results are measured with: PGD-20.
    x_adv: Tensor,
    y: Buffer<i32>,
}

impl Subject {
    /// Attacks the test images; `progress` gets the number of images done.
    fn new(
        mut net: Net,
        config: &Config,
        test: &DeviceDataset,
        gallery: DeviceDataset,
        mut progress: impl FnMut(usize),
    ) -> Result<Subject> {
        let attack = config.evaluation_pgd(20);
        let key = Key::new(config.seed, Purpose::EvalStart, 0, 0);
        let (mut batches, mut done) = (Vec::new(), 0);
        for indices in in_order(test.device(), test.len, config.batch)? {
            let (x, y) = test.batch(&indices, &Augmentation::none())?;
            let x_adv = attack.cross_entropy(&mut net, &x, &y, RngKey { key, images: &indices })?;
            done += indices.len();
            batches.push(Attacked { x, x_adv, y });
            progress(done);
        }
        Ok(Subject { net, batches, gallery, rho: config.rho, batch: config.batch })
    }
}

/// The images that a run was trained on, at most `most` of them with each class's share.
fn trained_on(train: Dataset, config: &Config, most: usize) -> Result<Dataset> {
    let train = match config.select {
        Select::Heldout => train.hold_out(config.held_out, config.seed)?.0,
        Select::Test | Select::Last => train,
    };
    if most < train.len() { Ok(train.hold_out(most, config.seed)?.1) } else { Ok(train) }
}

/// Makes the figures and writes them, with a record of how they were made in `analysis.json`.
///
/// Errors: no images, no checkpoint or one that does not fit the data; nothing is written then.
pub fn run(request: &Request, observer: &mut dyn Observer) -> Result<Analysis> {
    let Request { config, out, .. } = request;
    for (key, count) in [("n", request.n), ("gallery", Some(request.gallery))] {
        if count == Some(0) {
            return Err(Error::value(key, 0, "must be 1 or more"));
        }
    }
    let weights = weight_file(&request.run)?;
    let data::Split { train, mut test } = data::load(&config.dataset, config.data.as_deref())?;
    test = test.subset(&(0..request.n.unwrap_or(test.len()).min(test.len())).collect::<Vec<_>>())?;
    let gallery = trained_on(train, config, request.gallery)?;
    let device = request.device.open()?;
    let input = (Classes::Exactly(test.classes), test.shape);
    let (net, _) = network::open(&device, WeightFile::read(&weights)?, &WeightOverrides::default(), input)?;
    std::fs::create_dir_all(out).map_err(Error::io(out, "cannot create the folder"))?;
    let (shown, among) = (DeviceDataset::new(&device, &test)?, DeviceDataset::new(&device, &gallery)?);
    let mut subject =
        Subject::new(net, config, &shown, among, |done| observer.evaluating("PGD-20", done, test.len()))?;
    let mut made = Vec::new();
    for figure in &request.figures {
        let figure_made = (figure.make)(&mut subject)?;
        figure_made.write(out, figure.name)?;
        made.push((figure.name, figure_made));
    }
    observer.finished();
    let record = json!({
        "command": request.command,
        "commit": env!("SADDLE_COMMIT"),
        "weights": weights,
        "dataset": test.name,
        "test images": test.len(),
        "gallery images": gallery.len(),
        "attack": { "name": "PGD-20", "norm": config.norm.to_string(), "eps": config.eps.to_string(), "step": config.step_size.to_string() },
        "rho": (key("rho")?.get)(config),
        "seed": config.seed,
        "device": device.describe(),
        "figures": made.iter().map(|(name, made)| ((*name).to_owned(), made.record())).collect::<Value>(),
    });
    let analysis = Analysis { made, record, out: out.clone() };
    analysis.write()?;
    Ok(analysis)
}

/// An untrained network that sees the first `n` digits, which are its gallery, too.
#[cfg(test)]
fn untrained(n: usize) -> Subject {
    use crate::device::Device;
    use crate::nn::{Arch, Shape};
    let device = Device::host().unwrap();
    let images = data::load("digits", None).unwrap().test.subset(&(0..n).collect::<Vec<_>>()).unwrap();
    let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![], std: vec![] };
    let net = Net::new(&device, Arch::find("resnet-mini").unwrap(), &shape, 0).unwrap();
    let mut config = crate::method::load_recipe("digits").unwrap().config;
    config.apply(&[("batch", "20")]).unwrap();
    let resident = || DeviceDataset::new(&device, &images).unwrap();
    Subject::new(net, &config, &resident(), resident(), |_| ()).unwrap()
}
