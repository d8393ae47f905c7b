//! RAAT's motivation (arXiv 2604.26496): on which side of the decision boundary images lie, and how far from
//! it, as histograms of their margins.
//!
//! ```text
//! m = z_y - max_{k != y} z_k  at x, at x'' = x + rho (x' - x) and at x'
//! ```

use super::{AttackedBatch, Figure, FigureOutput, TrainedModel};
use crate::attack::logits;
use crate::error::Result;
use crate::method::common::perturbation::reduced;
use crate::ops::margin::margin;
use crate::report::histogram::{Histograms, draw_margins, histograms};
use crate::report::plot::Layout;
use crate::tape::Tape;

pub const FIGURE: Figure = Figure {
    name: "margins",
    about: "histograms of the margin z_y - max other z at x, x + rho (x' - x) and x'",
    make,
};

/// The margins of all images at x, x'' and x'.
fn margins(model: &mut TrainedModel) -> Result<[Vec<f32>; 3]> {
    let mut margins = [vec![], vec![], vec![]];
    let TrainedModel { net, batches, rho, .. } = model;
    for AttackedBatch { x, x_adv, y } in batches.iter() {
        let x_near = reduced(x, x_adv, *rho)?;
        for (margins, images) in margins.iter_mut().zip([x, &x_near, x_adv]) {
            let tape = Tape::new(x.device());
            let m = margin(&tape, tape.constant(logits(net, images)?), y)?;
            margins.extend(tape.value(m).to_vec()?);
        }
    }
    Ok(margins)
}

fn make(model: &mut TrainedModel) -> Result<FigureOutput> {
    let lists = margins(model)?;
    let bins = histograms(&lists)?;
    let Histograms { edges, counts } = &bins;
    let mut csv = "from,to,clean,reduced,adversarial\n".to_owned();
    for (i, edge) in edges.windows(2).enumerate() {
        csv += &format!("{},{},{},{},{}\n", edge[0], edge[1], counts[0][i], counts[1][i], counts[2][i]);
    }
    let names = ["x".to_owned(), format!("x + {} (x' - x)", model.rho), "x'".to_owned()];
    let percent = |n: usize| 100.0 * n as f64 / lists[0].len().max(1) as f64;
    let wrong = |(name, list): (&String, &Vec<f32>)| {
        let count = list.iter().filter(|m| **m <= 0.0).count();
        (format!("margin not above 0 at {name} (%)"), percent(count))
    };
    let mut metrics: Vec<_> = names.iter().zip(&lists).map(wrong).collect();
    let boundary = |i: &usize| lists[0][*i] > 0.0 && lists[1][*i] <= 0.0 && lists[2][*i] <= 0.0;
    metrics.push((
        format!("boundary samples: right at x, wrong at {} and x' (%)", names[1]),
        percent((0..lists[0].len()).filter(boundary).count()),
    ));
    Ok(FigureOutput { name: FIGURE.name, csv, svg: draw_margins(Layout::Wide, &names, &bins)?, metrics })
}

#[cfg(test)]
mod tests {
    use super::super::tests::untrained_model;
    use super::*;

    #[test]
    fn every_image_is_counted() {
        let lists = margins(&mut untrained_model(50)).unwrap();
        let Histograms { counts, .. } = histograms(&lists).unwrap();
        assert_eq!(counts.iter().map(|counts| counts.iter().sum::<usize>()).collect::<Vec<_>>(), [50; 3]);
        let total = |list: &[f32]| list.iter().map(|m| *m as f64).sum::<f64>();
        assert!(
            total(&lists[0]) > total(&lists[1]) && total(&lists[1]) > total(&lists[2]),
            "the attack lowers margins"
        );
    }
}
