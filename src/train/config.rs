//! The hyper-parameters: one documented field each, in one table. The command line's help, recipe keys, `--set key=value`, `run.json` and
//! `saddle keys` all come from it.

use std::path::PathBuf;

use serde_json::{Map, Value};

pub use super::choice::{AttackBn, Augment, Averaging, CropFill, DeviceChoice, LrTime, Norm, ScheduleKind, Select, Start};
pub use super::setting::{Magnitude, Setting, text_of};
use crate::data;
use crate::error::{Error, Result};
use crate::method;
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

/// Writes [`Config`], its defaults and [`KEYS`] from `/// help` lines and `name ["symbol"] ("alias"): Type = default;` under headings.
macro_rules! keys {
    ($($group:literal { $($(#[doc = $help:literal])+ $name:ident $([$symbol:literal])? $(($($alias:literal),+))? : $kind:ty = $default:expr;)+ })+) => {
        /// Everything that decides what a run computes and where it leaves it; the defaults are the benchmark recipe's.
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
        /// The folder of the data set's files; embedded data sets need none.
        data: Option<PathBuf> = None;
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
        /// How a perturbation is measured.
        norm: Norm = Norm::Linf;
        /// The largest perturbation, of pixels in `[0, 1]`.
        eps ["ε"]: Magnitude = Magnitude::fraction(8.0, 255.0);
        /// The length of one attack step.
        step ["α"]: Magnitude = Magnitude::fraction(2.0, 255.0);
        /// Attack steps in training.
        steps ["K"]: usize = 10;
        /// Where the attack starts: as the method says, uniform in the eps-ball, or at the clean image.
        start: Start = Start::Method;
        /// Batch norm inside the attack: as the method says, running statistics, batch ones with frozen running ones, or as in training.
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
        /// The averaged network as a teacher: as in the released code in train mode until its first evaluation, or always in eval mode.
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
        /// AFA: what is trained, the features and then the classifier, or one of them.
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
        /// Adversarial weight perturbation: its length as a part of each filter's; 0: none.
        awp_gamma ["γ"]: f64 = 0.0;
        /// Adversarial weight perturbation: the epoch, counted from 0, in which it begins.
        awp_start: usize = 0;
        /// A second network that averages the first: exponentially at each step, or over the ends of epochs. It is then what is judged.
        average: Averaging = Averaging::None;
        /// The epoch, counted from 0, in which averaging (and in ReBAT's family the teaching) begins; before, the average is a copy.
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
        /// Which images choose the best epoch, by robust accuracy: held-out ones, the test images (the papers' protocol), or none.
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

/// Where settings come from: a person gives what the method reads, a record holds everything.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Given,
    Recorded,
}

/// The key called `name`; case does not count, and hyphens may replace underscores.
///
/// Errors: [`Error::Unknown`] with the nearest name.
pub fn key(name: &str) -> Result<&'static Key> {
    let wanted = name.trim().to_lowercase().replace(['-', '.'], "_");
    KEYS.iter().find(|key| key.name == wanted || key.aliases.contains(&wanted.as_str())).ok_or_else(|| Error::unknown("key", name, KEYS.iter().map(|key| key.name)))
}

/// Splits `key=value`, the form of `--set`.
///
/// Errors: [`Error::Value`] when there is no `=`.
pub fn assignment(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').ok_or_else(|| Error::value("--set", text, "not of the form key=value"))?;
    Ok((key.trim().into(), value.trim().into()))
}

impl Config {
    /// Applies settings in order, all or, when one is wrong, none.
    ///
    /// `pixel_units` among them holds for all of these settings and, so that records mean the same to every reader, for no others.
    /// Errors: [`Error::Unknown`] for a key or word, [`Error::Value`] for a value.
    /// A key of a method is refused when the method that comes out does not have it.
    pub fn apply<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)]) -> Result<()> {
        self.set_all(settings, Whose::Given)
    }

    fn set_all<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)], whose: Whose) -> Result<()> {
        let mut next = self.clone();
        next.pixel_units = false;
        let settings: Vec<(&Key, &str)> =
            settings.iter().map(|(k, v)| Ok((key(k.as_ref())?, v.as_ref()))).collect::<Result<_>>()?;
        let (units, others): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(key, _)| key.name == "pixel_units");
        let given: Vec<&Key> = others.iter().map(|(key, _)| *key).collect();
        for (key, text) in units.into_iter().chain(others) {
            (key.set)(&mut next, text)?;
        }
        if whose == Whose::Given {
            next.check_method_keys(&given)?;
        }
        next.pixel_units = false;
        *self = next;
        Ok(())
    }

    /// Errors: a key of the group "Method" that the method does not read, with the nearest that it does.
    fn check_method_keys(&self, given: &[&Key]) -> Result<()> {
        // An unknown method is reported where it is looked up.
        let Ok(method) = method::find(&self.method) else { return Ok(()) };
        match given.iter().find(|key| key.group == METHOD_GROUP && !method.keys.contains(&key.name)) {
            Some(key) if method.keys.is_empty() => {
                Err(Error::value(key.name, key.text(self), format!("{} has no keys of its own; 'saddle methods' lists each one's", method.name)))
            }
            Some(key) => Err(Error::unknown(&format!("key of {}", method.name), key.name, method.keys.iter().copied())),
            None => Ok(()),
        }
    }

    /// Every key and its value, for `run.json`.
    pub fn to_json(&self) -> Map<String, Value> {
        KEYS.iter().map(|key| (key.name.to_owned(), (key.get)(self))).collect()
    }

    /// The configuration that [`Config::to_json`] recorded; keys that are not there keep their defaults.
    ///
    /// Errors: as [`Config::apply`].
    pub fn from_json(record: &Map<String, Value>) -> Result<Config> {
        let text = |name: &String, value: &Value| text_of(value).ok_or_else(|| Error::value(name, value, "a table is no value"));
        let settings: Vec<_> = record.iter().map(|(name, value)| Ok((name, text(name, value)?))).collect::<Result<_>>()?;
        let mut config = Config::default();
        config.set_all(&settings, Whose::Recorded)?;
        Ok(config)
    }

    /// Checks what a method asks of the other keys.
    fn validate_for(&self, method: &method::Entry) -> Result<()> {
        let averaged = self.averaging(method).is_some();
        let pretrains = method.keys.contains(&"linear_epochs") && self.stage == Stage::Auto;
        for (name, good, problem) in [
            ("average", !method.averaged || self.average != Averaging::Swa, "this method's averaged network is an exponential one; leave it out"),
            ("average_start", !averaged || self.average_start < self.epochs, "the run has ended by then; it counts epochs from 0"),
            ("linear_epochs", !pretrains || (1..self.epochs).contains(&self.linear_epochs), "must be 1 or more and below epochs"),
        ] {
            if !good {
                return Err(Error::value(name, key(name)?.text(self), problem));
            }
        }
        Ok(())
    }

    /// Checks ranges and what must hold between keys; names of methods and models are their registries' to check.
    ///
    /// Errors: [`Error::Value`] about the first key that is wrong, [`Error::Unknown`] for the data set.
    pub fn validate(&self) -> Result<()> {
        data::find(&self.dataset)?;
        // The final evaluation always takes steps, whatever the training attack does.
        let moves = self.eps.get() > 0.0;
        let rising = self.milestones.windows(2).all(|pair| pair[0] < pair[1]) && self.milestones.first() != Some(&0);
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let multistep = self.schedule == ScheduleKind::Multistep;
        for (name, good, problem) in [
            ("eps", self.norm != Norm::Linf || self.eps.get() <= 1.0, "pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
            ("step", !moves || self.step.get() > 0.0, "the attack would not move"),
            ("epochs", self.epochs > 0, "must be 1 or more"),
            ("batch", self.batch > 0, "must be 1 or more"),
            ("lr", self.lr >= 0.0, "must not be negative"),
            ("milestones", !multistep || rising, "must be rising epochs, counted from 1"),
            ("gamma", !multistep || self.gamma > 0.0, "must be above 0"),
            ("cyclic_peak", self.cyclic_peak > 0.0 && self.cyclic_peak < 1.0, "must lie between 0 and 1"),
            ("momentum", (0.0..1.0).contains(&self.momentum), "must be at least 0 and below 1"),
            ("weight_decay", self.weight_decay >= 0.0, "must not be negative"),
            ("std", self.mean.len() == self.std.len(), "mean and std need the same number of channels"),
            ("std", self.std.iter().all(|&std| std > 0.0), "must be above 0"),
            (
                "held_out",
                self.select != Select::Heldout || self.held_out > 0,
                "select = heldout needs 1 or more; or set select to last",
            ),
            ("eval_every", self.eval_every > 0, "must be 1 or more"),
            ("rho", part(self.rho), "must lie between 0 and 1"),
            ("rho_boundary", part(self.rho_boundary), "must lie between 0 and 1"),
            ("rho_other", part(self.rho_other), "must lie between 0 and 1"),
            ("a", self.a > 0.0 && self.a < 1.0, "must lie between 0 and 1, both excluded"),
            ("temperature", self.temperature > 0.0, "must be above 0"),
            ("tau", self.tau > 0.0, "must be above 0"),
            ("mix_beta", self.mix_beta > 0.0, "must be above 0"),
            ("beta", self.beta >= 0.0, "must not be negative"),
            ("lambda", self.lambda >= 0.0, "must not be negative"),
            ("base_lambda", self.base_lambda >= 0.0, "must not be negative"),
            ("start_sigma", self.start_sigma >= 0.0, "must not be negative"),
            ("trades_passes", matches!(self.trades_passes, 2 | 3), "must be 2 or 3"),
            ("awp_gamma", self.awp_gamma >= 0.0, "must not be negative"),
            ("average_decay", (0.0..1.0).contains(&self.average_decay), "must be at least 0 and below 1"),
            ("select_steps", self.select == Select::Last || self.select_steps > 0, "must be 1 or more; or set select to last"),
        ] {
            if !good {
                return Err(Error::value(name, key(name)?.text(self), problem));
            }
        }
        if let Ok(method) = method::find(&self.method) {
            self.validate_for(method)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Result<Config> {
        let mut config = Config::default();
        config.apply(settings)?;
        config.validate().map(|()| config)
    }

    fn message(settings: &[(&str, &str)]) -> String {
        with(settings).unwrap_err().to_string()
    }

    #[test]
    fn the_table_is_complete() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(key.help.ends_with('.') && !key.help.contains('\n') && key.help.len() <= 130, "{}: {}", key.name, key.help);
            assert!(!key.kind.is_empty() && !key.group.is_empty() && KEYS[..index].iter().all(|other| other.name != key.name));
            let mut config = Config::default();
            (key.set)(&mut config, &key.default_text()).unwrap();
            assert_eq!(config, Config::default(), "the default of {} reads back", key.name);
        }
        let eps = key("EPS").unwrap();
        assert_eq!((eps.symbol, eps.default_text().as_str(), eps.group), ("ε", "8/255", "Threat model and inner attack"));
        assert_eq!(key("weight-decay").unwrap().default_text(), "0.0005");
        assert_eq!(key("milestones").unwrap().default_text(), "101,106");
        assert_eq!(Config::default().validate().map_err(|e| e.to_string()), Ok(()));
    }

    #[test]
    fn pixel_units_hold_for_the_settings_beside_them_only() {
        let mut config = with(&[("eps", "0.1")]).unwrap();
        config.apply(&[("step", "2"), ("pixel-units", "true")]).unwrap();
        assert_eq!((config.eps, config.step), (Magnitude::plain(0.1), Magnitude::fraction(2.0, 255.0)));
        config.apply(&[("eps", "0.2")]).unwrap();
        assert_eq!(config.eps, Magnitude::plain(0.2));
    }

    #[test]
    fn a_record_reads_back() {
        let settings = [("eps", "0.1"), ("data", "/some/dir"), ("mean", "0.5,0.25,0.1"), ("std", "1,1,1"), ("device", "cuda:2")];
        let config =
            with(&[&settings[..], &[("milestones", "none"), ("seed", "18446744073709551615"), ("lr", "0.3")]].concat()).unwrap();
        let text = serde_json::to_string(&config.to_json()).unwrap();
        assert_eq!(Config::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), config);
        let bad = serde_json::json!({"eps": {"a": 1}});
        assert_eq!(Config::from_json(bad.as_object().unwrap()).unwrap_err().to_string(), "eps = {\"a\":1}: a table is no value");
    }

    #[test]
    fn a_wrong_setting_changes_nothing() {
        let mut config = Config::default();
        assert!(config.apply(&[("lr", "0.5"), ("epochs", "many")]).is_err());
        assert_eq!(config, Config::default());
    }

    #[test]
    fn messages() {
        let unknown = message(&[("epoch", "3")]);
        assert!(unknown.starts_with("unknown key 'epoch' (did you mean 'epochs'?); known: method, dataset"), "{unknown}");
        assert!(message(&[("dataset", "cifar1")]).starts_with("unknown data set 'cifar1' (did you mean 'cifar10'?)"));
        for (settings, expected) in [
            (&[("eps", "8")][..], "eps = 8: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
            (&[("eps", "-1/255")], "eps = -1/255: must not be negative"),
            (&[("step", "0")], "step = 0: the attack would not move"),
            (&[("batch", "0")], "batch = 0: must be 1 or more"),
            (&[("lr", "-0.1")], "lr = -0.1: must not be negative"),
            (&[("milestones", "5,5")], "milestones = 5,5: must be rising epochs, counted from 1"),
            (&[("momentum", "1")], "momentum = 1: must be at least 0 and below 1"),
            (&[("std", "0.2")], "std = 0.2: mean and std need the same number of channels"),
            (&[("held-out", "0")], "held_out = 0: select = heldout needs 1 or more; or set select to last"),
        ] {
            assert_eq!(message(settings), expected);
        }
        assert!(with(&[("eps", "3"), ("norm", "L2")]).is_ok());
        assert!(with(&[("step", "0"), ("eps", "0")]).is_ok());
        assert_eq!(assignment("lr").unwrap_err().to_string(), "--set = lr: not of the form key=value");
        assert_eq!(assignment(" a = b=c ").unwrap(), ("a".into(), "b=c".into()));
    }
}
