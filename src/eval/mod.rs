//! Evaluation of saved weights: clean accuracy, accuracy under single attacks, and the protocol of
//! AutoAttack.

pub mod accuracy;
mod checks;
pub mod corruptions;
pub mod craft;
pub mod page;
pub mod plan;
pub mod protocol;
pub mod record;
pub mod state;
pub mod verdict;
pub mod verify;

use crate::attack::{Norm, Params};
use crate::data::{self, Dataset, device_dataset::DeviceDataset};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::files::weights::WeightFile;
use crate::files::{check_writable, write_atomic};
use crate::nn::Net;
use crate::report::Stage as Shown;
use crate::run::network::{self, Classes, WeightOverrides};
use crate::run::observer::Observer;
use accuracy::{accuracy, robust};
use page::{Subject, Sweep, Told};
use plan::{Plan, Stage};
use protocol::{Conduct, Judgement, judge};
use record::{Record, Shard, fingerprint, save_adversarial, stored};
use serde_json::{Map, Value, json};
use state::State;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What is to be evaluated.
pub struct Request {
    /// A safetensors file, or a run directory, whose `best` (else `last`) checkpoint is taken.
    pub weights: PathBuf,
    pub dataset: String,
    pub data: Option<PathBuf>,
    /// Names that [`crate::attack::by_name`] knows, each judged alone on all images, or one protocol, as
    /// [`Plan::named`] knows it; clean accuracy always comes first.
    pub attacks: Vec<String>,
    /// Ball, seed and parameters of all attacks.
    pub params: Params,
    /// Only the first n test images.
    pub n: Option<usize>,
    pub batch: usize,
    pub device: DeviceChoice,
    /// Where the report is written as JSON.
    pub out: Option<PathBuf>,
    pub extras: Extras,
}

/// What most evaluations do without.
#[derive(Clone, Default)]
pub struct Extras {
    /// The radius as it was written, such as 8/255, for the report.
    pub eps_text: Option<String>,
    /// Facts about the weights that go before their metadata.
    pub overrides: WeightOverrides,
    /// Of a protocol: the folder where progress is kept.
    pub state: Option<PathBuf>,
    /// Of a protocol: only this part of the images.
    pub shard: Option<Shard>,
    /// Of a protocol: where the adversarial images go.
    pub save_adv: Option<PathBuf>,
    /// Of a protocol over all images: where the page goes, HTML.
    pub page: Option<PathBuf>,
    /// Raised by whoever wants an end.
    pub stop: Arc<AtomicBool>,
}

/// One line of a report.
pub struct Row {
    /// `clean`, or the attack.
    pub name: String,
    /// The same with everything that is not usual.
    pub about: String,
    /// In percent; in a protocol of the points that withstood this attack and all before it.
    pub accuracy: f64,
    pub seconds: f64,
    /// Images that it was given.
    pub attacked: usize,
}

/// What an evaluation found.
pub struct Report {
    pub rows: Vec<Row>,
    pub weights: PathBuf,
    pub arch: String,
    pub dataset: String,
    pub images: usize,
    pub norm: Norm,
    /// As it was given.
    pub eps: String,
    pub seed: u64,
    pub device: String,
    /// Of a protocol: the content of the result file.
    pub record: Option<Record>,
}

impl Report {
    /// The report as it is written to a file.
    pub fn to_json(&self) -> Value {
        if let Some(record) = &self.record {
            return record.to_json();
        }
        let row = |r: &Row| json!({ "attack": r.name, "about": r.about, "accuracy": r.accuracy, "seconds": r.seconds });
        let rows = self.rows.iter().map(row);
        let mut object = self.facts();
        object.insert("results".into(), rows.collect());
        Value::Object(object)
    }

    /// What was evaluated.
    fn facts(&self) -> Map<String, Value> {
        let facts = [
            ("architecture", json!(self.arch)),
            ("weights", json!(self.weights)),
            ("dataset", json!(self.dataset)),
            ("images", json!(self.images)),
            ("norm", json!(word(self.norm))),
            ("eps", json!(self.eps)),
            ("seed", json!(self.seed)),
            ("device", json!(self.device)),
        ];
        facts.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }
}

/// The norm's name in records.
fn word(norm: Norm) -> &'static str {
    match norm {
        Norm::Linf => "linf",
        Norm::L2 => "l2",
    }
}

