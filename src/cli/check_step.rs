//! `saddle check-step`: one training step on given data, to compare implementations.

use std::path::PathBuf;

use super::flags::{DeviceFlag, SetFlag};
use super::{Run, text};
use crate::config::{Config, key};
use crate::error::{Error, Result};
use crate::files::tensor_file::Values;
use crate::method;
use crate::train::check_step::{self, StepCheck};

const EXAMPLES: &str = "\
The batch file holds x f32 [N,C,H,W] in [0,1] and y i64 [N], and may hold x2 (the second
view), noise and noise2 (the attack starts at x + noise) and mix (DICAR's r). The result
holds those of loss, loss.TERM, x_adv, x_adv2, margin.clean, margin.adv, margin.reduced,
boundary, grad.PARAMETER and buffer.NAME that the method has. Images are normalised as in
the weights' metadata, or with --set mean=... and --set std=...
Convolutions multiply in float32 unless --set precision=... says otherwise.

Examples:
  saddle check-step --method trades --model resnet-mini --weights W.safetensors
      --batch B.safetensors --out O.safetensors --set beta=6 --set eps=0.1 --set step_size=0.025
  saddle check-step --method raat# --model preact-resnet18 --weights W.safetensors
      --wa-weights A.safetensors --batch B.safetensors --out O.safetensors --set epoch=105";

/// Compute one training step on given data, and write its losses, images, gradients and statistics.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckStepArgs {
    /// The training method
    #[arg(long, value_name = "NAME")]
    method: String,
    /// The network's architecture
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The weights: safetensors with PyTorch's names
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The weights of the averaged network, for methods that have one [default: the same]
    #[arg(long, value_name = "FILE")]
    wa_weights: Option<PathBuf>,
    /// The images: safetensors or .npz
    #[arg(long, value_name = "FILE")]
    batch: PathBuf,
    /// The file to write the result to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceFlag,
    #[command(flatten)]
    set: SetFlag,
}

impl Run for CheckStepArgs {
    fn run(self, _: String) -> Result<()> {
        let mut settings = vec![("method".to_owned(), self.method), ("model".to_owned(), self.model)];
        settings.push(("device".to_owned(), self.device.choice()?.to_string()));
        settings.extend(self.set.settings()?);
        let epoch = take_epoch(&mut settings)?;
        let normalised =
            settings.iter().any(|(name, _)| key(name).is_ok_and(|key| ["mean", "std"].contains(&key.name)));
        let mut config = Config::default();
        method::apply(&mut config, &settings)?;
        let out = self.out.display().to_string();
        let tensors = check_step::run(&StepCheck {
            config,
            normalised,
            epoch,
            weights: self.weights,
            wa_weights: self.wa_weights,
            batch: self.batch,
            out: self.out,
        })?;
        let losses = tensors.iter().filter_map(|(name, values)| match values {
            Values::F32(_, values) if name.starts_with("loss") => {
                Some((name.as_str(), values.iter().map(f32::to_string).collect()))
            }
            _ => None,
        });
        let written = ("written", format!("{} tensors to {out}", tensors.len()));
        text::print(&text::facts(losses.chain([written])))
    }
}

/// Removes `epoch` from the settings, which is not a key: a run counts it. The default is 0.
fn take_epoch(settings: &mut Vec<(String, String)>) -> Result<usize> {
    let mut epoch = 0;
    for (_, text) in settings.extract_if(.., |(name, _)| name == "epoch") {
        epoch = text.parse().map_err(|_| Error::value("epoch", text, "not a whole number of 0 or more"))?;
    }
    Ok(epoch)
}
