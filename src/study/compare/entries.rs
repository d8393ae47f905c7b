//! The entries of a comparison: recipes for one data set.

use crate::config::Config;
use crate::config::recipe::{self, Recipe, Reference};
use crate::error::{Error, Result};
use crate::method;
use crate::train;
use std::collections::BTreeSet;

/// The recipes for `dataset` with one of `methods` (methods or recipe names; empty: all) and with `model`
/// (`None`: any), each with `settings` applied, in the order of the methods.
///
/// Errors: a method or model without a recipe for the data set; settings that cannot be read or that
/// contradict each other.
pub fn entries(
    dataset: &str,
    methods: &[String],
    model: Option<&str>,
    settings: &[(String, String)],
) -> Result<Vec<Recipe>> {
    let all = recipe::names()?.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
    let mut entries: Vec<Recipe> = all.into_iter().filter(|r| r.config.dataset == dataset).collect();
    entries.sort_by_key(|r| method::METHODS.iter().position(|m| m.name == r.config.method));
    if let Some(model) = model {
        let known: BTreeSet<String> = entries.iter().map(|r| r.config.model.clone()).collect();
        entries.retain(|r| r.config.model == model);
        if entries.is_empty() {
            let kind = format!("model with recipes for {dataset}");
            return Err(Error::unknown(&kind, model, known.iter().map(String::as_str)));
        }
    }
    if !methods.is_empty() {
        let matches = |r: &Recipe, wanted: &str| {
            r.name == wanted || method::find(wanted).is_ok_and(|m| m.name == r.config.method)
        };
        if let Some(missing) = methods.iter().find(|wanted| !entries.iter().any(|r| matches(r, wanted))) {
            let known: Vec<&str> = entries.iter().map(|r| r.config.method.as_str()).collect();
            return Err(Error::unknown(&format!("method or recipe for {dataset}"), missing, known));
        }
        entries.retain(|r| methods.iter().any(|wanted| matches(r, wanted)));
    }
    for recipe in &mut entries {
        let before = recipe.config.clone();
        method::apply(&mut recipe.config, settings)?;
        train::validate(&recipe.config)?;
        if !train::changed_keys(&recipe.config, &before).is_empty() {
            recipe.reference = Reference::default();
        }
    }
    if entries.is_empty() {
        return Err(Error::value("dataset", dataset, "has no recipes; 'saddle recipes' lists them all"));
    }
    Ok(entries)
}

/// The name of an entry in tables: the method, with the keys that tell variants of it apart (RPAT's base;
/// the parts of the perturbation that boundary samples and others keep).
pub fn display_name(config: &Config) -> String {
    match method::find(&config.method) {
        Ok(entry) if entry.keys.contains(&"base") => format!("{} on {}", entry.name, config.base),
        Ok(entry) if entry.keys.contains(&"rho_boundary") => {
            format!("{} ({}; {})", entry.name, config.rho_boundary, config.rho_other)
        }
        _ => config.method.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_by_method_and_model() {
        let names = |methods: &[&str]| -> Vec<String> {
            let methods: Vec<String> = methods.iter().map(|m| (*m).to_owned()).collect();
            let entries = entries("digits", &methods, None, &[]).unwrap();
            entries.iter().map(|r| display_name(&r.config)).collect()
        };
        assert_eq!(names(&["pgd-at", "raat"]), ["pgd-at", "raat"]);
        assert_eq!(names(&["rpat"]).len(), 4);
        let every: BTreeSet<String> =
            entries("digits", &[], None, &[]).unwrap().into_iter().map(|r| r.config.method).collect();
        let known =
            method::METHODS.iter().map(|m| m.name.to_owned()).filter(|name| name != "boundary-at").collect();
        assert_eq!(every, known, "every method has a digits recipe");
        let message =
            |methods: &[String], model| entries("digits", methods, model, &[]).unwrap_err().to_string();
        let unknown = message(&["tradez".into()], None);
        assert!(
            unknown.starts_with("unknown method or recipe for digits 'tradez' (did you mean 'trades'?)"),
            "{unknown}"
        );
        assert!(message(&[], Some("resnet19")).starts_with("unknown model with recipes for digits"));
    }
}
