//! The table of hyper-parameters: one documented field each. The command line's help, recipe keys, `--set
//! key=value`, `run.json` and `saddle keys` all come from it.

use std::path::PathBuf;

use serde_json::Value;

use super::options::{
    AttackBn, Augment, Averaging, CropFill, DeviceChoice, LrTime, Norm, ScheduleKind, Select, Start,
};
use super::value::{Magnitude, Setting, text_of};
use crate::error::{Error, Result};
use crate::method::settings::{Base, ContrastSet, JointAttack, LinearOn, Stage, Variant, WaMode};

/// What the table says about one hyper-parameter.
pub struct Key {
    /// Its name; hyphens may replace underscores wherever it is read.
    pub name: &'static str,
    /// Other names that are understood.
    pub aliases: &'static [&'static str],
    /// The heading it belongs under.
    pub group: &'static str,
    /// The papers' symbol for it, or empty.
    pub symbol: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
    /// What a value looks like: `NUMBER`, `linf|l2`.
    pub kind: &'static str,
    /// Its value in a configuration, as recorded.
    pub get: fn(&Config) -> Value,
    /// Reads its value from text; errors are [`Error::Value`] and [`Error::Unknown`].
    pub set: fn(&mut Config, &str) -> Result<()>,
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

/// Writes [`Config`], its defaults and [`KEYS`] from `/// help` lines and `name ["symbol"] ("alias"): Type =
/// default;` under headings.
macro_rules! keys {
    ($($group:literal { $($(#[doc = $help:literal])+ $name:ident $([$symbol:literal])? $(($($alias:literal),+))? : $kind:ty = $default:expr;)+ })+) => {
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
            aliases: &[$($($alias),+)?],
            group: $group,
            symbol: concat!("" $(, $symbol)?),
            help: concat!($($help),+).trim_ascii_start(),
            kind: <$kind as Setting>::KIND,
            get: |config| config.$name.value(),
            set: |config, text| {
                config.$name = <$kind as Setting>::read(stringify!($name), text, config.pixel_units)?;
                Ok(())
            },
        },)+)+];
    };
}

