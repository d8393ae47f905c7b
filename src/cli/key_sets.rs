//! The keys that commands have flags for, with the help of each.

use std::sync::LazyLock;

use crate::config::{Config, Key, recipe};
use crate::method;

/// The heading of the flags for networks, images and attacks.
pub const GROUP: &str = "Target and threat model";

/// The help of a flag, and its default.
pub type FlagHelp = (&'static str, Option<String>);

/// The keys that a command has flags for.
pub trait KeySet {
    /// The help for `key`; `None` if the command has no flag for it.
    fn help(key: &'static Key) -> Option<FlagHelp>;

    /// The heading of the flag for `key`.
    fn heading(_: &Key) -> &'static str {
        GROUP
    }
}

/// The keys of `saddle train`: all.
pub struct TrainKeys;

/// The configuration of the default recipe, if it can be read.
static DEFAULT_JOB: LazyLock<Option<Config>> =
    LazyLock::new(|| method::load_recipe(recipe::DEFAULT).ok().map(|recipe| recipe.config));

impl KeySet for TrainKeys {
    fn help(key: &'static Key) -> Option<FlagHelp> {
        let plain = key.default_text();
        let job = DEFAULT_JOB.as_ref().map(|config| key.text(config)).filter(|text| *text != plain);
        let default = match (plain.as_str(), job) {
            ("none" | "false", None) => None,
            (_, None) => Some(plain),
            (_, Some(job)) => Some(format!("{plain}; {}: {job}", recipe::DEFAULT)),
        };
        Some((key.help, default))
    }

    fn heading(key: &Key) -> &'static str {
        key.group
    }
}

/// The keys of `saddle eval`.
pub struct EvalKeys;

impl KeySet for EvalKeys {
    fn help(key: &'static Key) -> Option<FlagHelp> {
        Some(match key.name {
            "dataset" => ("The data set; its test images are used.", Some("the run's".into())),
            "data" | "norm" | "eps" | "seed" => (key.help, Some("the run's".into())),
            "model" => ("The architecture, for weights without metadata.", None),
            "mean" | "std" => (key.help, Some("those of the weights, else none".into())),
            "precision" => ("The numbers that convolutions multiply.", Some("f32".into())),
            _ => return common_help(key),
        })
    }
}

/// The keys of `saddle attack`.
pub struct AttackKeys;

impl KeySet for AttackKeys {
    fn help(key: &'static Key) -> Option<FlagHelp> {
        Some(match key.name {
            "norm" | "eps" => (key.help, Some("those the weights were trained with".into())),
            "seed" => (key.help, Some(key.default_text())),
            _ => return common_help(key),
        })
    }
}

/// The help for the keys that `saddle eval` and `saddle attack` have in common.
fn common_help(key: &'static Key) -> Option<FlagHelp> {
    match key.name {
        "step_size" => Some((key.help, Some("1/4 of eps; l2: 15/128".into()))),
        "batch" => Some(("Images per batch.", Some(key.default_text()))),
        "device" => Some((key.help, Some(key.default_text()))),
        "pixel_units" => Some((key.help, None)),
        _ => None,
    }
}
