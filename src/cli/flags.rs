//! Flags that several commands share. Those for hyper-parameters are generated from the table [`KEYS`], the
//! only source of their names, help, symbols, forms and defaults.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use serde::Serialize;

pub use super::key_sets::{AttackKeys, EvalKeys, GROUP, KeySet, TrainKeys};
use super::{key_sets::FlagHelp, text};
use crate::attack::{Parameter, Params};
use crate::config::{Config, KEYS, Key, assignment};
use crate::device::DeviceChoice;
use crate::error::{Error, Result, contains_words};
use crate::eval::plan;

/// The short form of a value of `key`, and `help`, with the list of choices if that is too long for it.
pub fn metavar_and_help(key: &Key, help: &str) -> (String, String) {
    let (metavar, help) = ((key.metavar)(), help.trim_end_matches('.'));
    match metavar.contains('|') {
        _ if metavar.len() <= 14 => (metavar, help.to_owned()),
        true => ("WORD".into(), format!("{help} [{}]", metavar.replace('|', ", "))),
        false => ("LIST".into(), help.to_owned()),
    }
}

/// The hyper-parameters on a command line: flags, and `--set key=value`, in their order.
pub struct KeyFlags<F> {
    /// Place on the command line, key (`None`: given with `--set`) and text.
    entries: Vec<(usize, Option<&'static str>, String)>,
    flags: PhantomData<F>,
}

impl<F> KeyFlags<F> {
    /// Key and value of every setting; the last one of a key holds.
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
fn flag(key: &'static Key, heading: &'static str, (help, default): FlagHelp) -> Arg {
    let (metavar, mut help) = metavar_and_help(key, help);
    if !key.symbol.is_empty() {
        help += &format!(" ({})", key.symbol);
    }
    if let Some(default) = default {
        help += &format!(" [default: {default}]");
    }
    let long = key.name.replace('_', "-");
    let mut arg = Arg::new(key.name).long(&long).value_name(metavar).help(help).help_heading(heading);
    if long != key.name {
        arg = arg.alias(key.name);
    }
    match (key.metavar)().as_str() {
        "true|false" => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
        }
        // For `--eps -1` the message of the key, not one about an unknown flag.
        form => arg.allow_hyphen_values(form.contains("NUMBER") || form.contains("COUNT")),
    }
}

impl<F: KeySet> Args for KeyFlags<F> {
    fn augment_args(command: Command) -> Command {
        let command = command.args_override_self(true);
        let offered = KEYS.iter().filter_map(|key| Some(flag(key, F::heading(key), F::help(key)?)));
        offered.fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<F: KeySet> FromArgMatches for KeyFlags<F> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let collect = |id: &str, key: Option<&'static str>| {
            let indices = matches.indices_of(id).into_iter().flatten();
            let values = matches.get_many::<String>(id).into_iter().flatten();
            indices.zip(values).map(|(index, text)| (index, key, text.clone())).collect::<Vec<_>>()
        };
        let given = |key: &&'static Key| {
            F::help(key).is_some() && matches.value_source(key.name) == Some(ValueSource::CommandLine)
        };
        let mut entries: Vec<_> =
            KEYS.iter().filter(given).flat_map(|key| collect(key.name, Some(key.name))).collect();
        if matches.try_contains_id("set").unwrap_or(false) {
            entries.extend(collect("set", None));
        }
        entries.sort_by_key(|(index, ..)| *index);
        Ok(KeyFlags { entries, flags: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The repeatable flag `--set key=value`.
#[derive(Args)]
pub struct SetFlag {
    /// Any hyper-parameter by its key; may be repeated, and the last value of a key holds
    #[arg(
        long = "set",
        id = "set",
        value_name = "KEY=VALUE",
        action = ArgAction::Append,
        help_heading = "Running"
    )]
    assignments: Vec<String>,
}

impl SetFlag {
    /// Key and value of every setting, for a command without [`KeyFlags`].
    pub fn settings(&self) -> Result<Vec<(String, String)>> {
        self.assignments.iter().map(|text| assignment(text)).collect()
    }
}

/// The flag `--device` of commands without [`KeyFlags`].
#[derive(Args)]
pub struct DeviceFlag {
    /// The device to run on [auto, host, host-checked, host-as-cuda, cuda, cuda:N]
    #[arg(long = "device", value_name = "WORD", default_value = "auto")]
    name: String,
}

impl DeviceFlag {
    /// Errors: not the name of a device.
    pub fn choice(&self) -> Result<DeviceChoice> {
        self.name.parse()
    }
}

/// The flag `--json` of commands that print one thing.
#[derive(Args)]
pub struct JsonFlag {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl JsonFlag {
    /// Prints the record as JSON if the flag is given, the text otherwise.
    pub fn print<R: Serialize>(
        &self,
        record: impl FnOnce() -> R,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        if self.json { text::print_json(&record()) } else { text::print(&text()) }
    }
}

/// The filter of commands that print a list.
#[derive(Args)]
pub struct Filter {
    /// Only entries with all of these words in their names or, if there is none, in their descriptions
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

impl Filter {
    /// The one word that is given, or none.
    pub fn word(&self) -> Option<&str> {
        if let [word] = self.words.as_slice() { Some(word) } else { None }
    }

