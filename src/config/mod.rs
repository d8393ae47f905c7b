//! A configuration: the hyper-parameters of `keys`, how settings are applied to them, and what must hold
//! between them.

pub mod keys;
pub mod options;
mod range;
pub mod recipe;
pub mod value;

use serde_json::{Map, Value as Json};

use crate::attack::{Ball, Pgd, Start};
use crate::error::{Error, Result};
use crate::ops::augment::Augmentation;
pub use keys::{Config, KEYS, Key, METHOD_GROUP, assignment, key};
pub use options::{
    Augment, Averaging, Base, Graphs, JointAttack, LinearOn, LrStepAt, PrecisionChoice, ScheduleKind, Select,
    Stage, WaMode, default_eps,
};
pub use value::{Magnitude, Value, text_of};

impl Config {
    /// Applies settings in order, all or, when one is wrong, none.
    ///
    /// `pixel_units` among them holds for all of these settings and, so that records mean the same to every
    /// reader, for no others. A norm that differs from the one before brings its own eps and step_size,
    /// unless they are given. Errors: [`Error::Unknown`] for a key or word, [`Error::Value`] for a value.
    pub fn apply<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)]) -> Result<()> {
        let mut next = self.clone();
        let given = next.set_all(settings)?;
        next.follow_norm(self, given.contains(&"eps"), given.contains(&"step_size"))?;
        *self = next;
        Ok(())
    }

    /// Sets keys as they are given; returns their names.
    fn set_all<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)]) -> Result<Vec<&'static str>> {
        self.pixel_units = false;
        let mut settings: Vec<(&Key, &str)> =
            settings.iter().map(|(k, v)| Ok((key(k.as_ref())?, v.as_ref()))).collect::<Result<_>>()?;
        // The unit comes first, since the others are read in it.
        settings.sort_by_key(|(key, _)| key.name != "pixel_units");
        settings.iter().try_for_each(|(key, text)| (key.set)(self, text))?;
        self.pixel_units = false;
        Ok(settings.into_iter().map(|(key, _)| key.name).collect())
    }

    /// A radius means nothing in another norm: where the norm differs from the one `before`, eps and
    /// step_size become its defaults, unless they are given.
    ///
    /// Errors: a norm without its eps where the one before was not the default.
    fn follow_norm(&mut self, before: &Config, eps_given: bool, step_given: bool) -> Result<()> {
        if self.norm == before.norm {
            return Ok(());
        }
        if !eps_given && before.eps != default_eps(before.norm) {
            let problem = format!("eps is needed, too: {} is for {}", before.eps, before.norm);
            return Err(Error::value("norm", self.norm, problem));
        }
        if !eps_given {
            self.eps = default_eps(self.norm);
        }
        if !step_given {
            let unit = Ball { norm: self.norm, eps: 1.0 };
            self.step_size = self.eps.times(unit.default_step_size().into());
        }
        Ok(())
    }

    /// Every key and its value, for `run.json`.
    pub fn to_json(&self) -> Map<String, Json> {
        KEYS.iter().map(|key| (key.name.to_owned(), (key.get)(self))).collect()
    }

    /// The configuration that [`Config::to_json`] recorded; keys that are not there keep their defaults.
    ///
    /// Errors: as [`Config::apply`].
    pub fn from_json(record: &Map<String, Json>) -> Result<Config> {
        let text = |name: &String, value: &Json| {
            text_of(value).ok_or_else(|| Error::value(name, value, "a table is not a value"))
        };
        let settings: Vec<_> =
            record.iter().map(|(name, value)| Ok((name, text(name, value)?))).collect::<Result<_>>()?;
        let mut config = Config::default();
        config.set_all(&settings)?;
        Ok(config)
    }

    /// Checks every key's range and what must hold between keys. Names of methods, models and data sets are
    /// their registries' to check, and a method's own demands the method's.
    ///
    /// Errors: [`Error::Value`] about the first key that is wrong.
    pub fn validate(&self) -> Result<()> {
        for key in KEYS {
            (key.check)(self)?;
        }
        // Measurements always take steps, even where the training attack does not.
        let moves = self.eps.get() > 0.0;
        let small = |radius: Magnitude| radius.get() <= self.norm.largest_radius();
        let rising =
            self.milestones.windows(2).all(|pair| pair[0] < pair[1]) && self.milestones.first() != Some(&0);
        self.require("eps", small(self.eps), self.norm.too_large())?;
        self.require("late_eps", small(self.late_eps), self.norm.too_large())?;
        self.require("step_size", !moves || self.step_size.get() > 0.0, "the attack would not move")?;
        let milestones = self.schedule != ScheduleKind::Multistep || rising;
        self.require("milestones", milestones, "must be rising epochs, counted from 1")?;
        let channels = self.mean.len() == self.std.len();
        self.require("std", channels, "mean and std need the same number of channels")?;
        let held_out = self.select != Select::Heldout || self.held_out > 0;
        self.require("held_out", held_out, "select = heldout needs 1 or more; or set select to last")?;
        let select_steps = self.select == Select::Last || self.select_steps > 0;
        self.require("select_steps", select_steps, "must be 1 or more; or set select to last")
    }

    /// Errors: [`Error::Value`] with `problem` about the key `name` unless `good`.
    pub fn require(&self, name: &str, good: bool, problem: &str) -> Result<()> {
        if good { Ok(()) } else { Err(Error::value(name, key(name)?.text(self), problem)) }
    }

    /// The threat model.
    pub fn ball(&self) -> Ball {
        Ball { norm: self.norm, eps: self.eps.get() }
    }

    /// The training attack of a method that starts at `start` unless a key says otherwise.
    pub fn pgd(&self, start: Start) -> Pgd {
        let (steps, step_size) = (self.attack_steps, self.step_size.get());
        Pgd { ball: self.ball(), start: self.attack_start.unwrap_or(start), steps, step_size, momentum: None }
    }

    /// The attack of evaluations: the training attack's ball and step size, from a uniform start.
    pub fn evaluation_pgd(&self, steps: usize) -> Pgd {
        Pgd { start: Start::Uniform, steps, ..self.pgd(Start::Uniform) }
    }

    /// Adversarial weight perturbation's gamma in an epoch counted from 0.
    pub fn awp(&self, epoch: usize) -> f32 {
        if epoch >= self.awp_start_epoch { self.awp_gamma } else { 0.0 }
    }

    /// The changes of training images on their way into a batch.
    pub fn augmentation(&self, views: usize, epoch: usize) -> Augmentation {
        let cropped =
            Augmentation::crop_flip(self.crop_padding, self.seed, epoch as u32).padded(self.padding_mode);
        let augmentation = match self.augment {
            Augment::None => Augmentation::none(),
            Augment::Crop => Augmentation { flip: false, ..cropped },
            Augment::CropFlip => cropped,
        };
        augmentation.views(views)
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
            assert!(
                key.help.ends_with('.') && !key.help.contains('\n') && key.help.len() <= 130,
                "{}: {}",
                key.name,
                key.help
            );
            assert!(
                !(key.metavar)().is_empty()
                    && !key.group.is_empty()
                    && KEYS[..index].iter().all(|other| other.name != key.name
                        && (key.symbol.is_empty() || other.symbol != key.symbol))
            );
            let mut config = Config::default();
            (key.set)(&mut config, &key.default_text()).unwrap();
            assert_eq!(config, Config::default(), "the default of {} reads back", key.name);
        }
        let eps = key("EPS").unwrap();
        assert_eq!(
            (eps.symbol, eps.default_text().as_str(), eps.group),
            ("ε", "8/255", "Threat model and inner attack")
        );
        assert_eq!(key("weight-decay").unwrap().default_text(), "0.0005");
        assert_eq!(key("milestones").unwrap().default_text(), "101,106");
        assert_eq!(Config::default().validate().map_err(|e| e.to_string()), Ok(()));
    }

    #[test]
    fn pixel_units_hold_for_the_settings_beside_them_only() {
        let mut config = with(&[("eps", "0.1")]).unwrap();
        config.apply(&[("step_size", "2"), ("pixel-units", "true")]).unwrap();
        assert_eq!((config.eps, config.step_size), (Magnitude::plain(0.1), Magnitude::fraction(2.0, 255.0)));
        config.apply(&[("eps", "0.2")]).unwrap();
        assert_eq!(config.eps, Magnitude::plain(0.2));
    }

    #[test]
    fn a_record_reads_back() {
        let settings = [
            ("eps", "0.1"),
            ("data", "/some/dir"),
            ("mean", "0.5,0.25,0.1"),
            ("std", "1,1,1"),
            ("device", "cuda:2"),
        ];
        let config = with(
            &[&settings[..], &[("milestones", "none"), ("seed", "18446744073709551615"), ("lr", "0.3")]]
                .concat(),
        )
        .unwrap();
        let text = serde_json::to_string(&config.to_json()).unwrap();
        assert_eq!(Config::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), config);
        let bad = serde_json::json!({"eps": {"a": 1}});
        assert_eq!(
            Config::from_json(bad.as_object().unwrap()).unwrap_err().to_string(),
            "eps = {\"a\":1}: a table is not a value"
        );
    }

    #[test]
    fn a_norm_brings_its_radius() {
        let ball =
            |config: &Config| (config.norm.to_string(), config.eps.to_string(), config.step_size.to_string());
        let is = |norm: &str, eps: &str, step: &str| (norm.to_owned(), eps.to_owned(), step.to_owned());
        let after = |settings: &[(&str, &str)]| {
            let mut config = Config::default();
            config.apply(settings).map(|()| config)
        };
        assert_eq!(ball(&Config::default()), is("linf", "8/255", "2/255"));
        let l2 = after(&[("norm", "l2")]).unwrap();
        assert_eq!(ball(&l2), is("l2", "128/255", "15/255"));
        assert_eq!(
            ball(&after(&[("norm", "l2"), ("eps", "64/255")]).unwrap()),
            is("l2", "64/255", "7.5/255")
        );
        assert_eq!(
            ball(&after(&[("step_size", "0.1"), ("eps", "1"), ("norm", "l2")]).unwrap()),
            is("l2", "1", "0.1")
        );
        let mut back = l2.clone();
        back.apply(&[("norm", "linf")]).unwrap();
        assert_eq!(ball(&back), ball(&Config::default()));
        let mut digits = after(&[("eps", "0.1"), ("step_size", "0.025")]).unwrap();
        let error = digits.apply(&[("norm", "l2")]).unwrap_err().to_string();
        assert_eq!(error, "norm = l2: eps is needed, too: 0.1 is for linf");
        digits.apply(&[("norm", "linf")]).unwrap();
        assert_eq!(ball(&digits), is("linf", "0.1", "0.025"));
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
        assert!(
            unknown.starts_with("unknown key 'epoch' (did you mean 'epochs'?); known: epochs, "),
            "{unknown}"
        );
        for (settings, expected) in [
            (&[("eps", "8")][..], "eps = 8: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
            (
                &[("norm", "l2"), ("eps", "1e30")],
                "eps = 1000000000000000000000000000000: longer than the diagonal of any image; write 128/255 \
                 or add --pixel-units",
            ),
            (&[("eps", "-1/255")], "eps = -1/255: must not be negative"),
            (&[("step_size", "0")], "step_size = 0: the attack would not move"),
            (&[("batch", "0")], "batch = 0: must be 1 or more"),
            (&[("lr", "-0.1")], "lr = -0.1: must not be negative"),
            (&[("milestones", "5,5")], "milestones = 5,5: must be rising epochs, counted from 1"),
            (&[("momentum", "1")], "momentum = 1: must be at least 0 and below 1"),
            (&[("late_eps", "10")], "late_eps = 10: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
            (&[("late_steps", "0")], "late_steps = 0: must be 1 or more"),
            (&[("cyclic_peak", "1")], "cyclic_peak = 1: must lie between 0 and 1, both excluded"),
            (&[("std", "0.2")], "std = 0.2: mean and std need the same number of channels"),
            (&[("held-out", "0")], "held_out = 0: select = heldout needs 1 or more; or set select to last"),
        ] {
            assert_eq!(message(settings), expected);
        }
        assert!(with(&[("eps", "3"), ("norm", "L2")]).is_ok());
        assert!(with(&[("step_size", "0"), ("eps", "0")]).is_ok());
        assert_eq!(assignment("lr").unwrap_err().to_string(), "--set = lr: not of the form key=value");
        assert_eq!(assignment(" a = b=c ").unwrap(), ("a".into(), "b=c".into()));
    }
}
