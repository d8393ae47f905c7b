//! The keys that a method reads: which of the group "Method" may be given.

use crate::config::recipe::{self, Recipe};
use crate::config::{Config, METHOD_GROUP, key};
use crate::error::{Error, Result};
use crate::method;

/// Checks the keys of `settings`, which `config` has taken.
///
/// Errors: a key of the group "Method" that the method of `config` does not read, with the nearest that it
/// does.
pub fn check_keys<K: AsRef<str>, V>(config: &Config, settings: &[(K, V)]) -> Result<()> {
    // An unknown method is reported where it is looked up.
    let Ok(method) = method::find(&config.method) else { return Ok(()) };
    for (name, _) in settings {
        let key = key(name.as_ref())?;
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
