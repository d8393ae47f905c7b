//! The keys that a method reads: which of the group "Method" may be given.

use crate::config::recipe::{self, Recipe};
use crate::config::{Augment, Averaging, Config, Key, METHOD_GROUP, ScheduleKind, Select, key};
use crate::error::{Error, Result};
use crate::method::{self, Method};

/// Whether keys are read in a configuration of a method.
type Condition = fn(&Config, &Method) -> bool;

/// Keys that are read only beside others: the condition, and the remedy where it does not hold.
const CONDITIONS: &[(&[&str], Condition, &str)] = &[
    (
        &["milestones", "lr_gamma"],
        |config, _| config.schedule == ScheduleKind::Multistep,
        "is not read by this schedule; set schedule to multistep",
    ),
    (
        &["cyclic_peak"],
        |config, _| config.schedule == ScheduleKind::Cyclic,
        "is not read by this schedule; set schedule to cyclic",
    ),
    (
        &["average_start_epoch"],
        |config, method| method.averaged || config.average != Averaging::None,
        "is not read where nothing is averaged; set average to ema or swa",
    ),
    (
        &["average_decay"],
        |config, method| method.averaged || config.average == Averaging::Ema,
        "is not read without an exponential average; set average to ema",
    ),
    (
        &["awp_start_epoch"],
        |config, _| config.awp_gamma > 0.0,
        "is not read where weights are not perturbed; set awp_gamma",
    ),
    (
        &["crop_padding", "padding_mode"],
        |config, _| config.augment != Augment::None,
        "is not read where images are not cropped; set augment to crop or crop-flip",
    ),
    (
        &["held_out"],
        |config, _| config.select == Select::Heldout,
        "is not read where no images are held out; set select to heldout",
    ),
    (
        &["select_steps"],
        |config, _| config.select != Select::Last,
        "is not read where no epoch is chosen; set select to heldout or test",
    ),
];

/// Why nothing reads a key beside the others, and the remedy.
fn unread(config: &Config, method: &Method, key: &Key) -> Option<&'static str> {
    let unread =
        |(names, read, _): &&(&[&str], Condition, &str)| names.contains(&key.name) && !read(config, method);
    CONDITIONS.iter().find(unread).map(|(.., remedy)| *remedy)
}

/// Whether a run of this configuration reads a key.
pub fn is_read(config: &Config, key: &Key) -> bool {
    method::find(&config.method).is_ok_and(|method| {
        let own = key.group != METHOD_GROUP || method.keys.contains(&key.name);
        own && unread(config, method, key).is_none()
    })
}

/// Checks the keys of `settings`, which `config` has taken.
///
/// Errors: a key of the group "Method" that the method of `config` does not read, with the nearest that it
/// does; any other key that nothing reads beside the others.
pub fn check_keys<K: AsRef<str>, V>(config: &Config, settings: &[(K, V)]) -> Result<()> {
    // An unknown method is reported where it is looked up.
    let Ok(method) = method::find(&config.method) else { return Ok(()) };
    for (name, _) in settings {
        let key = key(name.as_ref())?;
        if let Some(remedy) = unread(config, method, key) {
            return Err(Error::value(key.name, key.text(config), remedy));
        }
        if key.group != METHOD_GROUP || method.keys.contains(&key.name) {
            continue;
        }
        if method.keys.is_empty() {
            let problem =
                format!("{} has no keys of its own; 'saddle methods' lists each one's", method.name);
            return Err(Error::value(key.name, key.text(config), problem));
        }
        let known = method.keys.iter().copied();
        return Err(Error::unknown(&format!("key of {}", method.name), key.name, known));
    }
    Ok(())
}

/// [`Config::apply`] for settings that a person gives: a key that the method does not read is refused, and
/// then, too, nothing changes.
pub fn apply<K: AsRef<str>, V: AsRef<str>>(config: &mut Config, settings: &[(K, V)]) -> Result<()> {
    let mut next = config.clone();
    next.apply(settings)?;
    check_keys(&next, settings)?;
    *config = next;
    Ok(())
}

/// [`recipe::load`], which refuses a recipe with keys that its method does not read.
pub fn load_recipe(name_or_path: &str) -> Result<Recipe> {
    recipe::load(name_or_path, check_keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nothing_reads_is_refused() {
        let result = |settings: &[(&str, &str)]| {
            apply(&mut Config::default(), settings).map_err(|error| error.to_string())
        };
        for (refused, remedy) in [
            (("milestones", "3"), ("schedule", "cosine")),
            (("lr_gamma", "0.3"), ("schedule", "cyclic")),
            (("held_out", "30"), ("select", "last")),
            (("select_steps", "3"), ("select", "last")),
            (("crop_padding", "2"), ("augment", "none")),
        ] {
            assert_eq!(result(&[refused]), Ok(()), "{refused:?}");
            let message = result(&[refused, remedy]).unwrap_err();
            assert!(message.starts_with(&format!("{} = {}: is not read", refused.0, refused.1)), "{message}");
        }
        for (refused, remedy) in [
            (("cyclic_peak", "0.3"), ("schedule", "cyclic")),
            (("average_start_epoch", "3"), ("average", "swa")),
            (("average_decay", "0.9"), ("average", "ema")),
            (("average_decay", "0.9"), ("method", "rebat")),
            (("awp_start_epoch", "3"), ("awp_gamma", "0.01")),
        ] {
            assert!(result(&[refused]).unwrap_err().contains(": is not read"), "{refused:?}");
            assert_eq!(result(&[remedy, refused]), Ok(()), "{refused:?}");
        }
    }

    #[test]
    fn conditions_are_about_keys() {
        for name in CONDITIONS.iter().flat_map(|(names, ..)| *names) {
            assert_eq!(key(name).unwrap().name, *name);
        }
    }
}
