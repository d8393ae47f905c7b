//! An evaluation from the request to the report.

use super::accuracy::{Answers, attacked};
use super::identity::{evaluation, weights_fingerprint};
use super::outcome::{AttackRow, CLEAN};
use super::page::{self, Subject, Sweep};
use super::plan::{Plan, Stage};
use super::protocol::{ProtocolResult, RunOptions, run_protocol};
use super::record::{Record, save_adversarial, stored};
use super::report::{Report, write_result};
use super::request::{EvalRequest, Extras};
use super::state::State;
use crate::attack::Attack;
use crate::data::{Dataset, device_dataset::DeviceDataset};
use crate::error::{Error, Result};
use crate::files::weights::WeightFile;
use crate::files::write_atomic;
use crate::nn::{Net, Precision};
use crate::report::AttackAccuracy;
use crate::run::network::{self, Classes};
use crate::run::observer::Observer;
use crate::run::provenance::Provenance;
use serde_json::json;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The images and the network of an evaluation.
struct Job<'a> {
    request: &'a EvalRequest,
    test: Dataset,
    /// The same images on the network's device.
    data: DeviceDataset,
    net: Net,
    /// The network's weight file.
    file: WeightFile,
}

/// Evaluates; the report is written to `out` if that is given, and adversarial images and the page after it.
/// The report names a file that could not be written, and is not lost with it.
///
/// Errors: unknown attacks, weights that do not fit the data, an empty selection, a state of another
/// evaluation, an interruption; no report is written then.
pub fn run(request: &EvalRequest, observer: &mut dyn Observer) -> Result<Report> {
    let EvalRequest { params, extras, .. } = request;
    let plan = Plan::named(&request.attacks, params)?;
    request.check_options()?;
    let alone = if plan.is_some() { &[] } else { request.attacks.as_slice() };
    let alone = alone.iter().map(|name| Stage::new(name, params)).collect::<Result<Vec<_>>>()?;
    let test = request.images()?;
    request.check_outputs()?;
    let path = network::weight_file(&request.weights)?;
    let device = request.device.open()?;
    // The labels of a file do not tell whether there are more classes.
    let classes = if test.all_classes { Classes::Exactly } else { Classes::AtLeast };
    let input = (classes(test.classes), test.shape);
    let (mut net, file) = network::open(&device, WeightFile::read(&path)?, &extras.overrides, input)?;
    let precision = extras.precision.map_or(Precision::F32, |choice| choice.on(&device));
    net.set_precision(precision);
    network::replaced_normalisation(&file, &extras.overrides).iter().for_each(|line| observer.note(line));
    let mut report = Report {
        rows: Vec::new(),
        weights: path,
        architecture: file.metadata.get("arch").cloned().unwrap_or_default(),
        dataset: test.name.clone(),
        images: test.len(),
        norm: params.ball.norm.to_string(),
        eps: extras.eps_text.clone().unwrap_or_else(|| params.ball.eps.to_string()),
        seed: params.seed,
        device: device.describe(),
        precision: precision.to_string(),
        provenance: Provenance::now(&device, &extras.command),
        record: None,
        unwritten: None,
    };
    let mut job = Job { request, data: DeviceDataset::new(&device, &test)?, test, net, file };
    let mut run = None;
    match &plan {
        Some(plan) => run = Some(job.by_protocol(plan, &mut report, observer)?),
        None => report.rows = job.one_by_one(&alone, observer)?,
    }
    // A file that cannot be written costs nothing but itself.
    let written = request.out.as_ref().map_or(Ok(()), |out| write_result(out, &report.to_json()));
    let pictured = match run {
        Some((result, range)) => job.write_images_and_page(&report, &result, range, observer),
        None => Ok(()),
    };
    report.unwritten = written.and(pictured).err();
    observer.finished();
    Ok(report)
}

