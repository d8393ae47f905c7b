//! The page of an evaluation: margins, examples, classes, and accuracy against eps.

use super::accuracy::attacked;
use super::record::{Record, stored};
use super::report::Report;
use crate::attack::{self, Params};
use crate::data::Dataset;
use crate::data::device_dataset::{DeviceDataset, in_order};
use crate::error::{Error, Result};
use crate::nn::Net;
use crate::ops::augment::Augmentation;
use crate::ops::margin::margin;
use crate::ops::predict::argmax;
use crate::report::{ClassAccuracy, CurvePoint, EvalPage, Example};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// The number of examples on a page: where the attack succeeded, and where it failed.
const SUCCEEDED: usize = 9;
const FAILED: usize = 3;

/// The part of a page that follows from a report and its record.
pub(super) fn summary(report: &Report, record: &Record) -> EvalPage {
    let Report { architecture, dataset, weights, images, norm, eps, seed, provenance, rows, .. } = report;
    let facts = [
        ("verification", record.outcome.verification.in_words()),
        ("architecture", architecture.clone()),
        ("weights", weights.display().to_string()),
        ("data", format!("{images} test images of {dataset}")),
        ("threat model", format!("{norm}, eps {eps}")),
        ("seed", seed.to_string()),
    ];
    EvalPage {
        title: format!("{architecture} on {dataset} under AutoAttack's protocol"),
        result: record.headline(),
        facts: facts.into_iter().chain(provenance.facts()).map(|(name, text)| (name.into(), text)).collect(),
        path: rows.clone(),
        warnings: record.outcome.warnings.clone(),
        ..EvalPage::default()
    }
}

/// The measurement of accuracy against eps.
pub struct Sweep {
    /// A name for [`attack::by_name`].
    pub attack: String,
    /// The factors multiply its eps, and its step size if that is given.
    pub params: Params,
    /// The radius as it was written, for labels.
    pub eps: String,
    pub factors: Vec<f32>,
    /// Only this many images, the first ones.
    pub images: usize,
}

impl Sweep {
    /// APGD-CE on at most 500 images with 0 to 2 times eps, written `eps`.
    pub fn around(params: Params, eps: &str) -> Sweep {
        let mut factors = vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0];
        factors.retain(|factor| params.ball.scaled(*factor).check().is_ok());
        Sweep { attack: "apgd-ce".into(), params, eps: eps.into(), factors, images: 500 }
    }

    /// The radius at a factor, in the way it was written: `2/255` for a quarter of `8/255`.
    fn label(&self, factor: f32) -> String {
        let times = |number: &str| {
            let product = f64::from(factor) * number.trim().parse::<f64>().ok()?;
            Some(((product * 1e6).round() / 1e6).to_string())
        };
        let scaled = match self.eps.split_once('/') {
            _ if factor == 0.0 => Some("0".into()),
            Some((over, under)) => times(over).map(|over| format!("{over}/{under}")),
            None => times(&self.eps),
        };
        scaled.unwrap_or_else(|| format!("{:.4}", self.params.ball.scaled(factor).eps))
    }
}

/// The network and the images of a page.
pub struct Subject<'a> {
    pub net: &'a mut Net,
    pub test: &'a Dataset,
    /// The same images on the network's device.
    pub data: &'a DeviceDataset,
    /// `[N,H,W,C]`: the image that the attacks left of each test image; the clean one where there is none.
    pub x_adv: &'a [f32],
    /// Images per batch.
    pub batch: usize,
}

