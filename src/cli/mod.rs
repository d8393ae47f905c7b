//! The command line. A command is one file here, one variant of `Command` and one line of `Command::run`.

mod analyse;
mod attack;
mod bench;
mod check_step;
mod compare;
mod corruptions;
mod devices;
mod eval;
mod flags;
mod kernels;
mod lists;
mod parameters;
mod progress;
mod text;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SADDLE_COMMIT"), ")");

const EXAMPLES: &str = "\
Begin with:
  saddle train
      adversarial training on embedded digits, here and now, in under a minute
  saddle train --epochs 5
      the same with another hyper-parameter; 'saddle keys' lists all of them
  saddle recipes
      jobs with a name, and the accuracy each should reach
  saddle devices
      what can be used here, and what is missing for a GPU

'saddle help COMMAND' tells more about a command.";

/// Adversarial training down to the kernel: on an NVIDIA GPU or, with the same kernels, on the CPU.
#[derive(Parser)]
#[command(name = "saddle", version = VERSION, after_help = EXAMPLES, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Arguments),
    Eval(eval::Arguments),
    Attack(attack::Arguments),
    Corruptions(corruptions::Arguments),
    Compare(compare::Arguments),
    Analyse(analyse::Arguments),
    CheckStep(check_step::Arguments),
    Bench(bench::Arguments),
    Devices(devices::Arguments),
    Kernels(kernels::Arguments),
    Recipes(lists::RecipesArguments),
    Keys(lists::KeysArguments),
    /// List the network architectures (--model).
    Models(lists::ListArguments),
    /// List the training methods (--method).
    Methods(lists::ListArguments),
    /// List the attacks (eval --attack).
    Attacks(lists::ListArguments),
    /// List the data sets (--dataset).
    Datasets(lists::ListArguments),
}

impl Command {
    fn run(self, line: String) -> Result<()> {
        match self {
            Command::Train(arguments) => train::run(arguments, line),
            Command::Eval(arguments) => eval::run(arguments),
            Command::Attack(arguments) => attack::run(arguments),
            Command::Corruptions(arguments) => corruptions::run(arguments),
            Command::Compare(arguments) => compare::run(arguments, line),
            Command::Analyse(arguments) => analyse::run(arguments, line),
            Command::CheckStep(arguments) => check_step::run(arguments),
            Command::Bench(arguments) => bench::run(arguments),
            Command::Devices(arguments) => devices::run(arguments),
            Command::Kernels(arguments) => kernels::run(arguments),
            Command::Recipes(arguments) => lists::recipes(arguments),
            Command::Keys(arguments) => lists::keys(arguments),
            Command::Models(arguments) => lists::models(arguments),
            Command::Methods(arguments) => lists::methods(arguments),
            Command::Attacks(arguments) => lists::attacks(arguments),
            Command::Datasets(arguments) => lists::datasets(arguments),
        }
    }
}

/// Runs the program with these arguments, the first of which is its own name.
///
/// The exit status is 0 when all went well, 1 after an error, 2 when the arguments make no sense and 130 when
/// a run was interrupted; what went wrong is one line `error: ...` on standard error.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() && !text::is_help(&error) => {
            text::complain(&text::usage_error(&error, &arguments));
            return ExitCode::from(2);
        }
        Err(help) => {
            // Help for a reader who has gone away needs no answer.
            help.print().ok();
            return ExitCode::from(help.exit_code() as u8);
        }
    };
    match parsed.command.run(text::command_line(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::complain(&error.to_string());
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
        Arguments::command().debug_assert();
    }
}
