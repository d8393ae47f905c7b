//! RAAT's motivation (arXiv 2604.26496): where images lie with respect to the decision boundary.
//!
//! ```text
//! m = z_y - max_{k != y} z_k  at x, at x'' = x + rho (x' - x) and at x'
//! ```

use super::plot::{Axes, Kind, Series, draw};
use super::{Attacked, Figure, Made, Subject, logits};
use crate::error::{Error, Result};
use crate::method::common::align::reduced;
use crate::ops::margin::margin;
use crate::tape::Tape;
use std::path::Path;

pub const FIGURE: Figure =
    Figure { name: "margins", about: "histograms of the margins of clean, slightly perturbed and adversarial images", make };

/// The number of bins is about this, or as little as half of it.
const BINS: f64 = 64.0;

/// The margins at x, x'' and x' of every image.
fn margins(subject: &mut Subject) -> Result<[Vec<f32>; 3]> {
    let mut margins = [vec![], vec![], vec![]];
    let Subject { net, batches, rho, .. } = subject;
    for Attacked { x, x_adv, y } in batches.iter() {
        let x_near = reduced(x, x_adv, *rho)?;
        for (margins, images) in margins.iter_mut().zip([x, &x_near, x_adv]) {
            let tape = Tape::new(x.device());
            let m = margin(&tape, tape.constant(logits(net, images)?), y)?;
            margins.extend(tape.value(m).to_vec()?);
        }
    }
    Ok(margins)
}

/// The edges of bins that hold all values, and how many of each list lie in each bin: lower edge included, upper one not. All have one width,
/// a power of two, so that edges are exact and 0 is one of them or outside.
fn histograms(lists: &[Vec<f32>; 3]) -> Result<(Vec<f64>, [Vec<usize>; 3])> {
    let values = || lists.iter().flatten().map(|m| *m as f64);
    if !values().all(f64::is_finite) {
        return Err(Error::file(Path::new("margins"), "the network's logits are not all finite numbers"));
    }
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let width = if high > low { ((high - low) / BINS).log2().ceil().exp2() } else { 1.0 };
    let first = (low / width).floor();
    let bin = |m: f64| ((m / width).floor() - first) as usize;
    let count = |list: &Vec<f32>| {
        let mut counts = vec![0; bin(high) + 1];
        list.iter().for_each(|m| counts[bin(*m as f64)] += 1);
        counts
    };
    Ok(((0..=bin(high) + 1).map(|i| (first + i as f64) * width).collect(), lists.each_ref().map(count)))
}

fn make(subject: &mut Subject) -> Result<Made> {
    let lists = margins(subject)?;
    let (edges, counts) = histograms(&lists)?;
    let mut csv = "from,to,clean,reduced,adversarial\n".to_owned();
    for (i, edge) in edges.windows(2).enumerate() {
        csv += &format!("{},{},{},{},{}\n", edge[0], edge[1], counts[0][i], counts[1][i], counts[2][i]);
    }
    let names = ["x".to_owned(), format!("x + {} (x' - x)", subject.rho), "x'".to_owned()];
    // The outline: each bin's height from its lower edge to its upper one, and down to 0 at both ends.
    let outline = |counts: &Vec<usize>| {
        let tops = counts.iter().zip(edges.windows(2)).flat_map(|(n, edge)| [(edge[0], *n as f64), (edge[1], *n as f64)]);
        [(edges[0], 0.0)].into_iter().chain(tops).chain(edges.last().map(|end| (*end, 0.0))).collect()
    };
    let series: Vec<Series> =
        names.iter().zip(&counts).map(|(name, counts)| Series { name: name.clone(), points: outline(counts) }).collect();
    let axes = Axes { title: "Margins", x: "margin: z_y - max other z", y: "images", ..Axes::default() };
    let svg = draw(&axes, Kind::Lines, &series)?;
    let percent = |n: usize| 100.0 * n as f64 / lists[0].len().max(1) as f64;
    let wrong = |(name, list): (&String, &Vec<f32>)| {
        (format!("margin not above 0 at {name} (%)"), percent(list.iter().filter(|m| **m <= 0.0).count()))
    };
    let boundary = (0..lists[0].len()).filter(|i| lists[0][*i] > 0.0 && lists[1][*i] <= 0.0 && lists[2][*i] <= 0.0).count();
    let mut facts: Vec<(String, f64)> = names.iter().zip(&lists).map(wrong).collect();
    facts.push((format!("boundary samples: right at x, wrong at {} and x' (%)", names[1]), percent(boundary)));
    Ok(Made { csv, svg, facts })
}

#[cfg(test)]
mod tests {
    use super::super::untrained;
    use super::*;

    #[test]
    fn every_image_is_counted() {
        let lists = margins(&mut untrained(50)).unwrap();
        let (edges, counts) = histograms(&lists).unwrap();
        assert_eq!(counts.each_ref().map(|counts| counts.iter().sum::<usize>()), [50; 3]);
        for (list, counts) in lists.iter().zip(&counts) {
            let inside = |edge: &[f64]| list.iter().filter(|m| edge[0] <= **m as f64 && (**m as f64) < edge[1]).count();
            assert_eq!(edges.windows(2).map(inside).collect::<Vec<_>>(), *counts);
        }
        let total = |list: &[f32]| list.iter().map(|m| *m as f64).sum::<f64>();
        assert!(total(&lists[0]) > total(&lists[1]) && total(&lists[1]) > total(&lists[2]), "the attack lowers margins");
        assert!(histograms(&[vec![1.0], vec![f32::NAN], vec![]]).is_err());
        let same = histograms(&[vec![2.0], vec![2.0], vec![2.0]]).unwrap();
        assert_eq!((same.0[0], same.1[0][0]), (2.0, 1));
    }
}
