//! `saddle recipes`: named jobs.

use serde_json::{Value, json};

use super::{Run, text};
use crate::config::recipe::{self, Recipe};
use crate::error::Result;
use crate::method;

/// List the recipes, or print one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saddle recipes
      all recipes with their reference accuracies
  saddle recipes digits > mine.toml
      a copy to edit; then run: saddle train mine.toml")]
pub struct RecipesArgs {
    /// Print this recipe as TOML
    name: Option<String>,
    /// Print JSON, with the value of every hyper-parameter
    #[arg(long)]
    json: bool,
}

impl Run for RecipesArgs {
    fn run(self, _: String) -> Result<()> {
        if let Some(name) = &self.name {
            let recipe = method::load_recipe(name)?;
            return if self.json {
                text::print_json(&record(&recipe))
            } else {
                text::print(&recipe.to_toml())
            };
        }
        let recipes =
            recipe::names()?.iter().map(|name| method::load_recipe(name)).collect::<Result<Vec<_>>>()?;
        if self.json {
            return text::print_json(&recipes.iter().map(record).collect::<Vec<_>>());
        }
        let mut lines = String::new();
        for recipe in &recipes {
            lines +=
                &format!("{}\n{}", recipe.name, text::wrapped(&recipe.about, "    ", "    ", text::WIDTH));
            let reference = &recipe.reference;
            let accuracies =
                [("clean", &reference.clean), ("PGD-20", &reference.pgd20), ("AutoAttack", &reference.aa)];
            let known: Vec<String> = accuracies
                .iter()
                .filter_map(|(name, accuracy)| Some(format!("{name} {} %", accuracy.as_ref()?)))
                .collect();
            if !known.is_empty() {
                lines += &format!("    reference: {}\n", known.join(", "));
            }
        }
        text::print(&lines)
    }
}

fn record(recipe: &Recipe) -> Value {
    json!({
        "name": recipe.name,
        "about": recipe.about,
        "reference": reference_record(&recipe.reference),
        "config": recipe.config.to_json(),
    })
}

/// Reference accuracies as JSON.
pub fn reference_record(reference: &recipe::Reference) -> Value {
    let recipe::Reference { clean, pgd20, aa, source } = reference;
    json!({"clean": clean, "pgd20": pgd20, "aa": aa, "source": source})
}