/// Evaluates; the report is written to `out` if that is given, and adversarial images and the page after it.
///
/// Errors: unknown attacks, weights that do not fit the data, an empty selection, a state of another
/// evaluation, an interruption; no report is written then.
pub fn run(request: &Request, observer: &mut dyn Observer) -> Result<Report> {
    let Request { params, extras, .. } = request;
    let plan = Plan::named(&request.attacks, params)?;
    if plan.is_none() {
        needs_protocol(request)?;
    }
    let alone = if plan.is_some() { &[] } else { request.attacks.as_slice() };
    let alone = alone.iter().map(|name| Stage::new(name, params)).collect::<Result<Vec<_>>>()?;
    let test = selection(request)?;
    for path in [&request.out, &extras.save_adv, &extras.page].into_iter().flatten() {
        check_writable(path)?;
    }
    let path = network::weight_file(&request.weights)?;
    let device = request.device.open()?;
    // The labels of a file do not tell whether there are more classes.
    let classes = if test.all_classes { Classes::Exactly } else { Classes::AtLeast };
    let input = (classes(test.classes), test.shape);
    let (mut net, file) = network::open(&device, WeightFile::read(&path)?, &extras.overrides, input)?;
    let mut report = Report {
        rows: Vec::new(),
        weights: path,
        arch: file.metadata.get("arch").cloned().unwrap_or_default(),
        dataset: test.name.clone(),
        images: test.len(),
        norm: params.ball.norm,
        eps: extras.eps_text.clone().unwrap_or_else(|| params.ball.eps.to_string()),
        seed: params.seed,
        device: device.describe(),
        record: None,
    };
    let data = DeviceDataset::new(&device, &test)?;
    let judged = match &plan {
        Some(plan) => {
            let weights = identity(&net, &file)?;
            Some(by_protocol(request, plan, (&test, &data), (&mut net, &weights), &mut report, observer)?)
        }
        None => {
            report.rows = one_by_one(request, &alone, &mut net, &data, observer)?;
            None
        }
    };
    if let Some(out) = &request.out {
        write_result(out, &report.to_json())?;
    }
    // Whatever becomes of the images and the page, the result is there.
    if let Some((judgement, range)) = judged {
        illustrate(request, &report, &judgement, range, (&test, &data, &mut net), observer)?;
    }
    observer.finished();
    Ok(report)
}

/// Errors: something is asked for that only a protocol gives.
fn needs_protocol(Request { attacks, extras, .. }: &Request) -> Result<()> {
    let given = [
        ("state", extras.state.is_some()),
        ("shard", extras.shard.is_some()),
        ("save-adv", extras.save_adv.is_some()),
        ("report", extras.page.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            let names = attacks.join(",");
            Err(Error::value(
                "attack",
                &names,
                format!("--{flag} needs --attack autoattack, or autoattack:{names}"),
            ))
        }
        None => Ok(()),
    }
}

/// Clean accuracy, and that under each attack on all images.
fn one_by_one(
    request: &Request,
    attacks: &[Stage],
    net: &mut Net,
    data: &DeviceDataset,
    observer: &mut dyn Observer,
) -> Result<Vec<Row>> {
    let &Request { batch, params: Params { seed, .. }, ref extras, .. } = request;
    let named = request.attacks.iter().zip(attacks).map(|(name, stage)| (name.as_str(), Some(stage)));
    let measured = [("clean", None)].into_iter().chain(named).map(|(name, stage)| {
        let began = Instant::now();
        let progress = |done| {
            observer.evaluating(name, done, data.len);
            if extras.stop.load(Ordering::SeqCst) {
                let resume = "the same command, which begins again".into();
                return Err(Error::Interrupted { saved: "nothing is kept".into(), resume });
            }
            Ok(())
        };
        let accuracy = match stage {
            Some(stage) => robust(net, data, &*stage.attack, batch, progress)?,
            None => accuracy(net, data, None, batch, seed, progress)?.percent,
        };
        let about = stage.map_or(name, |stage| &stage.about).to_owned();
        Ok(Row {
            name: name.to_owned(),
            about,
            accuracy,
            seconds: began.elapsed().as_secs_f64(),
            attacked: data.len,
        })
    });
    measured.collect()
}

/// Writes the adversarial images and the page, as far as they are asked for.
fn illustrate(
    Request { extras, params, batch, .. }: &Request,
    report: &Report,
    judgement: &Judgement,
    range: Range<usize>,
    (test, data, net): (&Dataset, &DeviceDataset, &mut Net),
    observer: &mut dyn Observer,
) -> Result<()> {
    let Judgement { verdict, images, predictions } = judgement;
    if let Some(path) = &extras.save_adv {
        save_adversarial(path, test, range.clone(), images, predictions)?;
    }
    let Some(path) = &extras.page else { return Ok(()) };
    let x_adv: Vec<f32> =
        range.enumerate().flat_map(|(point, index)| stored(test, index, images.get(&point))).collect();
    let subject = Subject { net, test, data, x_adv: &x_adv, batch: *batch };
    let progress = |what: &str, done, of| observer.evaluating(what, done, of);
    let html = page::report(subject, told(report, &verdict.warnings), &Sweep::usual(*params), progress)?;
    write_atomic(path, html.as_bytes())
}

