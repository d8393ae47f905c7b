//! The commands that list names and descriptions: `saddle models`, `saddle attacks`, `saddle datasets`.

use serde_json::json;

use super::{Run, text};
use crate::error::Result;
use crate::eval::plan::VERSIONS;
use crate::{attack, data, nn};

/// List the network architectures (--model).
#[derive(clap::Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    form: ListForm,
}

/// List the attacks (eval --attack).
#[derive(clap::Args)]
pub struct AttacksArgs {
    #[command(flatten)]
    form: ListForm,
}

/// List the data sets (--dataset).
#[derive(clap::Args)]
pub struct DatasetsArgs {
    #[command(flatten)]
    form: ListForm,
}

impl Run for ModelsArgs {
    fn run(self, _: String) -> Result<()> {
        self.form.print(nn::architectures().map(|model| (model.name, model.about)))
    }
}

impl Run for AttacksArgs {
    fn run(self, _: String) -> Result<()> {
        self.form.print(attack::attacks().map(|attack| (attack.name, attack.about)).chain(VERSIONS))
    }
}

impl Run for DatasetsArgs {
    fn run(self, _: String) -> Result<()> {
        self.form.print(data::SOURCES.iter().map(|source| (source.name, source.about)))
    }
}

#[derive(clap::Args)]
struct ListForm {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ListForm {
    /// Prints names and descriptions.
    fn print(&self, entries: impl Iterator<Item = (&'static str, &'static str)>) -> Result<()> {
        if self.json {
            let record = |(name, about)| json!({"name": name, "about": about});
            return text::print_json(&entries.map(record).collect::<Vec<_>>());
        }
        let row = |(name, about): (&str, &str)| vec![name.to_owned(), about.to_owned()];
        text::print(&text::table(&entries.map(row).collect::<Vec<_>>(), &[]))
    }
}