keys! {
    "Job" {
        /// How the network is trained.
        method: String = "pgd-at".into();
        /// What it is trained and tested on.
        dataset: String = "digits".into();
        /// The folder (or file) of the data set; embedded data sets need none.
        data: Option<PathBuf> = None;
        /// The weights that the run starts from: a file or a run directory; random ones unless given.
        init: Option<PathBuf> = None;
        /// The network's architecture.
        model: String = "resnet-mini".into();
        /// Where it runs; auto takes a GPU that can be used, else the CPU.
        device: DeviceChoice = DeviceChoice::Auto;
        /// Every random choice follows from this number.
        seed: u64 = 0;
        /// The run directory; a new one under runs/ unless given.
        out: Option<PathBuf> = None;
    }
    "Threat model and inner attack" {
        /// How a perturbation is measured; a norm brings its usual eps and step.
        norm: Norm = Norm::Linf;
        /// The largest perturbation, of pixels in `[0, 1]`; l2: 128/255.
        eps ["ε"]: Magnitude = Norm::Linf.usual_eps();
        /// The length of one attack step; l2: 15/255.
        step ["α"]: Magnitude = Magnitude::fraction(2.0, 255.0);
        /// Attack steps in training.
        steps ["K"]: usize = 10;
        /// Where the attack starts: as the method says, uniform in the eps-ball, or at the clean image.
        start: Start = Start::Method;
        /// Batch norm inside the attack: as the method says, running statistics, batch ones with frozen
        /// running ones, or as in training.
        attack_bn ("bn"): AttackBn = AttackBn::Method;
        /// Plain numbers given for eps and step along with this count 1/255: 8 means 8/255.
        pixel_units: bool = false;
    }
    "Method" {
        /// Where a paper and its released code differ: as the code does, or as the paper says.
        variant: Variant = Variant::Code;
        /// rpat: the objective that robust perception is added to.
        base: Base = Base::PgdAt;
        /// The weight of the divergence between clean and adversarial predictions.
        beta ["β"]: f64 = 6.0;
        /// The weight of the method's own regularisation term.
        lambda ["λ"]: f64 = 1.0;
        /// rpat on consistency-at: the weight of that base's divergence.
        base_lambda: f64 = 1.0;
        /// The temperature of a Jensen-Shannon divergence.
        temperature ["T"] ("t"): f64 = 0.5;
        /// The part of its perturbation that a boundary sample keeps.
        rho ["ρ"]: f64 = 0.1;
        /// RPAT: the weight of the clean image in the image between.
        a ["a"] ("alpha"): f64 = 0.5;
        /// RPAT: the epoch, counted from 0, in which its term begins.
        rpat_start_epoch: usize = 0;
        /// TRADES: passes in train mode, 3 as in the benchmark code or 2.
        trades_passes: usize = 3;
        /// TRADES and MART: standard deviation of the attack's start.
        start_sigma: f64 = 0.001;
        /// DICAR: both parameters of the beta distribution of the mixture.
        mix_beta: f64 = 0.75;
        /// The averaged network as a teacher: as in the released code in train mode until its first
        /// evaluation, or always in eval mode.
        wa_mode: WaMode = WaMode::Code;
        /// rebat++: the epoch, counted from 0, from which the attack is stronger.
        late_epoch: usize = 100;
        /// rebat++: eps from then on.
        late_eps: Magnitude = Magnitude::fraction(10.0, 255.0);
        /// rebat++: attack steps from then on.
        late_steps: usize = 12;
        /// AFA: the temperature of the contrastive loss.
        tau ["τ"]: f64 = 0.1;
        /// AFA: whom an anchor is compared with, the clean batch or both batches (our reading).
        contrast: ContrastSet = ContrastSet::Clean;
        /// afa-trades: the loss that makes the adversarial images, AFA's or TRADES' (our reading).
        joint_attack: JointAttack = JointAttack::Afa;
        /// AFA: what is trained, the features and then the classifier, or one of them; linear needs a
        /// backbone, from init.
        stage: Stage = Stage::Auto;
        /// AFA: the last epochs, which train the classifier.
        linear_epochs: usize = 10;
        /// AFA: the images that the classifier is trained on (our reading).
        linear_on: LinearOn = LinearOn::Adv;
        /// boundary-at: the part of their perturbation that boundary samples keep.
        rho_boundary: f64 = 1.0;
        /// boundary-at: the part that all others keep.
        rho_other: f64 = 1.0;
    }
    "Weights: perturbation and average" {
        /// Adversarial weight perturbation: its length as a part of that of each layer's weights; 0: none.
        awp_gamma ["γ"]: f64 = 0.0;
        /// Adversarial weight perturbation: the epoch, counted from 0, in which it begins.
        awp_start: usize = 0;
        /// A second network that averages the first: exponentially at each step, or over the ends of epochs.
        /// It is then what is judged.
        average: Averaging = Averaging::None;
        /// The epoch, counted from 0, in which averaging (and in ReBAT's family the teaching) begins; before,
        /// the average is a copy.
        average_start: usize = 105;
        /// ema: what the average keeps of itself at each step.
        average_decay: f64 = 0.999;
    }
    "Optimiser" {
        /// Passes over the training images.
        epochs: usize = 110;
        /// Images a step; the last, partial batch is kept.
        batch ["B"]: usize = 128;
        /// The highest learning rate of SGD.
        lr ["η"]: f64 = 0.1;
        /// How the learning rate changes.
        schedule: ScheduleKind = ScheduleKind::Multistep;
        /// multistep: the epochs, counted from 1, that begin with a lower rate.
        milestones: Vec<usize> = vec![101, 106];
        /// multistep: what the rate is multiplied by at each milestone.
        gamma ["γ"]: f64 = 0.1;
        /// cyclic: the part of the run at which the rate is highest.
        cyclic_peak: f64 = 0.4;
        /// Whether the schedule is read at the beginning of each step or, as ReBAT's code does, at its end.
        lr_time: LrTime = LrTime::Begin;
        /// Momentum of SGD.
        momentum ["μ"]: f64 = 0.9;
        /// Weight decay of SGD, on every parameter.
        weight_decay: f64 = 5e-4;
    }
    "Images" {
        /// Random changes of training images.
        augment: Augment = Augment::CropFlip;
        /// crop and crop-flip: pixels added on each side before cropping.
        crop_padding: usize = 4;
        /// crop and crop-flip: what is added, black or the mirrored image.
        crop_fill: CropFill = CropFill::Zero;
        /// Per channel, subtracted inside the network; none: no normalisation.
        mean: Vec<f64> = Vec::new();
        /// Per channel, divided by inside the network.
        std: Vec<f64> = Vec::new();
    }
    "Selection and evaluation" {
        /// Which images choose the best epoch, by robust accuracy: held-out ones, the test images (the
        /// papers' protocol), or none.
        select: Select = Select::Heldout;
        /// heldout: training images taken away for it.
        held_out: usize = 1000;
        /// Attack steps when choosing.
        select_steps: usize = 10;
        /// Epochs from one choice to the next.
        eval_every: usize = 1;
    }
    "Records" {
        /// Epochs from one numbered checkpoint to the next; 0: only best and last.
        checkpoint_every: usize = 0;
        /// Steps from one plain progress line to the next; 0: one line an epoch.
        log_every: usize = 0;
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
        .find(|key| key.name == wanted || key.aliases.contains(&wanted.as_str()))
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
