//! The command line. A command is a file here, with its arguments and its work, and a line in `commands!`.
//!
//! Doc comments of arguments are their help texts.
#![allow(rustdoc::broken_intra_doc_links)] // `[default: all]` is not a link.

mod analyse;
mod attack;
mod bench;
mod check_step;
mod compare;
mod corruptions;
mod devices;
mod eval;
mod flags;
mod inspect;
mod interrupt;
mod kernels;
mod key_sets;
mod keys;
mod lines;
mod lists;
mod precision;
mod profile;
mod progress;
mod recipes;
mod text;
mod tracing;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SADDLE_COMMIT"), ")");

const EXAMPLES: &str = "\
Start with:
  saddle train
      adversarial training on the embedded digits: about ten seconds on two cores
  saddle train --epochs 5
      the same with another hyper-parameter; 'saddle keys' lists them all
  saddle recipes
      the recipes: named jobs with their reference accuracies
  saddle devices
      the devices of this machine, and what is missing to use a GPU

'saddle help COMMAND' describes a command in full.";

/// Adversarial training down to the kernel: on an NVIDIA GPU or, with the same kernels, on the CPU.
#[derive(Parser)]
#[command(name = "saddle", version = VERSION, after_help = EXAMPLES, max_term_width = 120)]
struct SaddleArgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    tracing: tracing::TracingFlags,
}

/// The arguments of a command.
trait Run {
    /// Runs the command. `command_line` is the whole line, for records and for messages that repeat it.
    fn run(self, command_line: String) -> Result<()>;
}

/// Declares the subcommands and how each is run.
macro_rules! commands {
    ($($name:ident($args:ty),)+) => {
        #[derive(Subcommand)]
        enum Command {
            $($name($args),)+
        }

        impl Run for Command {
            fn run(self, command_line: String) -> Result<()> {
                match self {
                    $(Command::$name(args) => args.run(command_line),)+
                }
            }
        }
    };
}

// In the order of `saddle --help`.
commands! {
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Attack(attack::AttackArgs),
    Corruptions(corruptions::CorruptionsArgs),
    Compare(compare::CompareArgs),
    Analyse(analyse::AnalyseArgs),
    Precision(precision::PrecisionArgs),
    CheckStep(check_step::CheckStepArgs),
    Bench(bench::BenchArgs),
    Profile(profile::ProfileArgs),
    Inspect(inspect::InspectArgs),
    Devices(devices::DevicesArgs),
    Kernels(kernels::KernelsArgs),
    Recipes(recipes::RecipesArgs),
    Keys(keys::KeysArgs),
    Models(lists::ModelsArgs),
    Methods(lists::MethodsArgs),
    Attacks(lists::AttacksArgs),
    Datasets(lists::DatasetsArgs),
}

/// Runs the program with these arguments, the first of which is its own name.
///
/// The exit status is 0 on success, 1 after an error, 2 if the arguments are invalid and 130 if a run was
/// interrupted. An error is one line `error: ...` on standard error.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match SaddleArgs::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() && !text::is_help(&error) => {
            text::print_error(&text::usage_error(&error, &arguments));
            return ExitCode::from(2);
        }
        Err(help) => {
            // A closed standard output is not worth a message.
            help.print().ok();
            return ExitCode::from(help.exit_code() as u8);
        }
    };
    let (command, line) = (parsed.command, text::command_line(&arguments));
    match parsed.tracing.around(&line, || command.run(line.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::print_error(&error.to_string());
            ExitCode::from(if matches!(error, Error::Interrupted { .. }) { 130 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        use clap::CommandFactory;
        SaddleArgs::command().debug_assert();
    }
}
