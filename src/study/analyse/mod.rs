//! The papers' motivating figures of a trained network, made from a run directory as data and as pictures.

pub mod layers;
pub mod margins;
pub mod perception;
pub mod sweep;

use crate::attack::{Objective, Points};
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
use crate::run::provenance::Provenance;
use crate::tensor::Tensor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A figure of a trained network.
pub struct Figure {
    /// Its name on the command line and the stem of its files.
    pub name: &'static str,
    /// Its description in help.
    pub about: &'static str,
    make: fn(&mut TrainedModel) -> Result<FigureOutput>,
}

/// The figures that need no training; a new one is a file and a line here. [`sweep`] trains.
pub static FIGURES: &[Figure] = &[perception::FIGURE, margins::FIGURE, layers::FIGURE];

/// The figure of this name. Errors name the nearest.
pub fn find(name: &str) -> Result<&'static Figure> {
    let wanted = name.trim().to_lowercase();
    FIGURES
        .iter()
        .find(|f| f.name == wanted)
        .ok_or_else(|| Error::unknown("figure", name, FIGURES.iter().map(|f| f.name)))
}

/// The content of a figure.
pub struct FigureOutput {
    /// The figure's name.
    pub name: &'static str,
    /// The data, with a line of headings.
    pub csv: String,
    /// The picture.
    pub svg: String,
    /// The main numbers by name.
    pub metrics: Vec<(String, f64)>,
}

impl FigureOutput {
    /// The metrics as in `analysis.json`.
    fn record(&self) -> Value {
        self.metrics.iter().cloned().collect()
    }

    /// Writes `NAME.csv` and `NAME.svg`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(&folder.join(format!("{}.csv", self.name)), self.csv.as_bytes())?;
        write_atomic(&folder.join(format!("{}.svg", self.name)), self.svg.as_bytes())
    }
}

/// The figures of a run, and the record of how they were made, `analysis.json`.
pub struct Analysis {
    pub figures: Vec<FigureOutput>,
    record: Value,
    out: PathBuf,
}

impl Analysis {
    /// Adds a figure to the record.
    pub fn add(&mut self, figure: FigureOutput) -> Result<()> {
        self.record["figures"][figure.name] = figure.record();
        self.figures.push(figure);
        self.write()
    }

    fn write(&self) -> Result<()> {
        write_atomic(&self.out.join("analysis.json"), format!("{:#}\n", self.record).as_bytes())
    }
}

/// The figures to make, and the run to make them from.
pub struct AnalyseRequest {
    /// The run directory.
    pub run: PathBuf,
    /// The run's settings.
    pub config: Config,
    pub figures: Vec<&'static Figure>,
    /// Only the first n test images.
    pub n: Option<usize>,
    /// The largest number of training images among which nearest neighbours are searched.
    pub gallery: usize,
    /// The folder of the files.
    pub out: PathBuf,
    pub device: DeviceChoice,
    /// The command line, for the record.
    pub command: String,
}

/// A trained network, and the images that figures show it with.
pub struct TrainedModel {
    net: Net,
    /// The test images, clean and attacked.
    batches: Vec<AttackedBatch>,
    /// Training images.
    gallery: DeviceDataset,
    /// The part of its perturbation that x'' keeps.
    rho: f32,
    batch: usize,
}

/// A batch of test images.
struct AttackedBatch {
    /// Clean images `[N,H,W,C]`.
    x: Tensor,
    /// x' `[N,H,W,C]`: the images after PGD-20, the attack of a run's own results.
    x_adv: Tensor,
    /// Labels `[N]`.
    y: Buffer<i32>,
}

impl TrainedModel {
    /// Attacks the test images; `progress` gets the number of images done.
    fn new(
        mut net: Net,
        config: &Config,
        test: &DeviceDataset,
        gallery: DeviceDataset,
        mut progress: impl FnMut(usize),
    ) -> Result<TrainedModel> {
        let attack = config.evaluation_pgd(20);
        let key = Key::new(config.seed, Purpose::EvalStart, 0, 0);
        let (mut batches, mut done) = (Vec::new(), 0);
        for indices in in_order(test.device(), test.len, config.batch)? {
            let (x, y) = test.batch(&indices, &Augmentation::none())?;
            let x_adv = attack.attack(
                &mut net,
                Objective::CrossEntropy,
                Points { x: &x, y: &y, images: &indices },
                key,
            )?;
            done += indices.len();
            batches.push(AttackedBatch { x, x_adv, y });
            progress(done);
        }
        Ok(TrainedModel { net, batches, gallery, rho: config.rho, batch: config.batch })
    }
}

