//! A flag for every hyper-parameter, made from the table [`KEYS`]: name, help, symbol, form and default have
//! no other source.

use std::marker::PhantomData;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

use crate::config::recipe;
use crate::config::{Config, KEYS, Key, assignment};
use crate::error::Result;
use crate::method;

/// What a command's help says about a key.
pub struct Shown {
    heading: &'static str,
    help: &'static str,
    default: Option<String>,
}

/// Which keys a command has flags for.
pub trait Offer {
    /// What help says about `key`; `None` when the command has no flag for it.
    fn shown(key: &'static Key) -> Option<Shown>;
}

/// The keys of `saddle train`: all.
pub struct ForTraining;

/// The configuration of the default recipe, if it can be read.
static DEFAULT_JOB: LazyLock<Option<Config>> =
    LazyLock::new(|| method::load_recipe(recipe::DEFAULT).ok().map(|recipe| recipe.config));

impl Offer for ForTraining {
    fn shown(key: &'static Key) -> Option<Shown> {
        let plain = key.default_text();
        let job = DEFAULT_JOB.as_ref().map(|config| key.text(config)).filter(|text| *text != plain);
        let default = match (plain.as_str(), job) {
            ("none" | "false", None) => None,
            (_, None) => Some(plain),
            (_, Some(job)) => Some(format!("{plain}; {}: {job}", recipe::DEFAULT)),
        };
        Some(Shown { heading: key.group, help: key.help, default })
    }
}

/// The keys of `saddle eval`.
pub struct ForEvaluation;

impl Offer for ForEvaluation {
    fn shown(key: &'static Key) -> Option<Shown> {
        let (help, default) = match key.name {
            "dataset" => ("The data set; its test images are used.", Some("the run's".into())),
            "data" | "norm" | "eps" | "seed" => (key.help, Some("the run's".into())),
            "step_size" => (key.help, Some("1/4 of eps; l2: 15/128".into())),
            "batch" => ("Images at once.", Some(key.default_text())),
            "device" => (key.help, Some(key.default_text())),
            "pixel_units" => (key.help, None),
            "model" => ("The architecture, of weights that do not say it.", None),
            "mean" | "std" => (key.help, Some("the weights', else none".into())),
            _ => return None,
        };
        Some(Shown { heading: "What and how", help, default })
    }
}

/// The keys of `saddle attack`.
pub struct ForCrafting;

impl Offer for ForCrafting {
    fn shown(key: &'static Key) -> Option<Shown> {
        let default = match key.name {
            "norm" | "eps" => "what the weights were trained for".into(),
            "step_size" => "1/4 of eps; l2: 15/128".into(),
            "seed" | "batch" | "device" => key.default_text(),
            "pixel_units" => return Some(Shown { heading: "What and how", help: key.help, default: None }),
            _ => return None,
        };
        let help = if key.name == "batch" { "Images at once." } else { key.help };
        Some(Shown { heading: "What and how", help, default: Some(default) })
    }
}

/// The form of a value of `key`, short, and `help`, which lists the words that do not fit there.
pub fn metavar_and_help(key: &Key, help: &str) -> (String, String) {
    let (metavar, help) = ((key.metavar)(), help.trim_end_matches('.'));
    match metavar.contains('|') {
        _ if metavar.len() <= 14 => (metavar, help.to_owned()),
        true => ("WORD".into(), format!("{help} [{}]", metavar.replace('|', ", "))),
        false => ("LIST".into(), help.to_owned()),
    }
}

/// Hyper-parameters as they were given: flags, and `--set key=value`, in the order of the command line.
pub struct Given<O> {
    /// Place on the command line, key (none: `--set`), text.
    entries: Vec<(usize, Option<&'static str>, String)>,
    offer: PhantomData<O>,
}

impl<O> Given<O> {
    /// Key and value of every setting; a later one wins over an earlier one.
    ///
    /// Errors: [`Error::Value`](crate::Error::Value) for a `--set` that has no `=`.
    pub fn settings(&self) -> Result<Vec<(String, String)>> {
        let pair = |(_, key, text): &(usize, Option<&str>, String)| match key {
            Some(key) => Ok(((*key).to_owned(), text.clone())),
            None => assignment(text),
        };
        self.entries.iter().map(pair).collect()
    }
}

/// The flag of `key`.
fn flag(key: &'static Key, shown: Shown) -> Arg {
    let (metavar, mut help) = metavar_and_help(key, shown.help);
    if !key.symbol.is_empty() {
        help += &format!(" ({})", key.symbol);
    }
    if let Some(default) = shown.default {
        help += &format!(" [default: {default}]");
    }
    let long = key.name.replace('_', "-");
    let mut arg = Arg::new(key.name).long(&long).value_name(metavar).help(help).help_heading(shown.heading);
    if long != key.name {
        arg = arg.alias(key.name);
    }
    match (key.metavar)().as_str() {
        "true|false" => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
        }
        // `--eps -1` gets the answer of the table, not one about an unknown flag.
        form => arg.allow_hyphen_values(form.contains("NUMBER") || form.contains("COUNT")),
    }
}

impl<O: Offer> Args for Given<O> {
    fn augment_args(command: Command) -> Command {
        let command = command.args_override_self(true);
        let offered = KEYS.iter().filter_map(|key| Some(flag(key, O::shown(key)?)));
        offered.fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<O: Offer> FromArgMatches for Given<O> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut entries = Vec::new();
        let offered = KEYS.iter().filter(|key| O::shown(key).is_some());
        for key in offered.filter(|key| matches.value_source(key.name) == Some(ValueSource::CommandLine)) {
            let values = matches.get_many::<String>(key.name).into_iter().flatten();
            entries.extend(
                matches
                    .indices_of(key.name)
                    .into_iter()
                    .flatten()
                    .zip(values)
                    .map(|(at, text)| (at, Some(key.name), text.clone())),
            );
        }
        if let Ok(Some(values)) = matches.try_get_many::<String>("set") {
            entries.extend(
                matches
                    .indices_of("set")
                    .into_iter()
                    .flatten()
                    .zip(values)
                    .map(|(at, text)| (at, None, text.clone())),
            );
        }
        entries.sort_by_key(|(at, ..)| *at);
        Ok(Given { entries, offer: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag `--set key=value`, which may be given often.
#[derive(Args)]
pub struct Set {
    /// Any hyper-parameter by its key, as often as wanted; the last of several settings of a key holds
    #[arg(long = "set", id = "set", value_name = "KEY=VALUE", action = ArgAction::Append, help_heading = "Running")]
    given: Vec<String>,
}

/// The settings of a command that has no other flags for keys.
pub fn sets(set: &Set) -> Result<Vec<(String, String)>> {
    set.given.iter().map(|text| assignment(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &[&str]) -> Vec<(String, String)> {
        let command =
            Set::augment_args(Given::<ForTraining>::augment_args(Command::new("train").no_binary_name(true)));
        Given::<ForTraining>::from_arg_matches(&command.try_get_matches_from(words).unwrap())
            .unwrap()
            .settings()
            .unwrap()
    }

    #[test]
    fn settings_keep_the_order_of_the_command_line() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let given = settings(&[
            "--set",
            "eps=1",
            "--step-size",
            "-1/255",
            "--eps",
            "8",
            "--set=lr=2",
            "--pixel-units",
            "--weight_decay",
            "0",
        ]);
        let expected = [
            ("eps", "1"),
            ("step_size", "-1/255"),
            ("eps", "8"),
            ("lr", "2"),
            ("pixel_units", "true"),
            ("weight_decay", "0"),
        ]
        .map(|(k, v)| pair(k, v));
        assert_eq!(given, expected);
        assert_eq!(settings(&["--batch", "1", "--batch", "2"]), [pair("batch", "2")]);
        assert_eq!(settings(&["--pixel-units=false"]), [pair("pixel_units", "false")]);
    }
}
