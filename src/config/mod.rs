//! A configuration: the hyper-parameters of `keys`, how settings are applied to them, and what must hold
//! between them.

pub mod keys;
pub mod options;
pub mod recipe;
pub mod value;

use serde_json::{Map, Value};

use crate::attack::Ball;
use crate::data;
use crate::error::{Error, Result};
use crate::method;
use crate::method::settings::Stage;
pub use keys::{Config, KEYS, Key, METHOD_GROUP, assignment, key};
pub use options::{
    AttackBn, Augment, Averaging, CropFill, DeviceChoice, LrTime, Norm, ScheduleKind, Select, Start,
};
pub use value::{Magnitude, Setting, text_of};

/// Where settings come from: a person gives what the method reads, a record holds everything.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Given,
    Recorded,
}

impl Config {
    /// Applies settings in order, all or, when one is wrong, none.
    ///
    /// `pixel_units` among them holds for all of these settings and, so that records mean the same to every
    /// reader, for no others. Errors: [`Error::Unknown`] for a key or word, [`Error::Value`] for a value. A
    /// key of a method is refused when the method that comes out does not have it.
    pub fn apply<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)]) -> Result<()> {
        self.set_all(settings, Whose::Given)
    }

    fn set_all<K: AsRef<str>, V: AsRef<str>>(&mut self, settings: &[(K, V)], whose: Whose) -> Result<()> {
        let mut next = self.clone();
        next.pixel_units = false;
        let settings: Vec<(&Key, &str)> =
            settings.iter().map(|(k, v)| Ok((key(k.as_ref())?, v.as_ref()))).collect::<Result<_>>()?;
        let (units, others): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|(key, _)| key.name == "pixel_units");
        let given: Vec<&Key> = others.iter().map(|(key, _)| *key).collect();
        for (key, text) in units.into_iter().chain(others) {
            (key.set)(&mut next, text)?;
        }
        if whose == Whose::Given {
            next.check_method_keys(&given)?;
            let named = |name: &str| given.iter().any(|key| key.name == name);
            next.follow_norm(self, named("eps"), named("step"))?;
        }
        next.pixel_units = false;
        *self = next;
        Ok(())
    }

    /// A radius means nothing in another norm: with a norm that is not the one `before`, eps and step become
    /// its usual ones, unless they are given.
    ///
    /// Errors: a norm without its eps where the one before was not the usual one.
    fn follow_norm(&mut self, before: &Config, eps_given: bool, step_given: bool) -> Result<()> {
        if self.norm == before.norm {
            return Ok(());
        }
        if !eps_given && before.eps != before.norm.usual_eps() {
            let problem = format!("eps is needed, too: {} is for {}", before.eps, before.norm);
            return Err(Error::value("norm", self.norm, problem));
        }
        if !eps_given {
            self.eps = self.norm.usual_eps();
        }
        if !step_given {
            let unit = Ball { norm: self.norm.into(), eps: 1.0 };
            self.step = self.eps.times(unit.default_step_size().into());
        }
        Ok(())
    }

    /// Errors: a key of the group "Method" that the method does not read, with the nearest that it does.
    fn check_method_keys(&self, given: &[&Key]) -> Result<()> {
        // An unknown method is reported where it is looked up.
        let Ok(method) = method::find(&self.method) else { return Ok(()) };
        match given.iter().find(|key| key.group == METHOD_GROUP && !method.keys.contains(&key.name)) {
            Some(key) if method.keys.is_empty() => Err(Error::value(
                key.name,
                key.text(self),
                format!("{} has no keys of its own; 'saddle methods' lists each one's", method.name),
            )),
            Some(key) => {
                Err(Error::unknown(&format!("key of {}", method.name), key.name, method.keys.iter().copied()))
            }
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
        let text = |name: &String, value: &Value| {
            text_of(value).ok_or_else(|| Error::value(name, value, "a table is no value"))
        };
        let settings: Vec<_> =
            record.iter().map(|(name, value)| Ok((name, text(name, value)?))).collect::<Result<_>>()?;
        let mut config = Config::default();
        config.set_all(&settings, Whose::Recorded)?;
        Ok(config)
    }

    /// Checks what a method asks of the other keys.
    fn validate_for(&self, method: &method::Method) -> Result<()> {
        let averaged = self.averaging(method).is_some();
        let staged = |stage| method.keys.contains(&"stage") && self.stage == stage;
        for (name, good, problem) in [
            (
                "average",
                !method.averaged || self.average != Averaging::Swa,
                "this method's averaged network is an exponential one; leave it out",
            ),
            (
                "average_start",
                !averaged || self.average_start < self.epochs,
                "the run has ended by then; it counts epochs from 0",
            ),
            (
                "linear_epochs",
                !staged(Stage::Auto) || (1..self.epochs).contains(&self.linear_epochs),
                "must be 1 or more and below epochs",
            ),
            (
                "stage",
                !staged(Stage::Linear) || self.init.is_some(),
                "needs a pre-trained backbone; give --init RUN",
            ),
        ] {
            if !good {
                return Err(Error::value(name, key(name)?.text(self), problem));
            }
        }
        Ok(())
    }

    /// Checks ranges and what must hold between keys; names of methods and models are their registries' to
    /// check.
    ///
    /// Errors: [`Error::Value`] about the first key that is wrong, [`Error::Unknown`] for the data set.
    pub fn validate(&self) -> Result<()> {
        data::find(&self.dataset)?;
        // The final evaluation always takes steps, whatever the training attack does.
        let moves = self.eps.get() > 0.0;
        let rising =
            self.milestones.windows(2).all(|pair| pair[0] < pair[1]) && self.milestones.first() != Some(&0);
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let multistep = self.schedule == ScheduleKind::Multistep;
        for (name, good, problem) in [
            (
                "eps",
                self.norm != Norm::Linf || self.eps.get() <= 1.0,
                "pixels lie in [0, 1]; write 8/255 or add --pixel-units",
            ),
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
            (
                "select_steps",
                self.select == Select::Last || self.select_steps > 0,
                "must be 1 or more; or set select to last",
            ),
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
            assert!(
                key.help.ends_with('.') && !key.help.contains('\n') && key.help.len() <= 130,
                "{}: {}",
                key.name,
                key.help
            );
            assert!(
                !key.kind.is_empty()
                    && !key.group.is_empty()
                    && KEYS[..index].iter().all(|other| other.name != key.name)
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
        config.apply(&[("step", "2"), ("pixel-units", "true")]).unwrap();
        assert_eq!((config.eps, config.step), (Magnitude::plain(0.1), Magnitude::fraction(2.0, 255.0)));
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
            "eps = {\"a\":1}: a table is no value"
        );
    }

    #[test]
    fn a_norm_brings_its_radius() {
        let ball =
            |config: &Config| (config.norm.to_string(), config.eps.to_string(), config.step.to_string());
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
            ball(&after(&[("step", "0.1"), ("eps", "1"), ("norm", "l2")]).unwrap()),
            is("l2", "1", "0.1")
        );
        let mut back = l2.clone();
        back.apply(&[("norm", "linf")]).unwrap();
        assert_eq!(ball(&back), ball(&Config::default()));
        let mut digits = after(&[("eps", "0.1"), ("step", "0.025")]).unwrap();
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
            unknown.starts_with("unknown key 'epoch' (did you mean 'epochs'?); known: method, dataset"),
            "{unknown}"
        );
        assert!(
            message(&[("dataset", "cifar1")])
                .starts_with("unknown data set 'cifar1' (did you mean 'cifar10'?)")
        );
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
