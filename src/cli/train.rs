//! `saddle train`: from recipe, flags and `--set` to a run, and from its result to a table.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flags::{KeyFlags, SetFlag, TrainKeys};
use super::interrupt::stop_on_interrupt;
use super::{Run, profile, progress, text};
use crate::config::key;
use crate::config::recipe::{self, Recipe, Reference};
use crate::data;
use crate::error::{Error, Result};
use crate::method;
use crate::run::dir::{RunDir, Summary};
use crate::train::{self, TrainJob, TrainedRun, changed_keys};

const EXAMPLES: &str = "\
Without RECIPE, the recipe is 'digits'. If --dataset names another data set, there is no
recipe, and every key has its default.

Examples:
  saddle train
      PGD-AT on the embedded digits
  saddle train digits --eps 0.2 --step-size 0.05 --seed 1
      the same with larger perturbations
  saddle train pgd-at-cifar10-resnet18 --data ~/cifar-10-batches-bin
      a recipe for a benchmark
  saddle train --dataset cifar10 --data ~/cifar-10-batches-bin --model preact-resnet18
      without a recipe; eps and step_size are written as 8/255, as 0.0314 or, with
      --pixel-units, as 8
  saddle train my.toml --set momentum=0.8
      a recipe of your own; 'saddle recipes digits > my.toml' makes one to edit
  saddle train --resume runs/NAME
      continue after Ctrl-C

Ctrl-C, SIGTERM and SIGHUP stop after the current step and save a checkpoint; a second Ctrl-C
stops at once.";

/// Train a network.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    /// The name of a recipe ('saddle recipes' lists them) or a .toml file; flags override its keys
    recipe: Option<String>,
    #[command(flatten)]
    keys: KeyFlags<TrainKeys>,
    #[command(flatten)]
    _set: SetFlag,
    /// Continue the interrupted run in this run directory with its own settings; only --device and the place
    /// of its --data may differ
    #[arg(long, value_name = "DIR", conflicts_with = "recipe", help_heading = "Running")]
    resume: Option<PathBuf>,
    /// Train nothing: list the launches of one step in order, what bounds each on the device, and the memory
    #[arg(long, conflicts_with = "resume", help_heading = "Running")]
    explain: bool,
    /// Print only the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
    /// Print JSON lines to standard output: started, evaluating, epoch, note, result; with --log-every also
    /// step
    #[arg(long, help_heading = "Running")]
    json: bool,
}

/// The name of a recipe that consists of the defaults.
const NO_RECIPE: &str = "custom";

impl Run for TrainArgs {
    fn run(self, command_line: String) -> Result<()> {
        let settings = self.keys.settings()?;
        if self.explain {
            let job = Job::new(self.recipe.as_deref(), &settings, command_line)?;
            return profile::print_explanation(&job.train, false, self.json);
        }
        let job = match &self.resume {
            Some(dir) => Job::resumed(dir, &settings, command_line)?,
            None => Job::new(self.recipe.as_deref(), &settings, command_line)?,
        };
        let stop = stop_on_interrupt("without a checkpoint");
        let mut observer = progress::observer(self.quiet, self.json, job.train.config.log_every);
        let trained = train::run(&job.train, &mut *observer, &stop)?;
        drop(observer);
        if self.json {
            text::print_json_line(&job.record(&trained))
        } else {
            text::print(&job.table(&trained))
        }
    }
}

/// A training job, compared with its recipe.
struct Job {
    train: TrainJob,
    /// The keys whose values differ from the recipe's.
    changed: Vec<&'static str>,
}

impl Job {
    /// A new run of a recipe; without a name, of the default recipe or, for another data set, of none.
    fn new(name: Option<&str>, settings: &[(String, String)], command: String) -> Result<Job> {
        let recipe = match (name, dataset_of(settings)?) {
            (Some(name), _) => method::load_recipe(name)?,
            (None, None | Some("digits")) => method::load_recipe(recipe::DEFAULT)?,
            (None, Some(_)) => Recipe { name: NO_RECIPE.into(), ..Recipe::default() },
        };
        let mut config = recipe.config.clone();
        method::apply(&mut config, settings)?;
        train::validate(&config)?;
        let changed = changed_keys(&config, &recipe.config);
        let reference = if changed.is_empty() { recipe.reference } else { Reference::default() };
        let recipe = recipe.name;
        Ok(Job { train: TrainJob { config, recipe, reference, command, resume: None }, changed })
    }

