//! Histograms of several lists over the same bins.

use std::path::Path;

use super::plot::{Axes, Layout, PlotKind, Series, draw_as, range};
use crate::error::{Error, Result};

/// The number of bins is between half of this and about this.
const BINS: f64 = 64.0;

/// The number of values of each list in each bin; a bin includes its lower edge and excludes its upper one.
pub struct Histograms {
    /// Ascending; one more than there are bins.
    pub edges: Vec<f64>,
    /// By list, then by bin.
    pub counts: Vec<Vec<usize>>,
}

/// Histograms whose bins cover all values. The common bin width is a power of two, so that edges are exact
/// and 0, if in range, is one of them.
///
/// Errors: a value that is not finite.
pub fn histograms<L: AsRef<[f32]>>(lists: &[L]) -> Result<Histograms> {
    let values = || lists.iter().flat_map(|list| list.as_ref()).map(|m| f64::from(*m));
    if !values().all(f64::is_finite) {
        return Err(Error::file(Path::new("margins"), "the network's logits are not all finite numbers"));
    }
    let (low, high) = Some(range(values())).filter(|(low, high)| low <= high).unwrap_or_default();
    let width = if high > low { ((high - low) / BINS).log2().ceil().exp2() } else { 1.0 };
    let first = (low / width).floor();
    let bin = |m: f64| ((m / width).floor() - first) as usize;
    let count = |list: &L| {
        let mut counts = vec![0; bin(high) + 1];
        list.as_ref().iter().for_each(|m| counts[bin(f64::from(*m))] += 1);
        counts
    };
    let edges = (0..=bin(high) + 1).map(|i| (first + i as f64) * width).collect();
    Ok(Histograms { edges, counts: lists.iter().map(count).collect() })
}

/// The outline of a histogram: each bin's height from its lower to its upper edge, down to 0 at both ends.
pub fn outline(edges: &[f64], counts: &[usize]) -> Vec<(f64, f64)> {
    let tops = counts
        .iter()
        .zip(edges.windows(2))
        .flat_map(|(n, edge)| [(edge[0], *n as f64), (edge[1], *n as f64)]);
    let ends = |edge: Option<&f64>| edge.map(|edge| (*edge, 0.0));
    ends(edges.first()).into_iter().chain(tops).chain(ends(edges.last())).collect()
}

/// The plot of histograms of margins, by name.
///
/// Errors: a value that is not finite.
pub fn draw_margins<N: AsRef<str>>(layout: Layout, names: &[N], margins: &Histograms) -> Result<String> {
    let line =
        |(name, counts): (&N, &Vec<usize>)| Series::new(name.as_ref(), outline(&margins.edges, counts));
    let axes = Axes { counts: true, ..Axes::new("Margins", "margin: z_y - max other z", "images") };
    draw_as(layout, &axes, PlotKind::Lines, &names.iter().zip(&margins.counts).map(line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted() {
        let lists = [vec![-1.5f32, 0.0, 0.25, 7.0], vec![3.0], vec![]];
        let Histograms { edges, counts } = histograms(&lists).unwrap();
        for (list, counts) in lists.iter().zip(&counts) {
            let inside = |edge: &[f64]| {
                list.iter().filter(|m| edge[0] <= f64::from(**m) && f64::from(**m) < edge[1]).count()
            };
            assert_eq!(edges.windows(2).map(inside).collect::<Vec<_>>(), *counts);
            assert_eq!(counts.iter().sum::<usize>(), list.len());
        }
        assert!(edges.contains(&0.0) && (32..=66).contains(&edges.len()), "{edges:?}");
        let line = outline(&edges, &counts[0]);
        assert_eq!((line[0], line[1]), ((edges[0], 0.0), (edges[0], 1.0)));
        assert_eq!(line.len(), 2 * edges.len());
        assert!(histograms(&[vec![1.0, f32::NAN]]).is_err());
        let same = histograms(&[vec![2.0f32], vec![2.0]]).unwrap();
        assert_eq!((same.edges[0], same.counts[1][0]), (2.0, 1));
        assert_eq!(histograms(&[[0f32; 0]]).unwrap().counts, [[0]]);
    }
}
