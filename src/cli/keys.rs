//! `saddle keys`: the hyper-parameters.

use serde_json::{Value, json};

use super::flags::{Filter, JsonFlag, metavar_and_help};
use super::{Run, text};
use crate::config::{KEYS, Key};
use crate::error::Result;

/// List the hyper-parameters: symbol, default, form and meaning.
#[derive(clap::Args)]
#[command(
    after_help = "Each is a flag of 'saddle train', a key of recipes and of --set, and a field of run.json."
)]
pub struct KeysArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    json: JsonFlag,
}

impl Run for KeysArgs {
    fn run(self, _: String) -> Result<()> {
        let text = |key: &&Key| (key.name.to_owned(), format!("{} {}", key.group, key.help));
        let found = self.filter.select("key", KEYS.iter().collect(), text)?;
        let record = |key: &&Key| {
            json!({
                "name": key.name, "group": key.group, "symbol": key.symbol, "metavar": (key.metavar)(),
                "default": key.default_text(), "help": key.help,
            })
        };
        self.json.print(|| found.iter().map(record).collect::<Value>(), || list(&found))
    }
}

/// The keys by group: columns with name, symbol, default and form, and the meaning after them.
fn list(keys: &[&Key]) -> String {
    let cells = |key: &&Key| {
        let (metavar, _) = metavar_and_help(key, key.help);
        [&format!("  {}", key.name), key.symbol, &key.default_text(), &metavar].map(str::to_owned)
    };
    let columns = text::table(&keys.iter().map(cells).collect::<Vec<_>>(), &[]);
    let width = columns.lines().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    let mut lines = String::new();
    let mut group = "";
    for (key, columns) in keys.iter().zip(columns.lines()) {
        if key.group != group {
            group = key.group;
            lines += &format!("{group}\n");
        }
        let first = format!("{columns}{}", " ".repeat(width - columns.chars().count()));
        lines += &text::wrapped(&metavar_and_help(key, key.help).1, &first, &" ".repeat(width), text::WIDTH);
    }
    lines
}
