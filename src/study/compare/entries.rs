//! The entries of a comparison: recipes for one data set.

use crate::config::recipe::{self, Recipe, Reference};
use crate::config::{Config, key};
use crate::error::{Error, Result};
use crate::method::{self, is_read};
use crate::train;
use std::collections::BTreeSet;
use std::path::Path;

/// Keys of a comparison that have a flag of their own, and the flag.
const OWN_FLAGS: &[(&str, &str)] = &[
    ("dataset", "--dataset"),
    ("method", "--methods"),
    ("seed", "--seeds"),
    ("device", "--device"),
    ("out", "--out"),
];

/// The recipes of a comparison on `dataset`: those with one of `methods` and with `model` (`None`: any), each
/// with `settings` applied, in the order of the methods. `methods` are methods, recipes or files with a
/// recipe; empty: all recipes for the data set. A method without a recipe for it takes the place of PGD-AT in
/// PGD-AT's.
///
/// Errors: an unknown method, recipe or model; a file that cannot be read, or is for another data set or
/// model; two recipes of one name; settings that cannot be read or that contradict each other.
pub fn entries(
    dataset: &str,
    methods: &[String],
    model: Option<&str>,
    settings: &[(String, String)],
) -> Result<Vec<Recipe>> {
    for (name, value) in settings {
        let name = key(name)?.name;
        if let Some((_, flag)) = OWN_FLAGS.iter().find(|(own, _)| *own == name) {
            return Err(Error::value("--set", format!("{name}={value}"), format!("is set by {flag}")));
        }
    }
    let all = recipe::names()?.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
    let mut known: Vec<Recipe> = all.into_iter().filter(|r| r.config.dataset == dataset).collect();
    if let Some(model) = model.filter(|_| !known.is_empty()) {
        let models: BTreeSet<String> = known.iter().map(|r| r.config.model.clone()).collect();
        known.retain(|r| r.config.model == model);
        if known.is_empty() {
            let kind = format!("model with recipes for {dataset}");
            return Err(Error::unknown(&kind, model, models.iter().map(String::as_str)));
        }
    }
    let mut entries: Vec<Recipe> = Vec::new();
    for wanted in methods {
        let found = if recipe::is_path(wanted) {
            vec![from_file(wanted, dataset, model)?]
        } else {
            by_name(wanted, dataset, model, &known)?
        };
        for entry in found {
            match entries.iter().find(|other| other.name == entry.name) {
                None => entries.push(entry),
                Some(other) if *other == entry => {}
                Some(_) => {
                    let problem = format!("two recipes are called {}; rename the file", entry.name);
                    return Err(Error::value("methods", wanted, problem));
                }
            }
        }
    }
    if methods.is_empty() {
        entries = known;
    }
    entries.sort_by_key(|r| method::METHODS.iter().position(|m| m.name == r.config.method));
    for recipe in &mut entries {
        let before = recipe.config.clone();
        recipe.config.apply(settings)?;
        train::validate(&recipe.config)?;
        if !train::changed_keys(&recipe.config, &before).is_empty() {
            recipe.reference = Reference::default();
        }
    }
    // A setting may be for some of the entries only.
    for setting in settings {
        let key = key(&setting.0)?;
        if let Some(first) = entries.first().filter(|_| !entries.iter().any(|r| is_read(&r.config, key))) {
            method::check_keys(&first.config, std::slice::from_ref(setting))?;
        }
    }
    if entries.is_empty() {
        let problem =
            "has no recipes ('saddle recipes' lists them all); name methods or recipe files: --methods";
        return Err(Error::value("dataset", dataset, problem));
    }
    Ok(entries)
}

/// The recipe in a file. Errors: it is for another data set or model.
fn from_file(path: &str, dataset: &str, model: Option<&str>) -> Result<Recipe> {
    let recipe = method::load_recipe(path)?;
    let wanted = [("dataset", &recipe.config.dataset, Some(dataset)), ("model", &recipe.config.model, model)];
    for (key, own, wanted) in wanted {
        if let Some(wanted) = wanted.filter(|wanted| wanted != own) {
            let problem = format!("is for the {key} {own}, the comparison for {wanted}; add --{key} {own}");
            return Err(Error::file(Path::new(path), problem));
        }
    }
    Ok(recipe)
}