/// The whole page. `progress` gets the current task, and how many of how many images are done.
///
/// Errors: not one adversarial image for each test image, an unknown attack.
pub fn complete(
    subject: Subject,
    summary: EvalPage,
    sweep: &Sweep,
    mut progress: impl FnMut(&str, usize, usize),
) -> Result<EvalPage> {
    let Subject { net, test, data, x_adv, batch } = subject;
    let (device, size) = (data.device(), test.shape.bytes());
    if x_adv.len() != test.len() * size || data.len != test.len() {
        let expected = format!("{} adversarial images of {size} numbers", test.len());
        return Err(Error::Shape { op: "report", expected, got: vec![x_adv.len()] });
    }
    let (mut before, mut after, mut done) = (Predictions::default(), Predictions::default(), 0);
    for indices in in_order(device, data.len, batch)? {
        let (x, y) = data.batch(&indices, &Augmentation::none())?;
        let range = done * size..(done + indices.len()) * size;
        let adversarial = Tensor::from_slice(device, x.shape(), &x_adv[range])?;
        for (predictions, images) in [(&mut before, &x), (&mut after, &adversarial)] {
            let tape = Tape::new(device);
            let z = tape.constant(attack::logits(net, images)?);
            let margins = margin(&tape, z, &y)?;
            // The verification counts the images whose margin is not finite.
            predictions
                .margins
                .extend(tape.value(margins).to_vec()?.iter().filter(|margin| margin.is_finite()));
            predictions.classes.extend(argmax(device, &tape.value(z))?.to_vec()?);
        }
        done += indices.len();
        progress("margins", done, data.len);
    }
    let withstood = |index: &usize| after.classes[*index] == test.labels[*index];
    let clean = |index: &usize| stored(test, *index, None) == x_adv[index * size..(index + 1) * size];
    let unperturbed = (0..test.len()).filter(withstood).filter(clean).count();
    let first = test.subset(&(0..sweep.images.min(test.len())).collect::<Vec<_>>())?;
    let curve = curve(net, &DeviceDataset::new(device, &first)?, sweep, batch, progress)?;
    let (attack, images) = (&sweep.attack, first.len());
    Ok(EvalPage {
        curve,
        curve_note: format!("Under {attack} alone, on the first {images} images, anew for each eps."),
        grid: grid(test, x_adv, &before.classes, &after.classes),
        per_class: per_class(test, &before.classes, &after.classes),
        margins_before: before.margins,
        margins_after: after.margins,
        unperturbed,
        ..summary
    })
}

/// The margins and classes of images.
#[derive(Default)]
struct Predictions {
    margins: Vec<f32>,
    classes: Vec<i32>,
}

/// eps and accuracy for every factor. With eps = 0 that is the clean accuracy.
fn curve(
    net: &mut Net,
    data: &DeviceDataset,
    sweep: &Sweep,
    batch: usize,
    mut progress: impl FnMut(&str, usize, usize),
) -> Result<Vec<CurvePoint>> {
    let mut curve = Vec::new();
    for factor in &sweep.factors {
        let Params { ball, step_size, .. } = sweep.params;
        let step_size = step_size.map(|step_size| factor * step_size);
        let params = Params { ball: ball.scaled(*factor), step_size, ..sweep.params };
        let label = sweep.label(*factor);
        let what = format!("{} with eps {label}", sweep.attack);
        let progress = |done| {
            progress(&what, done, data.len);
            Ok(())
        };
        let moves = params.ball.eps > 0.0;
        let attack = moves.then(|| attack::by_name(&sweep.attack, &params)).transpose()?;
        let accuracy = attacked(net, data, attack.as_deref(), batch, progress)?.accuracy().percent;
        curve.push(CurvePoint { eps: params.ball.eps.into(), label, accuracy });
    }
    Ok(curve)
}

/// The first images on which the attack succeeded, then the first on which it failed.
fn grid(test: &Dataset, x_adv: &[f32], before: &[i32], after: &[i32]) -> Vec<Example> {
    let correct = |classes: &[i32], index: usize| classes[index] == test.labels[index];
    let (failed, succeeded): (Vec<usize>, Vec<usize>) =
        (0..test.len()).filter(|index| correct(before, *index)).partition(|index| correct(after, *index));
    let name =
        |class: i32| test.class_names.get(class as usize).cloned().unwrap_or_else(|| class.to_string());
    let (shape, size) = (test.shape, test.shape.bytes());
    let example = |index: usize| Example {
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        clean: stored(test, index, None),
        adversarial: x_adv[index * size..(index + 1) * size].to_vec(),
        label: name(test.labels[index]),
        predicted_clean: name(before[index]),
        predicted_adversarial: name(after[index]),
    };
    succeeded.into_iter().take(SUCCEEDED).chain(failed.into_iter().take(FAILED)).map(example).collect()
}

