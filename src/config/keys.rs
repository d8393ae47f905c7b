//! The table of hyper-parameters, one documented line each. The command line's help, recipe keys, `--set
//! key=value`, the checks of ranges, `run.json` and `saddle keys` all come from it.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::options::{
    Augment, Averaging, Base, Graphs, JointAttack, LinearOn, LrStepAt, PrecisionChoice, ScheduleKind, Select,
    Stage, WaMode, default_eps,
};
use super::range::{above, check, inside};
use super::value::{Magnitude, Value, text_of};
use crate::attack::{Norm, Start};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::nn::BnMode;
use crate::ops::augment::Padding;
use crate::ops::contrastive::ContrastSet;
use crate::ops::split::Variant;

/// One hyper-parameter, as the table describes it.
pub struct Key {
    /// Its name; hyphens may replace underscores wherever it is read.
    pub name: &'static str,
    /// The heading it belongs under; the keys of [`METHOD_GROUP`] are read by the methods that list them.
    pub group: &'static str,
    /// The papers' symbol for it, or empty; no two keys share one.
    pub symbol: &'static str,
    /// Its meaning, in one line.
    pub help: &'static str,
    /// The form of a value: `NUMBER`, `linf|l2`.
    pub metavar: fn() -> String,
    /// Its value in a configuration, as recorded.
    pub get: fn(&Config) -> Json,
    /// Reads its value from text; errors are [`Error::Value`] and [`Error::Unknown`].
    pub set: fn(&mut Config, &str) -> Result<()>,
    /// Checks that its value lies in its range; the error is an [`Error::Value`].
    pub check: fn(&Config) -> Result<()>,
}

impl Key {
    /// Its value in `config` as text that can be given back: `8/255`, `101,106`, `none`.
    pub fn text(&self, config: &Config) -> String {
        text_of(&(self.get)(config)).unwrap_or_default()
    }

    /// The text of its default.
    pub fn default_text(&self) -> String {
        self.text(&Config::default())
    }
}

/// Writes [`Config`], its defaults and [`KEYS`] from `/// help` lines and `name ["symbol"]: Type = default,
/// in range;` under headings. A range is one of whole numbers: `0..=1`, `0..1`, `1..`, `above(0)`, `inside(0,
/// 1)`.
macro_rules! keys {
    ($($group:literal { $(
        $(#[doc = $help:literal])+
        $name:ident $([$symbol:literal])?: $kind:ty = $default:expr $(, in $range:expr)?;
    )+ })+) => {
        /// Everything that decides what a run computes and where it leaves it; the defaults are the benchmark
        /// recipe's.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($($(#[doc = $help])+ pub $name: $kind,)+)+
        }

        impl Default for Config {
            fn default() -> Config {
                Config { $($($name: $default,)+)+ }
            }
        }

        /// Every hyper-parameter, in the order of help and records.
        pub static KEYS: &[Key] = &[$($(Key {
            name: stringify!($name),
            group: $group,
            symbol: concat!("" $(, $symbol)?),
            help: concat!($($help),+).trim_ascii_start(),
            metavar: <$kind as Value>::metavar,
            get: |config| config.$name.json(),
            set: |config, text| {
                config.$name = <$kind as Value>::read(stringify!($name), text, config.pixel_units)?;
                Ok(())
            },
            check: |_config| {
                $(check(stringify!($name), &_config.$name, $range)?;)?
                Ok(())
            },
        },)+)+];
    };
}

