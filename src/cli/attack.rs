//! `saddle attack`: adversarial images as a file.

use std::path::PathBuf;

use super::flags::{ForCrafting, Given};
use super::parameters::Parameters;
use super::{progress, text};
use crate::config::Config;
use crate::error::Result;
use crate::eval::craft::{self, CraftRequest};
use crate::files::weights::WeightFile;
use crate::run::network::weight_file;
use crate::train;

const EXAMPLES: &str = "\
The data file holds x, f32 [N,C,H,W] in [0,1] or u8 [N,H,W,C], and y, i64, i32 or u8 [N].
The result holds x_adv f32 [N,C,H,W], the clean image where the attack failed, and for each
image y, pred (the class predicted at x_adv), success (1 where that is not y) and loss (the
cross entropy at x_adv).

Examples:
  saddle attack --data X.safetensors --weights runs/NAME --attack pgd20 --out A.safetensors
  saddle attack --data X.safetensors --weights net.safetensors --model resnet18
      --attack apgd-t --norm l2 --eps 0.5 --out A.safetensors

'saddle attacks' lists the attacks.";

/// Make adversarial images of any images, and write them to a file.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The images and their labels: safetensors or .npz
    #[arg(long, value_name = "FILE", help_heading = "What and how")]
    data: PathBuf,
    /// A safetensors file, or a run directory, whose best checkpoint is taken
    #[arg(long, short, value_name = "FILE|RUN", help_heading = "What and how")]
    weights: PathBuf,
    /// The network's architecture [default: as the weights' metadata says]
    #[arg(long, value_name = "NAME", help_heading = "What and how")]
    model: Option<String>,
    /// The attack
    #[arg(long, short, value_name = "NAME", help_heading = "What and how")]
    attack: String,
    /// Where the result is written
    #[arg(long, value_name = "FILE", help_heading = "What and how")]
    out: PathBuf,
    #[command(flatten)]
    given: Given<ForCrafting>,
    #[command(flatten)]
    parameters: Parameters,
    /// Print nothing but the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let given = arguments.given.settings()?;
    let named = |name: &str| given.iter().any(|(key, _)| key == name);
    let weights = WeightFile::read(&weight_file(&arguments.weights)?)?;
    let mut config = Config::default();
    // What the network was trained for, unless it is said otherwise.
    config.apply(&weights.trained_for())?;
    config.apply(&given)?;
    train::validate(&config)?;
    let params = arguments.parameters.params(&config, named("step_size"));
    let request = CraftRequest {
        weights,
        model: arguments.model,
        data: arguments.data,
        attack: arguments.attack,
        params,
        batch: config.batch,
        device: config.device,
        out: arguments.out,
    };
    let mut observer = progress::observer(arguments.quiet, false, 0);
    let made = craft::run(&request, &mut *observer)?;
    drop(observer);
    let percent = |value: f64| format!("{value:.2} %");
    let rows = [
        ("attack", format!("{}, {} with eps {}", made.attack, config.norm, config.eps)),
        ("images", text::thousands(made.images as i64)),
        ("clean accuracy", percent(made.clean)),
        ("robust accuracy", percent(made.robust)),
        ("mean loss", format!("{:.4}", made.loss)),
        ("longest perturbation", format!("{:.6}", made.longest)),
        ("written to", request.out.display().to_string()),
    ];
    text::print(&text::table(&rows.map(|(name, value)| vec![name.to_owned(), value]), &[]))
}