    /// The rest of an interrupted run.
    fn resumed(dir: &Path, settings: &[(String, String)], command: String) -> Result<Job> {
        for (name, value) in settings {
            if !["device", "data"].contains(&key(name)?.name) {
                let problem = "a resumed run keeps its settings but for --device and --data; start a new run \
                               for others";
                return Err(Error::value(name, value, problem));
            }
        }
        let run = RunDir::open(dir)?;
        let mut config = run.config()?;
        method::apply(&mut config, settings)?;
        config.out = Some(dir.to_owned());
        let record = dir.join("run.json");
        train::validate(&config).map_err(|error| Error::file(&record, error.to_string()))?;
        let name = run.recipe().to_owned();
        let recipe = method::load_recipe(&name).ok();
        let changed = recipe.as_ref().map(|recipe| changed_keys(&config, &recipe.config)).unwrap_or_default();
        let reference = recipe.filter(|_| changed.is_empty()).map(|r| r.reference).unwrap_or_default();
        let train = TrainJob { config, recipe: name, reference, command, resume: Some(run) };
        Ok(Job { train, changed })
    }

    /// The result as a table.
    fn table(&self, trained: &TrainedRun) -> String {
        let Job { train: job, changed } = self;
        let (summary, reference) = (&trained.summary, &job.reference);
        let known = reference.clean.is_some() || reference.pgd20.is_some();
        let accuracy = |name: &str, percent: f64, reference: &Option<String>| {
            let mut row = vec![name.to_owned(), format!("{percent:.2} %")];
            row.extend(reference.as_ref().map(|reference| format!("{reference} %")));
            row
        };
        let mut accuracies = vec![
            accuracy("clean accuracy", summary.clean_acc, &reference.clean),
            accuracy("PGD-20 accuracy", summary.pgd20_acc, &reference.pgd20),
        ];
        let dir = trained.dir.display().to_string();
        let speed = format!("{} images/s on {}", text::number(summary.images_per_s), summary.device);
        let mut facts = vec![("training", speed), ("time", text::duration(summary.seconds))];
        if known {
            let headings = ["".into(), "this run".into(), format!("{} (reference)", job.recipe)];
            accuracies.insert(0, headings.to_vec());
        }
        let changed_recipe = !changed.is_empty() && job.recipe != NO_RECIPE;
        facts.extend(changed_recipe.then(|| ("changed keys", changed.join(", "))));
        facts.push(("checkpoint", checkpoint_origin(summary)));
        facts.extend(reference.source.clone().filter(|_| known).map(|source| ("reference", source)));
        let evaluate = format!("saddle eval --weights {} --attack pgd20,fgsm", text::quoted(&dir));
        facts.extend([("run directory", dir), ("evaluate with", evaluate)]);
        text::table(&accuracies, &[1, 2]) + &text::facts(facts)
    }

    /// The result as JSON.
    fn record(&self, trained: &TrainedRun) -> Value {
        json!({
            "event": "result",
            "recipe": self.train.recipe,
            "changed": self.changed,
            "summary": trained.summary,
            "reference": self.train.reference,
            "dir": trained.dir,
        })
    }
}

/// The training job of a recipe or of none, with these settings.
pub fn job(recipe: Option<&str>, settings: &[(String, String)], command: String) -> Result<TrainJob> {
    Job::new(recipe, settings, command).map(|job| job.train)
}

/// The registered name of the data set that the settings name last.
fn dataset_of(settings: &[(String, String)]) -> Result<Option<&'static str>> {
    let named = settings.iter().rev().find(|(name, _)| key(name).is_ok_and(|key| key.name == "dataset"));
    named.map(|(_, name)| data::find(name).map(|source| source.name)).transpose()
}

/// How the checkpoint of the result was selected; selection by test images is marked.
fn checkpoint_origin(summary: &Summary) -> String {
    let Some(best) = summary.extra.get("best") else { return "last epoch".to_owned() };
    let images = match best["select"].as_str() {
        Some("test") => "TEST images, as in the papers",
        _ => "held-out images",
    };
    let last = summary.extra.get("last").and_then(|last| last["pgd20_acc"].as_f64());
    let last = last.map(|percent| format!("; last epoch: {percent:.2} % PGD-20")).unwrap_or_default();
    format!("epoch {}, selected by robust accuracy on {images}{last}", best["epoch"])
}