/// At most `limit` of the images that a run was trained on, with the classes in their proportions.
fn training_images(train: Dataset, config: &Config, limit: usize) -> Result<Dataset> {
    let train = match config.select {
        Select::Heldout => train.hold_out(config.held_out, config.seed)?.0,
        Select::Test | Select::Last => train,
    };
    if limit < train.len() { Ok(train.hold_out(limit, config.seed)?.1) } else { Ok(train) }
}

/// Makes the figures and writes them, with a record of how they were made in `analysis.json`.
///
/// Errors: no images, no checkpoint, or one that does not fit the data; nothing is written then.
pub fn run(request: &AnalyseRequest, observer: &mut dyn Observer) -> Result<Analysis> {
    let AnalyseRequest { config, out, .. } = request;
    for (key, count) in [("n", request.n), ("gallery", Some(request.gallery))] {
        if count == Some(0) {
            return Err(Error::value(key, 0, "must be 1 or more"));
        }
    }
    let weights = weight_file(&request.run)?;
    let data::Split { train, mut test, .. } = data::load(&config.dataset, config.data.as_deref())?;
    test = test.subset(&(0..request.n.unwrap_or(test.len()).min(test.len())).collect::<Vec<_>>())?;
    let gallery = training_images(train, config, request.gallery)?;
    let device = request.device.open()?;
    let input = (Classes::Exactly(test.classes), test.shape);
    let (net, _) = network::open(&device, WeightFile::read(&weights)?, &WeightOverrides::default(), input)?;
    std::fs::create_dir_all(out).map_err(Error::io(out, "cannot create the folder"))?;
    let images = DeviceDataset::new(&device, &test)?;
    let progress = |done| observer.evaluating("PGD-20", done, test.len());
    let mut model =
        TrainedModel::new(net, config, &images, DeviceDataset::new(&device, &gallery)?, progress)?;
    let mut figures = Vec::new();
    for figure in &request.figures {
        let output = (figure.make)(&mut model)?;
        output.write(out)?;
        figures.push(output);
    }
    observer.finished();
    let provenance = Provenance::now(&device, &request.command);
    let record = json!({
        "command": provenance.command,
        "commit": provenance.commit,
        "provenance": provenance,
        "weights": weights,
        "dataset": test.name,
        "test images": test.len(),
        "gallery images": gallery.len(),
        "attack": {
            "name": "PGD-20",
            "norm": config.norm.to_string(),
            "eps": config.eps.to_string(),
            "step": config.step_size.to_string(),
        },
        "rho": (key("rho")?.get)(config),
        "seed": config.seed,
        "device": provenance.device,
        "figures": figures.iter().map(|figure| (figure.name.to_owned(), figure.record())).collect::<Value>(),
    });
    let analysis = Analysis { figures, record, out: out.clone() };
    analysis.write()?;
    Ok(analysis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::nn::{Arch, Shape};
    use std::collections::BTreeSet;

    /// An untrained network with the first `n` digits as its test images and as its gallery.
    pub fn untrained_model(n: usize) -> TrainedModel {
        let device = Device::host().unwrap();
        let images = data::load("digits", None).unwrap().test.subset(&(0..n).collect::<Vec<_>>()).unwrap();
        let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![], std: vec![] };
        let net = Net::new(&device, Arch::find("resnet-mini").unwrap(), &shape, 0).unwrap();
        let mut config = crate::method::load_recipe("digits").unwrap().config;
        config.apply(&[("batch", "20")]).unwrap();
        let resident = || DeviceDataset::new(&device, &images).unwrap();
        TrainedModel::new(net, &config, &resident(), resident(), |_| ()).unwrap()
    }

    #[test]
    fn every_figure_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/study/analyse");
        let stem = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()
        };
        let files: BTreeSet<String> = std::fs::read_dir(folder).unwrap().map(stem).collect();
        let listed = FIGURES.iter().map(|figure| figure.name).chain(["mod", "sweep"]);
        assert_eq!(files, listed.map(str::to_owned).collect());
    }
}
