//! The commands that list what there is: recipes, hyper-parameters, models, methods, attacks, data sets.

use serde_json::{Value, json};

use super::flags::metavar_and_help;
use super::text;
use crate::config::recipe::{self, Recipe};
use crate::config::{KEYS, Key, key};
use crate::error::Result;
use crate::eval::plan::VERSIONS;
use crate::{attack, data, method, nn};

/// List the recipes, or print one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle recipes
      all of them, with the accuracy each should reach
  saddle recipes digits > mine.toml
      a copy to change; then: saddle train mine.toml")]
pub struct RecipesArguments {
    /// Print this one as TOML
    name: Option<String>,
    /// Print JSON, with the value of every hyper-parameter
    #[arg(long)]
    json: bool,
}

/// List the hyper-parameters: symbol, default, form and meaning.
#[derive(clap::Args)]
#[command(
    after_help = "Each is a flag of 'saddle train', a key of recipes and of --set, and a field of run.json."
)]
pub struct KeysArguments {
    /// Only keys whose name, group or meaning contains this
    filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of a command that prints one list.
#[derive(clap::Args)]
pub struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `saddle recipes`.
pub fn recipes(arguments: RecipesArguments) -> Result<()> {
    if let Some(name) = &arguments.name {
        let recipe = method::load_recipe(name)?;
        return if arguments.json {
            text::print_json(&described(&recipe))
        } else {
            text::print(&recipe.to_toml())
        };
    }
    let recipes =
        recipe::names()?.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
    if arguments.json {
        return text::print_json(&recipes.iter().map(described).collect::<Vec<_>>());
    }
    let mut lines = String::new();
    for recipe in &recipes {
        lines += &format!("{}\n{}", recipe.name, text::wrapped(&recipe.about, "    ", "    ", text::WIDTH));
        let goals = [
            ("clean", &recipe.reference.clean),
            ("PGD-20", &recipe.reference.pgd20),
            ("AutoAttack", &recipe.reference.aa),
        ];
        let goals: Vec<String> = goals
            .iter()
            .filter_map(|(name, goal)| goal.as_ref().map(|goal| format!("{name} {goal} %")))
            .collect();
        if !goals.is_empty() {
            lines += &format!("    should reach: {}\n", goals.join(", "));
        }
    }
    text::print(&lines)
}

fn described(recipe: &Recipe) -> Value {
    let reference = &recipe.reference;
    json!({
        "name": recipe.name,
        "about": recipe.about,
        "reference": {"clean": reference.clean, "pgd20": reference.pgd20, "aa": reference.aa, "source": reference.source},
        "config": recipe.config.to_json(),
    })
}

/// `saddle keys`.
pub fn keys(arguments: KeysArguments) -> Result<()> {
    let filter = arguments.filter.unwrap_or_default().to_lowercase();
    let name = filter.replace('-', "_");
    let matches = |key: &&Key| {
        key.name.contains(&name)
            || [key.group, key.help].iter().any(|text| text.to_lowercase().contains(&filter))
    };
    let mut found: Vec<&Key> = KEYS.iter().filter(matches).collect();
    if found.is_empty() {
        found.push(key(&filter)?);
    }
    if arguments.json {
        let record = |key: &&Key| {
            json!({
                "name": key.name, "group": key.group, "symbol": key.symbol, "metavar": (key.metavar)(), "default": key.default_text(), "help": key.help,
            })
        };
        return text::print_json(&found.iter().map(record).collect::<Vec<_>>());
    }
    let cells = |key: &&Key| {
        let (metavar, _) = metavar_and_help(key, key.help);
        [&format!("  {}", key.name), key.symbol, &key.default_text(), &metavar].map(str::to_owned).to_vec()
    };
    let columns = text::table(&found.iter().map(cells).collect::<Vec<_>>(), &[]);
    let width = columns.lines().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    let mut lines = String::new();
    let mut group = "";
    for (key, columns) in found.iter().zip(columns.lines()) {
        if key.group != group {
            group = key.group;
            lines += &format!("{group}\n");
        }
        let first = format!("{columns}{}", " ".repeat(width - columns.chars().count()));
        lines += &text::wrapped(&metavar_and_help(key, key.help).1, &first, &" ".repeat(width), text::WIDTH);
    }
    text::print(&lines)
}

/// `saddle models`.
pub fn models(arguments: ListArguments) -> Result<()> {
    list(&arguments, nn::architectures().map(|model| (model.name, model.about)))
}

/// `saddle methods`: each with its paper and the keys that it reads.
pub fn methods(arguments: ListArguments) -> Result<()> {
    let all = method::METHODS;
    if arguments.json {
        let record =
            |m: &method::Method| json!({"name": m.name, "about": m.about, "paper": m.paper, "keys": m.keys});
        return text::print_json(&all.iter().map(record).collect::<Vec<_>>());
    }
    let mut lines = String::new();
    for method in all {
        lines += &format!("{}\n{}", method.name, text::wrapped(method.about, "    ", "    ", text::WIDTH));
        if !method.paper.is_empty() {
            lines += &text::wrapped(method.paper, "    paper: ", "           ", text::WIDTH);
        }
        if !method.keys.is_empty() {
            lines += &text::wrapped(&method.keys.join(", "), "    keys: ", "          ", text::WIDTH);
        }
    }
    text::print(
        &(lines
            + "\n'saddle keys NAME' tells what a key means; every method also takes awp_gamma, average and the keys of the attack.\n"),
    )
}

/// `saddle attacks`.
pub fn attacks(arguments: ListArguments) -> Result<()> {
    list(&arguments, attack::attacks().map(|attack| (attack.name, attack.about)).chain(VERSIONS))
}

/// `saddle datasets`.
pub fn datasets(arguments: ListArguments) -> Result<()> {
    list(&arguments, data::SOURCES.iter().map(|source| (source.name, source.about)))
}

/// Prints names and what they stand for.
fn list(
    arguments: &ListArguments,
    entries: impl Iterator<Item = (&'static str, &'static str)>,
) -> Result<()> {
    if arguments.json {
        return text::print_json(
            &entries.map(|(name, about)| json!({"name": name, "about": about})).collect::<Vec<_>>(),
        );
    }
    let rows: Vec<Vec<String>> =
        entries.map(|(name, about)| vec![name.to_owned(), about.to_owned()]).collect();
    text::print(&text::table(&rows, &[]))
}