/// The accuracy on each class that has images. An image is robust where it is classified correctly before and
/// after.
fn per_class(test: &Dataset, before: &[i32], after: &[i32]) -> Vec<ClassAccuracy> {
    let of = |(class, count): (usize, usize)| {
        let label = class as i32;
        let members = || (0..test.len()).filter(|index| test.labels[*index] == label);
        let clean = members().filter(|index| before[*index] == label).count();
        let robust = members().filter(|index| before[*index] == label && after[*index] == label).count();
        let percent = |correct: usize| 100.0 * correct as f64 / count as f64;
        let name = test.class_names.get(class).cloned().unwrap_or_else(|| class.to_string());
        ClassAccuracy { name, clean: percent(clean), robust: percent(robust), count }
    };
    test.class_counts().into_iter().enumerate().filter(|(_, count)| *count > 0).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::{Ball, Points};
    use crate::device::{Buffer, Device};
    use crate::nn::{Arch, Shape};

    #[test]
    fn radii_are_labelled_as_they_were_written() {
        let labels = |eps: &str, ball| {
            let sweep = Sweep::around(Params { ball, ..Params::default() }, eps);
            sweep.factors.iter().map(|factor| sweep.label(*factor)).collect::<Vec<_>>().join(" ")
        };
        let fractions = "0 2/255 4/255 6/255 8/255 12/255 16/255";
        assert_eq!(labels("8/255", Ball::default()), fractions);
        assert_eq!(labels("0.1", Ball::linf(0.1)), "0 0.025 0.05 0.075 0.1 0.15 0.2");
        assert_eq!(labels("0.6", Ball::linf(0.6)), "0 0.15 0.3 0.45 0.6 0.9", "no radius above 1");
    }

    #[test]
    fn the_page_says_what_the_network_says() {
        let device = Device::host().unwrap();
        let test =
            crate::data::load("digits", None).unwrap().test.subset(&(0..60).collect::<Vec<_>>()).unwrap();
        let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![], std: vec![] };
        let mut net = Net::new(&device, Arch::find("resnet-mini").unwrap(), &shape, 0).unwrap();
        let data = DeviceDataset::new(&device, &test).unwrap();
        let params = Params { ball: Ball::linf(0.2), step_size: Some(0.1), ..Params::default() };
        let all = Buffer::from_slice(&device, &(0..60).collect::<Vec<_>>()).unwrap();
        let (x, y) = data.batch(&all, &Augmentation::none()).unwrap();
        let result = attack::by_name("pgd5", &params)
            .unwrap()
            .run(&mut net, Points { x: &x, y: &y, images: &all })
            .unwrap();
        let (x_adv, success) = (result.x_adv.to_vec().unwrap(), result.success.to_vec().unwrap());

        let sweep = Sweep {
            attack: "pgd5".into(),
            params,
            eps: "51/255".into(),
            factors: vec![0.0, 1.0, 2.0],
            images: 50,
        };
        let summary =
            EvalPage { title: "digits".into(), warnings: vec!["untrained".into()], ..EvalPage::default() };
        let mut seen = Vec::new();
        let subject = Subject { net: &mut net, test: &test, data: &data, x_adv: &x_adv, batch: 32 };
        let page =
            complete(subject, summary, &sweep, |what, done, of| seen.push((what.to_owned(), done, of)))
                .unwrap();
        assert_eq!(seen.first(), Some(&("margins".to_owned(), 32, 60)));
        assert_eq!(seen.last(), Some(&("pgd5 with eps 102/255".to_owned(), 50, 50)));

        let correct = |margins: &[f32]| margins.iter().filter(|margin| **margin > 0.0).count();
        let (clean, robust) = (correct(&page.margins_before), correct(&page.margins_after));
        assert_eq!(robust, success.iter().filter(|success| **success == 0).count());
        let images = |of: fn(&ClassAccuracy) -> f64| {
            page.per_class.iter().map(|c| of(c) * c.count as f64 / 100.0).sum::<f64>()
        };
        assert!(
            (images(|c| c.clean) - clean as f64).abs() < 1e-9
                && (images(|c| c.robust) - robust as f64).abs() < 1e-9
        );
        assert_eq!(page.per_class.iter().map(|c| c.count).sum::<usize>(), 60);
        assert_eq!(page.curve.iter().map(|point| point.eps as f32).collect::<Vec<_>>(), [0.0, 0.2, 0.4]);
        assert_eq!(page.curve[0].accuracy, 2.0 * correct(&page.margins_before[..50]) as f64);
        assert!(page.curve[1].accuracy <= page.curve[0].accuracy);
        assert!(clean > robust, "the attack does something: {clean}, {robust}");
        for (number, example) in page.grid.iter().enumerate() {
            let (label, after) = (&example.label, &example.predicted_adversarial);
            assert!(
                example.predicted_clean == *label
                    && (after == label) == (number >= (clean - robust).min(SUCCEEDED))
            );
            let index =
                (0..60).find(|i| x.to_vec().unwrap()[i * 64..(i + 1) * 64] == example.clean[..]).unwrap();
            assert_eq!(example.adversarial, x_adv[index * 64..(index + 1) * 64]);
            assert_eq!(*label, test.class_names[test.labels[index] as usize]);
        }
        assert_eq!(page.grid.len(), (clean - robust).min(SUCCEEDED) + robust.min(FAILED));
        assert!(page.to_html().unwrap().contains("untrained"));
        let subject = Subject { net: &mut net, test: &test, data: &data, x_adv: &x_adv[1..], batch: 32 };
        let error = complete(subject, EvalPage::default(), &sweep, |_, _, _| ()).unwrap_err().to_string();
        assert!(error.starts_with("report: expected 60 adversarial images of 64 numbers"), "{error}");
    }
}