keys! {
    "Job" {
        /// The training method.
        method: String = "pgd-at".into();
        /// The data set to train and test on.
        dataset: String = "digits".into();
        /// The folder (or file) of the data set; embedded data sets need none.
        data: Option<PathBuf> = None;
        /// The weights that the run starts from: a file or a run directory; random ones unless given.
        init: Option<PathBuf> = None;
        /// The network's architecture.
        model: String = "resnet-mini".into();
        /// The device to run on; auto takes a usable GPU, else the CPU.
        device: DeviceChoice = DeviceChoice::Auto;
        /// The numbers that convolutions multiply in training; auto takes bf16 on a GPU with tensor cores for
        /// it, else f32. Accuracies are always measured in f32.
        precision: PrecisionChoice = PrecisionChoice::Auto;
        /// Whether a training step is captured once an epoch and replayed, as one CUDA graph on a GPU; auto:
        /// on a GPU. Results are the same.
        graphs: Graphs = Graphs::Auto;
        /// The seed of every random choice.
        seed: u64 = 0, in 0..;
        /// The run directory; a new one under runs/ unless given.
        out: Option<PathBuf> = None;
    }
    "Threat model and inner attack" {
        /// The norm of a perturbation; another norm brings its default eps and step_size.
        norm: Norm = Norm::Linf;
        /// The largest perturbation of pixels, which lie between 0 and 1; l2: 128/255.
        eps ["ε"]: Magnitude = default_eps(Norm::Linf), in 0..;
        /// The length of one attack step; l2: 15/255.
        step_size ["α"]: Magnitude = Magnitude::fraction(2.0, 255.0), in 0..;
        /// Attack steps in training.
        attack_steps ["K"]: usize = 10, in 0..;
        /// The start of the attack: the method's, uniform in the eps-ball, or the clean image.
        attack_start: Option<Start> = None;
        /// Batch norm inside the attack: the method's, as in training, batch statistics with frozen running
        /// ones, or running statistics.
        attack_bn: Option<BnMode> = None;
        /// Plain numbers given for eps and step_size along with this count 1/255: 8 means 8/255.
        pixel_units: bool = false;
    }
    "Method" {
        /// Where a paper and its released code differ: as the code does, or as the paper says.
        variant: Variant = Variant::Code;
        /// rpat: the objective that robust perception is added to.
        base: Base = Base::PgdAt;
        /// The weight of the divergence between clean and adversarial predictions.
        beta ["β"]: f32 = 6.0, in 0..;
        /// The weight of the method's own regularisation term.
        lambda ["λ"]: f32 = 1.0, in 0..;
        /// rpat on consistency-at: the weight of that base's divergence.
        base_lambda: f32 = 1.0, in 0..;
        /// The temperature of a Jensen-Shannon divergence.
        temperature ["T"]: f32 = 0.5, in above(0);
        /// The fraction of its perturbation that a boundary sample keeps.
        rho ["ρ"]: f32 = 0.1, in 0..=1;
        /// RPAT: the weight of the clean image in the intermediate image.
        a ["a"]: f32 = 0.5, in inside(0, 1);
        /// RPAT: the epoch, counted from 0, in which its term begins.
        rpat_start_epoch: usize = 0, in 0..;
        /// TRADES: passes in train mode, 3 as in the benchmark code or 2.
        trades_passes: usize = 3, in 2..=3;
        /// TRADES and MART: standard deviation of the attack's start.
        start_sigma ["σ"]: f32 = 0.001, in 0..;
        /// DICAR: both parameters of the mixture's beta distribution.
        mix_beta: f64 = 0.75, in above(0);
        /// The averaged network as a teacher: as in the released code in train mode until its first
        /// evaluation, or always in eval mode.
        wa_mode: WaMode = WaMode::Code;
        /// rebat++: the epoch, counted from 0, in which the stronger attack begins.
        late_start_epoch: usize = 100, in 0..;
        /// rebat++: eps from then on.
        late_eps: Magnitude = Magnitude::fraction(10.0, 255.0), in 0..;
        /// rebat++: attack steps from then on.
        late_steps: usize = 12, in 1..;
        /// AFA: the temperature of the contrastive loss.
        tau ["τ"]: f32 = 0.1, in above(0);
        /// AFA: the images that an anchor is compared with, the clean batch or both batches (our reading).
        contrast: ContrastSet = ContrastSet::Clean;
        /// afa-trades: the loss that makes the adversarial images, AFA's or TRADES' (our reading).
        joint_attack: JointAttack = JointAttack::Afa;
        /// AFA: the part that is trained, the features and then the classifier, or one of them; linear needs
        /// a backbone, from init.
        stage: Stage = Stage::Auto;
        /// AFA: the last epochs, which train the classifier.
        linear_epochs: usize = 10, in 0..;
        /// AFA: the images that the classifier is trained on (our reading).
        linear_on: LinearOn = LinearOn::Adv;
        /// boundary-at: the fraction of their perturbation that boundary samples keep.
        rho_boundary: f32 = 1.0, in 0..=1;
        /// boundary-at: the fraction that all others keep.
        rho_other: f32 = 1.0, in 0..=1;
    }
    "Weights: perturbation and average" {
        /// Adversarial weight perturbation: its length as a fraction of that of each layer's weights; 0:
        /// none.
        awp_gamma ["γ"]: f32 = 0.0, in 0..;
        /// Adversarial weight perturbation: the epoch, counted from 0, in which it begins.
        awp_start_epoch: usize = 0, in 0..;
        /// A second network that averages the first, at each step or at the ends of epochs, and is evaluated
        /// in its place.
        average: Averaging = Averaging::None;
        /// The epoch, counted from 0, in which averaging (and in ReBAT's family the teaching) begins; before,
        /// the average is a copy.
        average_start_epoch: usize = 105, in 0..;
        /// ema: the fraction of itself that the average keeps at each step.
        average_decay: f32 = 0.999, in 0..1;
    }
    "Optimiser" {
        /// Passes over the training images.
        epochs: usize = 110, in 1..;
        /// Images a step; the last, partial batch is kept.
        batch ["B"]: usize = 128, in 1..;
        /// The highest learning rate of SGD.
        lr ["η"]: f64 = 0.1, in 0..;
        /// The learning-rate schedule.
        schedule: ScheduleKind = ScheduleKind::Multistep;
        /// multistep: the epochs, counted from 1, that begin with a lower rate.
        milestones: Vec<usize> = vec![101, 106];
        /// multistep: the factor of the rate at each milestone.
        lr_gamma: f64 = 0.1, in above(0);
        /// cyclic: the fraction of the run after which the rate is highest.
        cyclic_peak: f64 = 0.4, in inside(0, 1);
        /// When in a step the schedule is read: at its beginning or, as in ReBAT's code, at its end.
        lr_step_at: LrStepAt = LrStepAt::Begin;
        /// Momentum of SGD.
        momentum ["μ"]: f32 = 0.9, in 0..1;
        /// Weight decay of SGD, on every parameter.
        weight_decay: f32 = 5e-4, in 0..;
    }
    "Images" {
        /// Random changes of training images.
        augment: Augment = Augment::CropFlip;
        /// crop and crop-flip: pixels added on each side before cropping.
        crop_padding: usize = 4, in 0..;
        /// crop and crop-flip: the pixels that are added, black or the mirrored image.
        padding_mode: Padding = Padding::Zero;
        /// Per channel, subtracted inside the network; none: no normalisation.
        mean: Vec<f32> = Vec::new();
        /// Per channel, divided by inside the network.
        std: Vec<f32> = Vec::new(), in above(0);
    }
    "Selection and evaluation" {
        /// The images that choose the best epoch, by robust accuracy: held-out ones, the test images (the
        /// papers' protocol), or none.
        select: Select = Select::Heldout;
        /// heldout: training images set aside for it.
        held_out: usize = 1000, in 0..;
        /// Attack steps when choosing.
        select_steps: usize = 10, in 0..;
        /// Epochs from one choice to the next.
        eval_every: usize = 1, in 1..;
    }
    "Records" {
        /// Epochs from one numbered checkpoint to the next; 0: only best and last.
        checkpoint_every: usize = 0, in 0..;
        /// Steps from one plain progress line to the next; 0: one line an epoch.
        log_every: usize = 0, in 0..;
    }
}

/// The heading of the keys that only some methods read.
pub const METHOD_GROUP: &str = "Method";

/// The key called `name`; case does not count, and hyphens may replace underscores.
///
/// Errors: [`Error::Unknown`] with the nearest name.
pub fn key(name: &str) -> Result<&'static Key> {
    let wanted = name.trim().to_lowercase().replace(['-', '.'], "_");
    KEYS.iter()
        .find(|key| key.name == wanted)
        .ok_or_else(|| Error::unknown("key", name, KEYS.iter().map(|key| key.name)))
}

/// Splits `key=value`, the form of `--set`.
///
/// Errors: [`Error::Value`] when there is no `=`.
pub fn assignment(text: &str) -> Result<(String, String)> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| Error::value("--set", text, "not of the form key=value"))?;
    Ok((key.trim().into(), value.trim().into()))
}
