//! RAAT's figure 1 (arXiv 2604.26496): what training comes to when boundary samples, or all others, keep eps,
//! eps / 10 or nothing of their perturbation. Five trainings, by the method `boundary-at`, with the settings
//! of a run.

use super::Made;
use crate::config::Config;
use crate::config::recipe::{Recipe, Reference};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::report::plot::{Axes, PlotKind, Series, draw};
use crate::run::observer::Observer;
use crate::study::compare::{self, Table};
use crate::train;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The parts of their perturbation that boundary samples and others keep.
const PARTS: [(f32, f32); 5] = [(1.0, 1.0), (0.1, 1.0), (0.0, 1.0), (1.0, 0.1), (1.0, 0.0)];

/// The five trainings: those of `config`, but for the method and, if given, the number of epochs.
///
/// Errors: settings that do not go together.
pub fn contenders(config: &Config, epochs: Option<usize>) -> Result<Vec<Recipe>> {
    let contender = |(rho_boundary, rho_other): (f32, f32)| {
        let epochs = epochs.unwrap_or(config.epochs);
        let config =
            Config { method: "boundary-at".into(), rho_boundary, rho_other, epochs, ..config.clone() };
        train::validate(&config)?;
        let name = format!("boundary-at-{rho_boundary}-{rho_other}");
        Ok(Recipe { name, about: String::new(), config, reference: Reference::default() })
    };
    PARTS.into_iter().map(contender).collect()
}

/// Trains what has not been trained yet, each in its own folder below `out/sweep/runs`, and makes
/// `out/sweep.csv` and `.svg`.
pub fn run(
    contenders: Vec<Recipe>,
    out: &Path,
    device: DeviceChoice,
    command: &str,
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<Made> {
    let seeds = contenders.first().map(|c| c.config.seed).into_iter().collect();
    let (folder, command): (PathBuf, String) = (out.join("sweep"), command.into());
    let request = compare::Request { contenders, seeds, attacks: vec![], out: folder, device, command };
    let made = made(&compare::run(&request, observer, stop)?)?;
    made.write(out, "sweep")?;
    Ok(made)
}

/// eps, eps/10 or 0.
fn kept(part: f32) -> &'static str {
    match part {
        1.0 => "eps",
        0.0 => "0",
        _ => "eps/10",
    }
}

/// The figure of a comparison of [`contenders`].
fn made(table: &Table) -> Result<Made> {
    let names: Vec<String> =
        PARTS.iter().map(|(boundary, other)| format!("{} | {}", kept(*boundary), kept(*other))).collect();
    let mut csv = "rho_boundary,rho_other,clean,pgd20\n".to_owned();
    let mut bars = ["clean", "PGD-20"].map(|name| Series { name: name.into(), points: vec![] });
    let mut facts = vec![];
    for (i, (row, (boundary, other))) in table.rows.iter().zip(PARTS).enumerate() {
        let [Some(clean), Some(pgd20)] =
            [0, 1].map(|column: usize| row.columns.get(column)?.first().copied())
        else {
            return Err(Error::file(Path::new("sweep"), format!("{} has no accuracies", row.recipe)));
        };
        csv += &format!("{boundary},{other},{clean},{pgd20}\n");
        for (bars, (what, accuracy)) in bars.iter_mut().zip([("clean", clean), ("PGD-20", pgd20)]) {
            bars.points.push((i as f64, accuracy));
            facts.push((
                format!("{what} accuracy, boundary {}, others {} (%)", kept(boundary), kept(other)),
                accuracy,
            ));
        }
    }
    let (title, x, y) =
        ("Trained with a part of the perturbation", "boundary samples | others", "accuracy (%)");
    let svg = draw(&Axes { title, x, y, names: &names, top: Some(100.0) }, PlotKind::Bars, &bars)?;
    Ok(Made { csv, svg, facts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Select;
    use crate::method;

    #[test]
    fn five_trainings_of_a_run() {
        let base = method::load_recipe("digits").unwrap().config;
        let five = contenders(&base, Some(3)).unwrap();
        let labels: Vec<String> = five.iter().map(|r| compare::label(&r.config)).collect();
        assert_eq!(labels[1..4], ["boundary-at (0.1; 1)", "boundary-at (0; 1)", "boundary-at (1; 0.1)"]);
        assert!(five.iter().all(|r| r.config.epochs == 3 && r.config.lr == base.lr));
        assert_eq!(contenders(&base, None).unwrap()[0].config.epochs, base.epochs);
        assert_eq!(contenders(&base, Some(0)).unwrap_err().to_string(), "epochs = 0: must be 1 or more");
        let row = |(i, recipe): (usize, &Recipe)| compare::Row {
            label: labels[i].clone(),
            recipe: recipe.name.clone(),
            model: "resnet-mini".into(),
            select: Select::Last,
            columns: vec![vec![90.0 + i as f64], vec![50.0 + i as f64]],
            seconds: 1.0,
        };
        let rows = five.iter().enumerate().map(row).collect();
        let columns = vec!["clean".into(), "PGD-20".into()];
        let mut table =
            Table { dataset: "digits".into(), device: "host".into(), seeds: vec![0], columns, rows };
        let made = super::made(&table).unwrap();
        assert_eq!(made.csv.lines().nth(2), Some("0.1,1,91,51"));
        assert_eq!(made.facts[3], ("PGD-20 accuracy, boundary eps/10, others eps (%)".into(), 51.0));
        assert!(
            ["boundary samples | others", "accuracy (%)", "eps/10 | eps", "PGD-20"]
                .iter()
                .all(|t| made.svg.contains(t))
        );
        table.rows[0].columns.pop();
        assert!(super::made(&table).is_err());
    }
}
