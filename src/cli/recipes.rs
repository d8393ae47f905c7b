//! `saddle recipes`: named jobs.

use serde_json::{Value, json};

use super::flags::Filter;
use super::{Run, text};
use crate::config::recipe::{self, Recipe};
use crate::error::Result;
use crate::method;

/// List the recipes, or print one with every key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle recipes
      all recipes with their reference accuracies
  saddle recipes raat cifar10
      those with both words in their names
  saddle recipes digits > mine.toml
      a copy to edit, with every key; then run: saddle train mine.toml

The whole name of a recipe, or a .toml file, prints this recipe as TOML.")]
pub struct RecipesArgs {
    #[command(flatten)]
    filter: Filter,
    /// Print JSON, with the value of every hyper-parameter
    #[arg(long)]
    json: bool,
}

impl Run for RecipesArgs {
    fn run(self, _: String) -> Result<()> {
        let print = |record: Value, text: String| match self.json {
            true => text::print_json(&record),
            false => text::print(&text),
        };
        let names = recipe::names()?;
        let named =
            |word: &&str| recipe::is_path(word) || names.contains(&word.to_lowercase().replace('_', "-"));
        if let Some(name) = self.filter.word().filter(named) {
            let recipe = method::load_recipe(name)?;
            return print(record(&recipe), recipe.to_toml(method::is_read));
        }
        let all = names.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
        let text = |recipe: &Recipe| (recipe.name.clone(), recipe.about.clone());
        let recipes = self.filter.select("recipe", all, text)?;
        print(recipes.iter().map(record).collect(), recipes.iter().map(lines).collect())
    }
}

/// A recipe's name, description and reference accuracies.
fn lines(Recipe { name, about, reference, .. }: &Recipe) -> String {
    let accuracies =
        [("clean", &reference.clean), ("PGD-20", &reference.pgd20), ("AutoAttack", &reference.aa)];
    let known =
        accuracies.iter().filter_map(|(name, accuracy)| Some(format!("{name} {} %", accuracy.as_ref()?)));
    let mut lines = format!("{name}\n{}", text::wrapped(about, "    ", "    ", text::WIDTH));
    let known: Vec<String> = known.collect();
    if !known.is_empty() {
        lines += &format!("    reference: {}\n", known.join(", "));
    }
    lines
}

fn record(Recipe { name, about, reference, config }: &Recipe) -> Value {
    json!({"name": name, "about": about, "reference": reference, "config": config.to_json()})
}
