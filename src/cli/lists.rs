//! The commands that list what the program has: `saddle models`, `attacks`, `datasets` and `methods`.

use serde_json::{Value, json};

use super::flags::{Filter, JsonFlag};
use super::{Run, text};
use crate::attack::{self, AttackEntry, Parameter};
use crate::error::Result;
use crate::eval::plan::VERSIONS;
use crate::method::{METHODS, Method};
use crate::{data, nn};

/// List the network architectures (--model).
#[derive(clap::Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    json: JsonFlag,
}

/// List the attacks (eval --attack).
#[derive(clap::Args)]
pub struct AttacksArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    json: JsonFlag,
}

/// List the data sets (--dataset).
#[derive(clap::Args)]
pub struct DatasetsArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    json: JsonFlag,
}

/// List the training methods (--method).
#[derive(clap::Args)]
pub struct MethodsArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    json: JsonFlag,
}

impl Run for ModelsArgs {
    fn run(self, _: String) -> Result<()> {
        let models = nn::architectures().map(|model| (model.name, model.about));
        print(&self.json, &self.filter, "model", models)
    }
}

impl Run for AttacksArgs {
    fn run(self, _: String) -> Result<()> {
        let alone = attack::attacks().map(|AttackEntry { name, about, parameters, .. }| {
            (*name, *about, parameters.iter().map(Parameter::to_string).collect())
        });
        let all: Vec<ListedAttack> =
            alone.chain(VERSIONS.map(|(name, about)| (name, about, vec![]))).collect();
        let attacks = self.filter.select("attack", all, |(name, about, parameters)| {
            ((*name).to_owned(), format!("{about} {}", parameters.join(" ")))
        })?;
        let record = |(name, about, parameters): &ListedAttack| {
            json!({
                "name": name, "about": about, "parameters": parameters,
            })
        };
        let lines = |(name, about, parameters): &ListedAttack| {
            let flags: Vec<String> = parameters.iter().map(|parameter| format!("--{parameter}")).collect();
            let flags = if flags.is_empty() { String::new() } else { format!(" ({})", flags.join(", ")) };
            text::wrapped(&format!("{about}{flags}"), &format!("{name:<17}"), &" ".repeat(17), text::WIDTH)
        };
        self.json.print(
            || attacks.iter().map(record).collect::<Value>(),
            || attacks.iter().map(lines).collect::<String>(),
        )
    }
}

/// Name, description and parameters.
type ListedAttack = (&'static str, &'static str, Vec<String>);

impl Run for DatasetsArgs {
    fn run(self, _: String) -> Result<()> {
        let sources = data::SOURCES.iter().map(|source| (source.name, source.about));
        print(&self.json, &self.filter, "data set", sources)
    }
}

/// Prints names and descriptions.
fn print(
    json: &JsonFlag,
    filter: &Filter,
    kind: &str,
    entries: impl Iterator<Item = (&'static str, &'static str)>,
) -> Result<()> {
    let text = |(name, about): &(&str, &str)| ((*name).to_owned(), (*about).to_owned());
    let entries = filter.select(kind, entries.collect(), text)?;
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
        let text = |method: &&Method| {
            (method.name.to_owned(), [&[method.about, method.paper], method.keys].concat().join(" "))
        };
        let methods = self.filter.select("method", METHODS.iter().collect(), text)?;
        self.json.print(
            || methods.iter().map(|method| record(method)).collect::<Value>(),
            || methods.iter().map(|method| method_lines(method)).collect::<String>() + advice,
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