/// The test images that are asked for.
fn selection(request: &Request) -> Result<Dataset> {
    let test = data::load(&request.dataset, request.data.as_deref())?.test;
    match request.n {
        None if test.is_empty() => Err(Error::value("dataset", &test.name, "has no test images")),
        None => Ok(test),
        Some(0) => Err(Error::value("--n", 0, "no image would be evaluated; expected at least 1")),
        Some(n) => test.subset(&(0..n.min(test.len())).collect::<Vec<_>>()),
    }
}

/// Judges these images by the protocol, and puts rows and record into the report.
fn by_protocol(
    request: &Request,
    plan: &Plan,
    (test, resident): (&Dataset, &DeviceDataset),
    (net, weights): (&mut Net, &str),
    report: &mut Report,
    observer: &mut dyn Observer,
) -> Result<(Judgement, Range<usize>)> {
    let Extras { state, shard, page, stop, .. } = &request.extras;
    if let (Some(path), Some(_)) = (page, shard) {
        return Err(Error::value("report", path.display(), "a page shows all images, not a shard of them"));
    }
    let range = shard.map_or(Ok(0..test.len()), |shard| shard.range(test.len()))?;
    let evaluation = evaluation(plan, report, test, weights);
    let mut identity = evaluation.clone();
    identity.insert("shard".into(), json!(shard.map(|shard| format!("{}/{}", shard.number, shard.of))));
    let state = state.as_ref().map(|folder| State::open(folder, identity)).transpose()?;
    let conduct = Conduct { range: range.clone(), batch: request.batch, state: state.as_ref(), stop };
    let judgement = judge(net, resident, plan, &conduct, observer)?;
    report.rows = judgement
        .verdict
        .rows
        .iter()
        .map(|row| Row {
            name: row.attack.clone(),
            about: row.attack.clone(),
            accuracy: row.accuracy,
            seconds: row.seconds,
            attacked: row.attacked,
        })
        .collect();
    let mut about = report.facts();
    about.insert("additional_data".into(), false.into());
    about.insert("number_forward_passes".into(), "1".into());
    report.record = Some(Record { about, evaluation, shard: *shard, verdict: judgement.verdict.clone() });
    Ok((judgement, range))
}

/// What the page says of an evaluation besides its pictures.
fn told(report: &Report, warnings: &[String]) -> Told {
    let facts = report
        .facts()
        .into_iter()
        .map(|(name, value)| (name, value.as_str().map_or(value.to_string(), str::to_owned)));
    let stage = |row: &Row| Shown { attack: row.name.clone(), accuracy: row.accuracy, seconds: row.seconds };
    Told {
        title: format!("{} on {} under AutoAttack's protocol", report.arch, report.dataset),
        facts: facts.collect(),
        path: report.rows.iter().map(stage).collect(),
        warnings: warnings.to_vec(),
    }
}

/// Everything that decides what a protocol finds, but for the shard.
fn evaluation(plan: &Plan, report: &Report, test: &Dataset, weights: &str) -> Map<String, Value> {
    let labels: Vec<u8> = test.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let facts = [
        ("weights", json!(weights)),
        ("data", json!(format!("{} {}", test.name, fingerprint(&[&test.images, &labels])))),
        ("images", json!(test.len())),
        ("norm", json!(word(plan.ball.norm))),
        ("eps", json!(plan.ball.eps)),
        ("seed", json!(plan.seed)),
        ("version", json!(plan.version)),
        (
            "attacks",
            json!(plan.stages.iter().map(|stage| stage.about.as_str()).collect::<Vec<_>>().join("; ")),
        ),
        ("architecture", json!(report.arch)),
    ];
    facts.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// A fingerprint of what a network computes with: weights, normalisation and architecture. Other facts in the
/// file make no other network.
fn identity(net: &Net, file: &WeightFile) -> Result<String> {
    let mut bytes = Vec::new();
    for (name, _, values) in net.export()? {
        bytes.extend(name.bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let facts =
        ["arch", "mean", "std"].map(|key| file.metadata.get(key).map_or("", String::as_str).as_bytes());
    Ok(fingerprint(&[&bytes, facts[0], b";", facts[1], b";", facts[2]]))
}

/// Writes a result, indented.
pub fn write_result(path: &Path, result: &Value) -> Result<()> {
    write_atomic(path, format!("{result:#}\n").as_bytes())
}
