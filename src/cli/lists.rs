//! The commands that list what the program has: `saddle models`, `attacks`, `datasets` and `methods`.

use serde_json::{Value, json};

use super::flags::JsonFlag;
use super::{Run, text};
use crate::error::Result;
use crate::eval::plan::VERSIONS;
use crate::method::{METHODS, Method};
use crate::{attack, data, nn};

/// List the network architectures (--model).
#[derive(clap::Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    json: JsonFlag,
}

/// List the attacks (eval --attack).
#[derive(clap::Args)]
pub struct AttacksArgs {
    #[command(flatten)]
    json: JsonFlag,
}

/// List the data sets (--dataset).
#[derive(clap::Args)]
pub struct DatasetsArgs {
    #[command(flatten)]
    json: JsonFlag,
}

/// List the training methods (--method).
#[derive(clap::Args)]
pub struct MethodsArgs {
    #[command(flatten)]
    json: JsonFlag,
}

impl Run for ModelsArgs {
    fn run(self, _: String) -> Result<()> {
        print(&self.json, nn::architectures().map(|model| (model.name, model.about)))
    }
}

impl Run for AttacksArgs {
    fn run(self, _: String) -> Result<()> {
        print(&self.json, attack::attacks().map(|attack| (attack.name, attack.about)).chain(VERSIONS))
    }
}

impl Run for DatasetsArgs {
    fn run(self, _: String) -> Result<()> {
        print(&self.json, data::SOURCES.iter().map(|source| (source.name, source.about)))
    }
}

/// Prints names and descriptions.
fn print(json: &JsonFlag, entries: impl Iterator<Item = (&'static str, &'static str)>) -> Result<()> {
    let entries: Vec<_> = entries.collect();
    let record = |(name, about): &(&str, &str)| json!({"name": name, "about": about});
    json.print(
        || entries.iter().map(record).collect::<Value>(),
        || text::facts(entries.iter().map(|(name, about)| (*name, (*about).to_owned()))),
    )
}

impl Run for MethodsArgs {
    fn run(self, _: String) -> Result<()> {
        let record = |method: &Method| {
            let Method { name, about, paper, keys, .. } = method;
            json!({"name": name, "about": about, "paper": paper, "keys": keys})
        };
        let advice = "\n'saddle keys NAME' explains a key. Every method also reads awp_gamma, average and \
                      the keys of the attack.\n";
        self.json.print(
            || METHODS.iter().map(record).collect::<Value>(),
            || METHODS.iter().map(method_lines).collect::<String>() + advice,
        )
    }
}

/// A method with its paper and the keys that it reads.
fn method_lines(Method { name, about, paper, keys, .. }: &Method) -> String {
    let mut lines = format!("{name}\n{}", text::wrapped(about, "    ", "    ", text::WIDTH));
    if !paper.is_empty() {
        lines += &text::wrapped(paper, "    paper: ", "           ", text::WIDTH);
    }
    if !keys.is_empty() {
        lines += &text::wrapped(&keys.join(", "), "    keys: ", "          ", text::WIDTH);
    }
    lines
}