    /// The entries whose names contain the words or, if there is none, those whose descriptions do; `text`
    /// gives both.
    ///
    /// Errors: [`Error::Unknown`] where no entry is left, with the nearest names.
    pub fn select<T>(
        &self,
        kind: &str,
        entries: Vec<T>,
        text: impl Fn(&T) -> (String, String),
    ) -> Result<Vec<T>> {
        let wanted = self.words.join(" ");
        let named = |entry: &T| contains_words(&text(entry).0, &wanted);
        let described = |entry: &T| {
            let (name, about) = text(entry);
            contains_words(&format!("{name} {about}"), &wanted)
        };
        if entries.iter().any(named) {
            return Ok(entries.into_iter().filter(named).collect());
        }
        if !entries.iter().any(described) {
            let names: Vec<String> = entries.iter().map(|entry| text(entry).0).collect();
            return Err(Error::unknown(kind, &wanted, names.iter().map(String::as_str)));
        }
        Ok(entries.into_iter().filter(described).collect())
    }
}

/// The heading of [`AttackFlags`].
const ATTACK_GROUP: &str = "Parameters of attacks";

/// The parameters that were given; the others have the attack's own defaults.
#[derive(Args)]
pub struct AttackFlags {
    /// Steps, or queries of square, for an attack without a number in its name [default: the attack's]
    #[arg(long, value_name = "COUNT", help_heading = ATTACK_GROUP)]
    steps: Option<usize>,
    /// Random starts, each on the images that withstood the earlier ones [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = ATTACK_GROUP)]
    restarts: Option<usize>,
    /// Target classes of apgd-t and fab-t, from the runner-up on [default: 9]
    #[arg(long, value_name = "COUNT", help_heading = ATTACK_GROUP)]
    targets: Option<usize>,
    /// Passes to average each gradient of apgd-ce, apgd-dlr and apgd-t over, for randomized defenses
    /// [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = ATTACK_GROUP)]
    eot_iter: Option<usize>,
    /// Confidence of cw: a margin below -kappa (κ) counts as -kappa [default: 50]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = ATTACK_GROUP)]
    kappa: Option<f32>,
    /// Part of the accumulated gradient that mim keeps at each step (μ) [default: 1]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = ATTACK_GROUP)]
    momentum: Option<f32>,
}

impl AttackFlags {
    /// Each parameter that was given, and its text.
    pub fn given(&self) -> impl Iterator<Item = (Parameter, String)> {
        let count = |count: Option<usize>| count.map(|count| count.to_string());
        let number = |number: Option<f32>| number.map(|number| number.to_string());
        let parameters = [
            (Parameter::Steps, count(self.steps)),
            (Parameter::Restarts, count(self.restarts)),
            (Parameter::Targets, count(self.targets)),
            (Parameter::EotIter, count(self.eot_iter)),
            (Parameter::Kappa, number(self.kappa)),
            (Parameter::Momentum, number(self.momentum)),
        ];
        parameters.into_iter().filter_map(|(parameter, value)| Some((parameter, value?)))
    }

    /// The parameters of `attacks`: those given, the ball and seed of `config`, and its step size if
    /// `settings` give it.
    ///
    /// Errors: an unknown attack; a parameter that was given and that none of the attacks takes.
    pub fn params(
        &self,
        attacks: &[String],
        config: &Config,
        settings: &[(String, String)],
    ) -> Result<Params> {
        let mut given: Vec<_> = self.given().collect();
        let step_size = settings.iter().rev().find(|(key, _)| key == "step_size");
        given.extend(step_size.map(|(_, value)| (Parameter::StepSize, value.clone())));
        let default = Params::default();
        let params = Params {
            ball: config.ball(),
            step_size: step_size.map(|_| config.step_size.get()),
            steps: self.steps,
            restarts: self.restarts.unwrap_or(default.restarts),
            targets: self.targets.unwrap_or(default.targets),
            eot_iter: self.eot_iter.unwrap_or(default.eot_iter),
            kappa: self.kappa.unwrap_or(default.kappa),
            momentum: self.momentum.unwrap_or(default.momentum),
            seed: config.seed,
        };
        plan::check(attacks, &params, &given)?;
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &[&str]) -> Vec<(String, String)> {
        let command = SetFlag::augment_args(KeyFlags::<TrainKeys>::augment_args(
            Command::new("train").no_binary_name(true),
        ));
        KeyFlags::<TrainKeys>::from_arg_matches(&command.try_get_matches_from(words).unwrap())
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