/// The recipes among `known`, all for `dataset`, that a name stands for: its own, or those of its method.
///
/// Errors: neither a method nor one of these recipes.
fn by_name(wanted: &str, dataset: &str, model: Option<&str>, known: &[Recipe]) -> Result<Vec<Recipe>> {
    let spelled = wanted.to_lowercase().replace('_', "-");
    if let Some(recipe) = known.iter().find(|r| r.name == spelled) {
        return Ok(vec![recipe.clone()]);
    }
    let Ok(method) = method::find(wanted) else {
        let names = method::METHODS.iter().map(|m| m.name).chain(known.iter().map(|r| r.name.as_str()));
        return Err(Error::unknown(&format!("method or recipe for {dataset}"), wanted, names));
    };
    let of_method: Vec<Recipe> = known.iter().filter(|r| r.config.method == method.name).cloned().collect();
    if !of_method.is_empty() {
        return Ok(of_method);
    }
    let base = known.iter().find(|r| r.config.method == "pgd-at");
    let mut config = base.map(|r| r.config.clone()).unwrap_or_default();
    let model = model.map_or(config.model.clone(), str::to_owned);
    config.apply(&[("dataset", dataset), ("method", method.name), ("model", &model)])?;
    Ok(vec![Recipe { name: format!("{}-{dataset}", method.name), config, ..Recipe::default() }])
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

    #[test]
    fn methods_and_recipes_of_ones_own_are_compared() {
        let own = |dataset: &str, methods: &[&str], model: Option<&str>, settings: &[(&str, &str)]| {
            let methods: Vec<String> = methods.iter().map(|m| (*m).to_owned()).collect();
            let settings: Vec<_> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            entries(dataset, &methods, model, &settings).map_err(|error| error.to_string())
        };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let mine = file("mine.toml", "extends = 'digits'\nmethod = 'trades'\nbeta = 3\nlr = 0.07");
        let found = own("digits", &[&mine, "pgd-at", &mine], None, &[("epochs", "2")]).unwrap();
        let names: Vec<&str> = found.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["digits", "mine"], "each once, in the order of the methods");
        assert_eq!((found[1].config.lr, found[1].config.beta, found[1].config.epochs), (0.07, 3.0, 2));

        // boundary-at has no recipe for digits: the default job with that method.
        let found = own("digits", &["boundary-at"], None, &[("rho_boundary", "0.1")]).unwrap().remove(0);
        let digits = method::load_recipe("digits").unwrap().config;
        assert_eq!(
            (found.name.as_str(), found.config.method.as_str()),
            ("boundary-at-digits", "boundary-at")
        );
        assert_eq!((found.config.eps, found.config.epochs), (digits.eps, digits.epochs));
        assert_eq!(found.reference, recipe::Reference::default());
        let found = own("file", &["pgd-at"], None, &[("data", "x.npz")]).unwrap().remove(0);
        assert_eq!((found.name.as_str(), found.config.dataset.as_str()), ("pgd-at-file", "file"));

        let twin = file("digits.toml", "extends = 'digits'\nlr = 0.07");
        for (result, expected) in [
            (
                own("cifar10", &[&mine], None, &[]),
                "is for the dataset digits, the comparison for cifar10; add",
            ),
            (own("digits", &[&mine], Some("resnet18"), &[]), "unknown model with recipes for digits"),
            (own("digits", &["pgd-at", &twin], None, &[]), "two recipes are called digits; rename the file"),
            (own("digits", &["no.toml"], None, &[]), "no.toml: cannot read the recipe"),
            (own("digits", &[], None, &[("seed", "3")]), "--set = seed=3: is set by --seeds"),
            (own("file", &[], None, &[]), "dataset = file: has no recipes"),
        ] {
            let message = result.unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        // rho is for RAAT, select_steps not for clean training, whose recipe selects no epoch.
        let mixed = own("digits", &["raat", "standard"], None, &[("rho", "0.2"), ("select_steps", "1")]);
        assert_eq!(mixed.unwrap().len(), 2);
        let unread = own("digits", &["standard"], None, &[("select_steps", "1")]).unwrap_err();
        assert!(unread.starts_with("select_steps = 1: is not read"), "{unread}");
        assert!(own("digits", &["pgd-at", "standard"], None, &[("rho", "0.2")]).is_err());
        let unknown = own("digits", &["rpa"], None, &[]).unwrap_err();
        assert_eq!(unknown.matches(" rpat,").count(), 1, "{unknown}");
    }
}
