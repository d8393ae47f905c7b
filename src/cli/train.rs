//! `saddle train`: from recipe, flags and `--set` to a job, and from the trained run to a small table.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::flags::{ForTraining, Given, Set};
use super::{progress, text};
use crate::config::recipe::{self, Recipe, Reference};
use crate::config::{Config, KEYS, Key, key};
use crate::data;
use crate::error::{Error, Result};
use crate::method;
use crate::run::dir::{RunDir, Summary};
use crate::train::{self, TrainJob, TrainedRun};

const EXAMPLES: &str = "\
Without RECIPE the job is 'digits', unless --dataset names another data set: then each
key has its own default.

Examples:
  saddle train
      PGD-AT on the embedded digits
  saddle train digits --eps 0.2 --step-size 0.05 --seed 1
      the same against larger perturbations
  saddle train pgd-at-cifar10-resnet18 --data ~/cifar-10-batches-bin
      a benchmark recipe
  saddle train --dataset cifar10 --data ~/cifar-10-batches-bin --model preact-resnet18
      a job of your own; eps and step could follow as 8/255, 0.0314 or,
      with --pixel-units, 8
  saddle train my.toml --set momentum=0.8
      a recipe of your own; 'saddle recipes digits > my.toml' makes one to change
  saddle train --resume runs/NAME
      go on after Ctrl-C

Ctrl-C stops after the current step and keeps a checkpoint; a second one stops at once.";

/// Train a network.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A job with a name ('saddle recipes' lists them) or a .toml file; flags change parts of it
    recipe: Option<String>,
    #[command(flatten)]
    given: Given<ForTraining>,
    #[command(flatten)]
    _set: Set,
    /// Go on with the interrupted run in this run directory, with its own settings; only --device may differ
    #[arg(long, value_name = "DIR", conflicts_with = "recipe", help_heading = "Running")]
    resume: Option<PathBuf>,
    /// Print nothing but the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
    /// Print one JSON object a line on standard output: started, evaluating, epoch, note, result; and step
    /// with --log-every
    #[arg(long, help_heading = "Running")]
    json: bool,
}

/// Keys that may differ from a recipe without making its reference numbers meaningless.
const NEUTRAL: &[&str] = &["device", "seed", "data", "out", "checkpoint_every", "log_every"];

/// Runs the command; `line` is how it was called.
pub fn run(arguments: Arguments, line: String) -> Result<()> {
    let settings = arguments.given.settings()?;
    let (job, changed) = match &arguments.resume {
        Some(dir) => resumed(dir, &settings, line)?,
        None => fresh(arguments.recipe.as_deref(), &settings, line)?,
    };
    let stop = stop_on_interrupt("without a checkpoint");
    let mut observer = progress::observer(arguments.quiet, arguments.json, job.config.log_every);
    let trained = train::run(&job, &mut *observer, &stop)?;
    drop(observer);
    if arguments.json {
        return text::print(&(text::to_json(&json_result(&job, &changed, &trained), false)? + "\n"));
    }
    text::print(&result(&job, &changed, &trained))
}

/// A new job, and the keys that differ from its recipe.
fn fresh(
    name: Option<&str>,
    settings: &[(String, String)],
    command: String,
) -> Result<(TrainJob, Vec<&'static str>)> {
    let recipe = match (name, dataset_of(settings)?) {
        (Some(name), _) => method::load_recipe(name)?,
        (None, None | Some("digits")) => method::load_recipe(recipe::DEFAULT)?,
        (None, Some(_)) => Recipe {
            name: "custom".into(),
            about: String::new(),
            config: Config::default(),
            reference: Reference::default(),
        },
    };
    let mut config = recipe.config.clone();
    method::apply(&mut config, settings)?;
    train::validate(&config)?;
    let changed = differences(&config, &recipe.config);
    Ok((
        TrainJob { config, recipe: recipe.name, reference: recipe.reference, command, resume: None },
        changed,
    ))
}

/// The data set that the settings name last, by its own name.
fn dataset_of(settings: &[(String, String)]) -> Result<Option<&'static str>> {
    let named = settings.iter().rev().find(|(name, _)| key(name).is_ok_and(|key| key.name == "dataset"));
    named.map(|(_, name)| data::find(name).map(|source| source.name)).transpose()
}

