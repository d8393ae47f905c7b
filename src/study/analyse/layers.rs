//! AFA's motivation (arXiv 2402.12187, figure 2): how well each layer's features tell classes apart, for
//! clean and for adversarial images.
//!
//! ```text
//! u = f / |f|, f the pooled output of a stage
//! an image's class is that of the training image a with the smallest |u - u_a|
//! ```
//!
//! |u - u_a|^2 = 2 - 2 <u, u_a>: the nearest image has the largest inner product, which a linear layer with
//! the gallery as its weight computes.

use super::{AttackedBatch, Figure, FigureOutput, TrainedModel};
use crate::data::device_dataset::in_order;
use crate::device::Buffer;
use crate::error::Result;
use crate::nn::{BnMode, Net};
use crate::ops::augment::{Augmentation, gather_i32};
use crate::ops::contrastive::unit_rows;
use crate::ops::linear::linear;
use crate::ops::predict::argmax;
use crate::ops::slice::concat_tensor;
use crate::report::plot::{Axes, PlotKind, Series, draw};
use crate::tape::Tape;
use crate::tensor::Tensor;

pub const FIGURE: Figure = Figure {
    name: "layers",
    about: "1-nearest-neighbour accuracy from each stage's pooled output (normalised, Euclidean distance): \
            clean and PGD-20 test images among clean training images",
    make,
};

/// The features of images `[N,F]` after each stage, then the penultimate ones, each row of length 1.
fn features(net: &mut Net, x: &Tensor) -> Result<Vec<Tensor>> {
    let tape = Tape::new(x.device());
    let stages = net.stages(&tape, tape.constant(x.clone()), BnMode::Eval)?;
    stages.into_iter().map(|f| unit_rows(&tape.value(f))).collect()
}

/// The accuracy on clean and on adversarial images by each layer's features, in percent.
fn accuracies(model: &mut TrainedModel) -> Result<Vec<[f64; 2]>> {
    let TrainedModel { net, batches, gallery, batch, .. } = model;
    let (device, none) = (gallery.device().clone(), Augmentation::none());
    let everything: Vec<i32> = (0..gallery.len as i32).collect();
    let (_, labels) = gallery.batch(&Buffer::from_slice(&device, &everything)?, &none)?;
    let mut known: Vec<Tensor> = vec![];
    for indices in in_order(&device, gallery.len, *batch)? {
        let next = features(net, &gallery.batch(&indices, &none)?.0)?;
        known = match known.is_empty() {
            true => next,
            false => known.iter().zip(&next).map(|(a, b)| concat_tensor(a, b)).collect::<Result<_>>()?,
        };
    }
    let (mut hits, mut images) = (vec![[0, 0]; known.len()], 0);
    for AttackedBatch { x, x_adv, y } in batches.iter() {
        let classes = y.to_vec()?;
        images += classes.len();
        for (kind, x) in [x, x_adv].into_iter().enumerate() {
            for (layer, f) in features(net, x)?.into_iter().enumerate() {
                let tape = Tape::new(&device);
                let products = linear(&tape, tape.constant(f), tape.constant(known[layer].clone()), None)?;
                let found = gather_i32(&labels, &argmax(&device, &tape.value(products))?)?.to_vec()?;
                hits[layer][kind] +=
                    found.iter().zip(&classes).filter(|(found, class)| found == class).count();
            }
        }
    }
    Ok(hits.into_iter().map(|hits| hits.map(|n| 100.0 * n as f64 / images.max(1) as f64)).collect())
}

fn make(model: &mut TrainedModel) -> Result<FigureOutput> {
    let accuracies = accuracies(model)?;
    let name =
        |i: usize| if i + 1 < accuracies.len() { format!("stage {}", i + 1) } else { "penultimate".into() };
    let names: Vec<String> = (0..accuracies.len()).map(name).collect();
    let mut csv = "layer,clean,adversarial\n".to_owned();
    let mut metrics = vec![];
    for (name, [clean, adversarial]) in names.iter().zip(&accuracies) {
        csv += &format!("{name},{clean},{adversarial}\n");
        for (images, accuracy) in [("clean", clean), ("PGD-20", adversarial)] {
            metrics.push((format!("1-nn accuracy, {name}, {images} (%)"), *accuracy));
        }
    }
    let line = |kind: usize| (0..).zip(&accuracies).map(move |(layer, both)| (f64::from(layer), both[kind]));
    let lines = [Series::new("clean", line(0)), Series::new("PGD-20", line(1))];
    let axes = Axes::percent("Nearest neighbours, layer by layer", "layer", "1-nn accuracy (%)");
    let svg = draw(&Axes { names: &names, ..axes }, PlotKind::Lines, &lines)?;
    Ok(FigureOutput { name: FIGURE.name, csv, svg, metrics })
}

#[cfg(test)]
mod tests {
    use super::super::tests::untrained_model;
    use super::*;

    #[test]
    fn an_image_is_its_own_nearest_neighbour() {
        let mut model = untrained_model(50);
        let found = accuracies(&mut model).unwrap();
        assert_eq!(found.len(), 4, "three stages and the penultimate features");
        assert!(found.iter().all(|[clean, _]| *clean == 100.0), "{found:?}");
        assert_eq!(found[2], found[3], "a post-activation network pools its last stage");
        // Against the search in double precision, for images that are not in the gallery.
        let TrainedModel { net, batches, .. } = &mut model;
        let wide = |x: &Tensor, net: &mut Net| -> Vec<Vec<f64>> {
            let f = features(net, x).unwrap().remove(0);
            f.to_vec()
                .unwrap()
                .chunks(f.shape()[1])
                .map(|row| row.iter().map(|v| *v as f64).collect())
                .collect()
        };
        let known: Vec<_> = batches.iter().flat_map(|b| wide(&b.x, net)).collect();
        let labels: Vec<i32> = batches.iter().flat_map(|b| b.y.to_vec().unwrap()).collect();
        let queries: Vec<_> = batches.iter().flat_map(|b| wide(&b.x_adv, net)).collect();
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let nearest = |q: &Vec<f64>| {
            (0..known.len())
                .min_by(|a, b| distance(q, &known[*a]).total_cmp(&distance(q, &known[*b])))
                .unwrap()
        };
        let right = queries.iter().zip(&labels).filter(|(q, y)| labels[nearest(q)] == **y).count();
        assert_eq!(found[0][1], 2.0 * right as f64);
    }
}
