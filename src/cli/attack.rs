//! `saddle attack`: adversarial examples as a file.

use std::path::PathBuf;

use indicatif::HumanCount;

use super::flags::{AttackFlags, AttackKeys, GROUP, KeyFlags};
use super::{Run, progress, text};
use crate::attack;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::eval::craft::{self, CraftRequest};
use crate::files::weights::WeightFile;
use crate::method;
use crate::run::network::weight_file;
use crate::train;

const EXAMPLES: &str = "\
The data file holds x, f32 [N,C,H,W] in [0,1] or u8 [N,H,W,C], and y, i64, i32 or u8 [N].
The result holds x_adv f32 [N,C,H,W], the attack's images also where it failed, and for each
image y, pred (the class predicted at x_adv), success (1 if pred is not y) and loss (the
cross-entropy at x_adv).

Examples:
  saddle attack --data X.safetensors --weights runs/NAME --attack pgd20 --out A.safetensors
  saddle attack --data X.safetensors --weights net.safetensors --model resnet18
      --attack apgd-t --norm l2 --eps 0.5 --out A.safetensors

'saddle attacks' lists the attacks.";

/// Make adversarial examples of given images, and write them to a file.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct AttackArgs {
    /// The images and their labels: safetensors or .npz
    #[arg(long, value_name = "FILE", help_heading = GROUP)]
    data: PathBuf,
    /// A safetensors file, or a run directory with its best checkpoint
    #[arg(long, short, value_name = "FILE|RUN", help_heading = GROUP)]
    weights: PathBuf,
    /// The network's architecture [default: the one in the weights' metadata]
    #[arg(long, value_name = "NAME", help_heading = GROUP)]
    model: Option<String>,
    /// The attack
    #[arg(long, short, value_name = "NAME", help_heading = GROUP)]
    attack: String,
    /// The file to write the result to
    #[arg(long, value_name = "FILE", help_heading = GROUP)]
    out: PathBuf,
    #[command(flatten)]
    keys: KeyFlags<AttackKeys>,
    #[command(flatten)]
    parameters: AttackFlags,
    /// Keep the clean image where the attack fails
    #[arg(long, help_heading = GROUP)]
    keep_clean: bool,
    /// Print only the result
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,
}

impl Run for AttackArgs {
    fn run(self, _: String) -> Result<()> {
        let settings = self.keys.settings()?;
        let attack = attack::spelling(&self.attack);
        if attack.starts_with("autoattack") {
            let problem = "several attacks in a protocol; saddle eval --attack autoattack --save-adv FILE \
                           writes its images";
            return Err(Error::value("attack", &self.attack, problem));
        }
        let weights = WeightFile::read(&weight_file(&self.weights)?)?;
        let mut config = Config::default();
        // The threat model of the network's training, unless the flags say otherwise.
        weights.in_metadata(config.apply(&weights.trained_for()))?;
        method::apply(&mut config, &settings)?;
        train::validate(&config)?;
        let request = CraftRequest {
            weights,
            model: self.model,
            data: self.data,
            params: self.parameters.params(std::slice::from_ref(&attack), &config, &settings)?,
            attack,
            batch: config.batch,
            device: config.device,
            keep_clean: self.keep_clean,
            out: self.out,
        };
        let mut observer = progress::observer(self.quiet, false, 0);
        let crafted = craft::run(&request, &mut *observer)?;
        drop(observer);
        let percent = |value: f64| format!("{value:.2} %");
        let rows = [
            ("attack", format!("{}, {} with eps {}", crafted.attack, config.norm, config.eps)),
            ("images", HumanCount(crafted.images as u64).to_string()),
            ("clean accuracy", percent(crafted.clean)),
            ("accuracy on x_adv", percent(crafted.adv)),
            ("right clean and on x_adv", percent(crafted.robust)),
            ("mean loss", format!("{:.4}", crafted.loss)),
            ("longest perturbation", format!("{:.6}", crafted.longest)),
            ("written to", request.out.display().to_string()),
        ];
        text::print(&text::facts(rows))
    }
}
