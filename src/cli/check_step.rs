//! `saddle check-step`: one training step on given data, to check any implementation against another.

use std::path::PathBuf;

use super::flags::{Set, sets};
use super::text;
use crate::config::{Config, key};
use crate::error::{Error, Result};
use crate::files::tensor_file::Values;
use crate::method;
use crate::train::check_step::{self, StepCheck};

const EXAMPLES: &str = "\
The batch file holds x f32 [N,C,H,W] in [0,1] and y i64 [N], and may hold x2 (the second
view), noise and noise2 (the attack begins at x + noise) and mix (DICAR's r). The result
holds loss, loss.TERM, x_adv, x_adv2, margin.clean, margin.adv, margin.reduced, boundary,
grad.PARAMETER and buffer.NAME, as far as the method has them. Images are normalised as
the weights' metadata say, unless --set mean=... and --set std=... say it.

Examples:
  saddle check-step --method trades --model resnet-mini --weights W.safetensors
      --batch B.safetensors --out O.safetensors --set beta=6 --set eps=0.1 --set step_size=0.025
  saddle check-step --method raat# --model preact-resnet18 --weights W.safetensors
      --wa-weights A.safetensors --batch B.safetensors --out O.safetensors --set epoch=105";

/// Compute one training step on given data, and write its loss, images, gradients and statistics.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The training method
    #[arg(long, value_name = "NAME")]
    method: String,
    /// The network's architecture
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Its weights: safetensors with PyTorch's names
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The averaged network's weights, for methods that have one [default: the same]
    #[arg(long, value_name = "FILE")]
    wa_weights: Option<PathBuf>,
    /// The images: safetensors or .npz
    #[arg(long, value_name = "FILE")]
    batch: PathBuf,
    /// Where the result is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where it is computed
    #[arg(long, value_name = "auto|host|cuda|cuda:N", default_value = "auto")]
    device: String,
    #[command(flatten)]
    set: Set,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { method, model, weights, wa_weights, batch, out, device, set } = arguments;
    let mut settings =
        vec![("method".to_owned(), method), ("model".to_owned(), model), ("device".to_owned(), device)];
    settings.extend(sets(&set)?);
    // The epoch is no key: a run counts it.
    let mut epoch = 0;
    for (_, text) in settings.iter().filter(|(name, _)| name == "epoch") {
        epoch = text.parse().map_err(|_| Error::value("epoch", text, "not a whole number of 0 or more"))?;
    }
    settings.retain(|(name, _)| name != "epoch");
    let normalised =
        settings.iter().any(|(name, _)| key(name).is_ok_and(|key| ["mean", "std"].contains(&key.name)));
    let mut config = Config::default();
    method::apply(&mut config, &settings)?;
    let tensors = check_step::run(&StepCheck {
        config,
        normalised,
        epoch,
        weights,
        wa_weights,
        batch,
        out: out.clone(),
    })?;
    let mut rows = Vec::new();
    for (name, values) in tensors.iter().filter(|(name, _)| name.starts_with("loss")) {
        if let Values::F32(_, values) = values {
            rows.push(vec![name.clone(), values.iter().map(|v| v.to_string()).collect()]);
        }
    }
    rows.push(vec!["written".into(), format!("{} tensors to {}", tensors.len(), out.display())]);
    text::print(&text::table(&rows, &[]))
}