impl Job<'_> {
    /// Clean accuracy, and that under each attack on all images.
    fn one_by_one(&mut self, attacks: &[Stage], observer: &mut dyn Observer) -> Result<Vec<AttackAccuracy>> {
        let Job { request, data, net, .. } = self;
        let EvalRequest { batch, extras, .. } = request;
        let mut answer = |name: &str, attack: Option<&dyn Attack>| {
            let progress = |done| {
                observer.evaluating(name, done, data.len);
                if extras.stop.load(Ordering::SeqCst) {
                    let resume = "the same command, which begins again".into();
                    return Err(Error::Interrupted { saved: "nothing is kept".into(), resume });
                }
                Ok(())
            };
            let began = Instant::now();
            Ok((attacked(net, data, attack, *batch, progress)?, began.elapsed().as_secs_f64()))
        };
        let row = |name: &str, about: &str, answers: &Answers, clean: &Answers, seconds| AttackAccuracy {
            attack: name.to_owned(),
            about: about.to_owned(),
            accuracy: answers.accuracy().percent,
            adv_acc: Some(answers.accuracy().percent),
            robust_acc: answers.robust_percent(clean),
            seconds,
        };
        let (clean, seconds) = answer(CLEAN, None)?;
        let mut rows = vec![row(CLEAN, CLEAN, &clean, &clean, seconds)];
        for Stage { name, about, attack } in attacks {
            let (answers, seconds) = answer(name, Some(&**attack))?;
            rows.push(row(name, about, &answers, &clean, seconds));
        }
        Ok(rows)
    }

    /// Runs the protocol, and puts its rows and record into the report. Returns its result and the indices of
    /// the data set that it is about.
    fn by_protocol(
        &mut self,
        plan: &Plan,
        report: &mut Report,
        observer: &mut dyn Observer,
    ) -> Result<(ProtocolResult, Range<usize>)> {
        let Extras { state, shard, page, stop, .. } = &self.request.extras;
        if let (Some(path), Some(_)) = (page, shard) {
            let problem = "a page shows all images, not a shard of them";
            return Err(Error::value("report", path.display(), problem));
        }
        let weights = weights_fingerprint(&self.net, &self.file)?;
        let range = shard.map_or(Ok(0..self.test.len()), |shard| shard.range(self.test.len()))?;
        let evaluation = evaluation(plan, &report.architecture, &self.test, &weights, &report.precision);
        let mut identity = evaluation.clone();
        identity.insert("shard".into(), json!(shard.map(|shard| format!("{}/{}", shard.number, shard.of))));
        let state = state.as_ref().map(|folder| State::open(folder, identity)).transpose()?;
        let options =
            RunOptions { range: range.clone(), batch: self.request.batch, state: state.as_ref(), stop };
        let result = run_protocol(&mut self.net, &self.data, plan, &options, observer)?;
        let row = |row: &AttackRow| AttackAccuracy {
            attack: row.attack.clone(),
            about: row.attack.clone(),
            accuracy: row.accuracy,
            adv_acc: None,
            robust_acc: row.accuracy,
            seconds: row.seconds,
        };
        report.rows = result.outcome.rows.iter().map(row).collect();
        let mut about = report.facts();
        about.insert("additional_data".into(), false.into());
        about.insert("number_forward_passes".into(), "1".into());
        report.record = Some(Record { about, evaluation, shard: *shard, outcome: result.outcome.clone() });
        Ok((result, range))
    }

    /// Writes the adversarial images and the page, where they are asked for.
    fn write_images_and_page(
        &mut self,
        report: &Report,
        result: &ProtocolResult,
        range: Range<usize>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Job { request, test, data, net, .. } = self;
        let ProtocolResult { images, .. } = result;
        if let Some(path) = &request.extras.save_adv {
            save_adversarial(path, test, range.clone(), result, request.extras.keep_clean)?;
        }
        let (Some(path), Some(record)) = (&request.extras.page, &report.record) else { return Ok(()) };
        let image = |(point, index): (usize, usize)| stored(test, index, images.get(&point));
        let x_adv: Vec<f32> = range.enumerate().flat_map(image).collect();
        let subject = Subject { net, test, data, x_adv: &x_adv, batch: request.batch };
        let progress = |what: &str, done, of| observer.evaluating(what, done, of);
        let summary = page::summary(report, record);
        let sweep = Sweep::around(request.params, &report.eps);
        let page = page::complete(subject, summary, &sweep, progress)?;
        write_atomic(path, page.to_html()?.as_bytes())
    }
}
