//! RAAT's figure 1 (arXiv 2604.26496): the accuracy after training in which boundary samples, or all other
//! images, keep eps, eps / 10 or nothing of their perturbation. Five runs of the method `boundary-at`, with
//! the settings of a run.

use super::{AnalyseRequest, FigureOutput};
use crate::config::Config;
use crate::config::recipe::Recipe;
use crate::error::{Error, Result};
use crate::report::plot::{Axes, PlotKind, Series, draw};
use crate::run::observer::Observer;
use crate::study::compare::{self, CompareRequest, Comparison};
use crate::train;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub const NAME: &str = "sweep";

/// The description of the figure in help.
pub const ABOUT: &str = "with --sweep: the run's training again, five times, where boundary samples or all \
                         others keep eps, eps/10 or nothing of their perturbation; finished runs below \
                         OUT/sweep are not trained again, and Ctrl-C may interrupt it";

/// The parts of their perturbation that boundary samples and other images keep in each of the five runs.
const RUNS: [(f32, f32); 5] = [(1.0, 1.0), (0.1, 1.0), (0.0, 1.0), (1.0, 0.1), (1.0, 0.0)];

/// The five runs: `config` with the method `boundary-at` and, if given, another number of epochs.
///
/// Errors: settings that contradict each other.
pub fn entries(config: &Config, epochs: Option<usize>) -> Result<Vec<Recipe>> {
    let entry = |(rho_boundary, rho_other)| {
        let config = Config {
            method: "boundary-at".into(),
            rho_boundary,
            rho_other,
            epochs: epochs.unwrap_or(config.epochs),
            ..config.clone()
        };
        train::validate(&config)?;
        let name = format!("boundary-at-{rho_boundary}-{rho_other}");
        Ok(Recipe { name, config, ..Recipe::default() })
    };
    RUNS.into_iter().map(entry).collect()
}

/// Trains the entries whose runs below `OUT/sweep/runs` are missing, and makes `OUT/sweep.csv` and `.svg`.
pub fn run(
    entries: Vec<Recipe>,
    request: &AnalyseRequest,
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<FigureOutput> {
    let comparison = CompareRequest {
        seeds: entries.first().map(|entry| entry.config.seed).into_iter().collect(),
        entries,
        attacks: vec![],
        out: request.out.join(NAME),
        device: request.device,
        command: request.command.clone(),
    };
    let figure = figure(&compare::run(&comparison, observer, stop)?)?;
    figure.write(&request.out)?;
    Ok(figure)
}

/// eps, eps/10 or 0.
fn radius(part: f32) -> &'static str {
    match part {
        1.0 => "eps",
        0.0 => "0",
        _ => "eps/10",
    }
}

/// The figure of a comparison of [`entries`].
fn figure(table: &Comparison) -> Result<FigureOutput> {
    let names = RUNS.map(|(boundary, other)| format!("{} | {}", radius(boundary), radius(other)));
    let mut csv = "rho_boundary,rho_other,clean,pgd20\n".to_owned();
    let mut bars = ["clean", "PGD-20"].map(|name| Series::new(name, []));
    let mut metrics = vec![];
    for (i, (row, (boundary, other))) in table.rows.iter().zip(RUNS).enumerate() {
        let [Some(clean), Some(pgd20)] =
            [0, 1].map(|column: usize| row.columns.get(column)?.first().copied())
        else {
            return Err(Error::file(Path::new(NAME), format!("{} has no accuracies", row.recipe)));
        };
        csv += &format!("{boundary},{other},{clean},{pgd20}\n");
        for (bars, accuracy) in bars.iter_mut().zip([clean, pgd20]) {
            bars.points.push((i as f64, accuracy));
            let (boundary, other) = (radius(boundary), radius(other));
            let name = format!("{} accuracy, boundary {boundary}, others {other} (%)", bars.name);
            metrics.push((name, accuracy));
        }
    }
    let title = "Trained with a part of the perturbation";
    let axes = Axes::percent(title, "boundary samples | others", "accuracy (%)");
    let svg = draw(&Axes { names: &names, ..axes }, PlotKind::Bars, &bars)?;
    Ok(FigureOutput { name: NAME, csv, svg, metrics })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Select;
    use crate::method;

    #[test]
    fn five_runs_with_the_settings_of_a_run() {
        let base = method::load_recipe("digits").unwrap().config;
        let five = entries(&base, Some(3)).unwrap();
        let names: Vec<String> = five.iter().map(|r| compare::display_name(&r.config)).collect();
        assert_eq!(names[1..4], ["boundary-at (0.1; 1)", "boundary-at (0; 1)", "boundary-at (1; 0.1)"]);
        assert!(five.iter().all(|r| r.config.epochs == 3 && r.config.lr == base.lr));
        assert_eq!(entries(&base, None).unwrap()[0].config.epochs, base.epochs);
        assert_eq!(entries(&base, Some(0)).unwrap_err().to_string(), "epochs = 0: must be 1 or more");
        let row = |(i, recipe): (usize, &Recipe)| compare::ComparisonRow {
            name: names[i].clone(),
            recipe: recipe.name.clone(),
            model: "resnet-mini".into(),
            select: Select::Last,
            columns: vec![vec![90.0 + i as f64], vec![50.0 + i as f64]],
            seconds: 1.0,
        };
        let rows = five.iter().enumerate().map(row).collect();
        let columns = vec!["clean".into(), "PGD-20".into()];
        let mut table =
            Comparison { dataset: "digits".into(), device: "host".into(), seeds: vec![0], columns, rows };
        let output = figure(&table).unwrap();
        assert_eq!(output.csv.lines().nth(2), Some("0.1,1,91,51"));
        let fourth = ("PGD-20 accuracy, boundary eps/10, others eps (%)".into(), 51.0);
        assert_eq!(output.metrics[3], fourth);
        assert!(
            ["boundary samples | others", "accuracy (%)", "eps/10 | eps", "PGD-20"]
                .iter()
                .all(|t| output.svg.contains(t))
        );
        table.rows[0].columns.pop();
        assert!(figure(&table).is_err());
    }
}
