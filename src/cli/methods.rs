//! `saddle methods`: the training methods, each with its paper and the keys that it reads.

use serde_json::json;

use super::{Run, text};
use crate::error::Result;
use crate::method;

/// List the training methods (--method).
#[derive(clap::Args)]
pub struct MethodsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for MethodsArgs {
    fn run(self, _: String) -> Result<()> {
        let all = method::METHODS;
        if self.json {
            let record = |method: &method::Method| {
                let method::Method { name, about, paper, keys, .. } = method;
                json!({"name": name, "about": about, "paper": paper, "keys": keys})
            };
            return text::print_json(&all.iter().map(record).collect::<Vec<_>>());
        }
        let mut lines = String::new();
        for method in all {
            lines +=
                &format!("{}\n{}", method.name, text::wrapped(method.about, "    ", "    ", text::WIDTH));
            if !method.paper.is_empty() {
                lines += &text::wrapped(method.paper, "    paper: ", "           ", text::WIDTH);
            }
            if !method.keys.is_empty() {
                lines += &text::wrapped(&method.keys.join(", "), "    keys: ", "          ", text::WIDTH);
            }
        }
        lines += "\n'saddle keys NAME' explains a key. Every method also reads awp_gamma, average and the \
                  keys of the attack.\n";
        text::print(&lines)
    }
}