/// The job of an interrupted run.
fn resumed(
    dir: &Path,
    settings: &[(String, String)],
    command: String,
) -> Result<(TrainJob, Vec<&'static str>)> {
    for (name, value) in settings {
        if key(name)?.name != "device" {
            let problem = "a resumed run keeps its settings but for --device; start a new run for others";
            return Err(Error::value(name, value, problem));
        }
    }
    let run = RunDir::open(dir)?;
    let mut config = run.config()?;
    config.apply(settings)?;
    config.out = Some(dir.to_owned());
    train::validate(&config)?;
    let name = run.recipe().to_owned();
    let recipe = method::load_recipe(&name).ok();
    let changed = recipe.as_ref().map(|recipe| differences(&config, &recipe.config)).unwrap_or_default();
    let reference = recipe.map(|recipe| recipe.reference).unwrap_or_default();
    Ok((TrainJob { config, recipe: name, reference, command, resume: Some(run) }, changed))
}

/// The keys that make the result of `config` another one than that of `recipe`.
fn differences(config: &Config, recipe: &Config) -> Vec<&'static str> {
    let differ = |key: &&Key| !NEUTRAL.contains(&key.name) && (key.get)(config) != (key.get)(recipe);
    KEYS.iter().filter(differ).map(|key| key.name).collect()
}

/// A flag that the first Ctrl-C raises; the second ends the program.
pub(super) fn stop_on_interrupt(at_once: &'static str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        text::tell(&format!("\nstopping; Ctrl-C again stops at once, {at_once}"));
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        text::tell(&format!("note: Ctrl-C stops at once, {at_once}: {error}"));
    }
    stop
}

/// The result for people.
fn result(job: &TrainJob, changed: &[&str], trained: &TrainedRun) -> String {
    let (summary, reference) = (&trained.summary, &job.reference);
    let known = reference.clean.is_some() || reference.pgd20.is_some();
    let cells = |label: &str, value: String, expected: Option<&String>| {
        let mut row = vec![label.to_owned(), value];
        row.extend(expected.map(|expected| format!("{expected} %")));
        row
    };
    let mut rows = Vec::new();
    if known {
        rows.push(vec!["result".into(), "here".into(), format!("{} should give", job.recipe)]);
    }
    rows.push(cells("clean accuracy", format!("{:.2} %", summary.clean_acc), reference.clean.as_ref()));
    rows.push(cells("PGD-20 accuracy", format!("{:.2} %", summary.pgd20_acc), reference.pgd20.as_ref()));
    let text = text::table(&rows, &[1, 2]);
    let mut facts = vec![
        vec![
            "training".into(),
            format!("{} images/s on {}", text::number(summary.images_per_s), summary.device),
        ],
        vec!["time".into(), text::duration(summary.seconds)],
    ];
    if known && !changed.is_empty() {
        facts.push(vec!["not the recipe's".into(), changed.join(", ")]);
    }
    facts.push(checkpoint_fact(summary));
    if let Some(source) = reference.source.as_ref().filter(|_| known) {
        facts.push(vec!["reference".into(), source.clone()]);
    }
    let dir = trained.dir.display().to_string();
    facts.push(vec!["run directory".into(), dir.clone()]);
    facts.push(vec![
        "evaluate with".into(),
        format!("saddle eval --weights {} --attack pgd20,fgsm", text::quoted(&dir)),
    ]);
    text + &text::table(&facts, &[])
}

/// Which checkpoint the result is of. One that was chosen by test images is labelled so.
fn checkpoint_fact(summary: &Summary) -> Vec<String> {
    let text = match summary.extra.get("best") {
        None => "the last epoch's".to_owned(),
        Some(best) => {
            let images = match best["select"].as_str() {
                Some("test") => "TEST images, the papers' protocol",
                _ => "held-out images",
            };
            let last = summary.extra.get("last").and_then(|last| last["pgd20_acc"].as_f64());
            let last = last
                .map(|percent| format!("; the last epoch's has {percent:.2} % PGD-20"))
                .unwrap_or_default();
            format!("best of epoch {}, chosen by its robust accuracy on {images}{last}", best["epoch"])
        }
    };
    vec!["checkpoint".into(), text]
}

/// The result for programs.
fn json_result(job: &TrainJob, changed: &[&str], trained: &TrainedRun) -> Value {
    let reference = &job.reference;
    json!({
        "event": "result",
        "recipe": job.recipe,
        "changed": changed,
        "summary": trained.summary,
        "reference": {"clean": reference.clean, "pgd20": reference.pgd20, "aa": reference.aa, "source": reference.source},
        "dir": trained.dir,
    })
}
