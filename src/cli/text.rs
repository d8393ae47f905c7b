//! Output: tables, numbers and one-line errors for terminals, JSON for programs. A reader that closes its end
//! of a pipe does not cause an error.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use indicatif::HumanCount;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result, one_line};

/// Writes `text` to standard output. A reader that has closed it (`saddle kernels | head`) is not an error.
///
/// Errors: [`Error::Io`], for instance on a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"), "cannot write")(error))
        }
        _ => Ok(()),
    }
}

/// Prints `value` as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::file(Path::new("standard output"), error.to_string()))?;
    print(&(text + "\n"))
}

/// Prints `value` as JSON on one line.
pub fn print_json_line(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// The longest line of lists.
pub const WIDTH: usize = 118;

/// Writes a line to standard error, unless it is closed; text of files and arguments in it is made harmless.
pub fn print_note(line: &str) {
    writeln!(io::stderr().lock(), "{}", one_line(line)).ok();
}

/// Writes `error: ...` to standard error.
pub fn print_error(message: &str) {
    print_note(&format!("error: {message}"));
}

/// Rows with aligned columns two spaces apart; the columns in `right` are aligned to the right.
pub fn table<R: AsRef<[String]>>(rows: &[R], right: &[usize]) -> String {
    let rows = || rows.iter().map(AsRef::as_ref);
    let columns = rows().map(<[String]>::len).max().unwrap_or(0);
    let width = |column: usize| rows().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut text = String::new();
    for row in rows() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let gap = " ".repeat(width - cell.chars().count());
            if right.contains(&column) { gap + cell } else { cell.clone() + &gap }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Names and values in two columns.
pub fn facts<N: Into<String>>(facts: impl IntoIterator<Item = (N, String)>) -> String {
    let rows: Vec<_> = facts.into_iter().map(|(name, value)| [name.into(), value]).collect();
    table(&rows, &[])
}

/// The line about a result file that was written, if one was.
pub fn written(out: Option<&Path>) -> String {
    out.map(|out| format!("written to {}\n", out.display())).unwrap_or_default()
}

/// A number of things: `1 kernel`, `2 kernels`.
pub fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", HumanCount(number as u64))
}

/// A number with about three significant digits, whole from 100 on: `3,512`, `12.3`, `0.0976`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    match value.abs() {
        size if size >= 100.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", HumanCount(size.round() as u64))
        }
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        size if size >= 1e-4 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

/// A time span: `12.3 s`, `3 min 05 s`, `1 h 02 min`; `?` if it is unknown. (`indicatif::HumanDuration` would
/// say `12 seconds`, `3 minutes`, `1 hour`.)
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `text` wrapped at spaces into lines of at most `width` characters; the first line begins with `first`, the
/// others with `rest`.
pub fn wrapped(text: &str, first: &str, rest: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut fresh = true;
    for word in text.split_whitespace() {
        if !fresh && line.chars().count() + 1 + word.chars().count() > width {
            lines += &(line + "\n");
            line = rest.to_owned();
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        line += word;
        fresh = false;
    }
    lines + &line + "\n"
}

/// The arguments as a line for a shell.
pub fn command_line(arguments: &[OsString]) -> String {
    let program =
        arguments.first().map(|program| Path::new(program).file_name().unwrap_or(program).to_os_string());
    let words = program.iter().chain(arguments.iter().skip(1)).map(|word| quoted(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

/// `word`, quoted for a shell if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Whether clap prints help because the command is missing.
pub fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// The commands whose first thought is a run or a weight file.
const TAKE_WEIGHTS: [&str; 3] = ["eval", "attack", "corruptions"];

/// clap's message about wrong arguments on one line: the problem, the nearest name and where to find help.
pub fn usage_error(error: &clap::Error, arguments: &[OsString]) -> String {
    let rendered = error.render().to_string();
    // The problem comes first, perhaps over several lines; an empty line ends it.
    let problem: Vec<&str> = rendered.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let mut line = problem.join(" ").trim_start_matches("error: ").trim_end_matches('.').to_owned();
    let near = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    if let Some(near) = near.into_iter().find_map(|kind| error.get(kind)) {
        let names = near.to_string();
        let first = names.split(',').next().unwrap_or(&names).trim();
        line += &format!(" (did you mean '{first}'?)");
    }
    let command = arguments.get(1).map(|word| word.to_string_lossy()).filter(|word| !word.starts_with('-'));
    let stray = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => Some(word),
        _ => None,
    };
    if let Some(word) = stray.filter(|word| !word.starts_with('-'))
        && command.as_deref().is_some_and(|command| TAKE_WEIGHTS.contains(&command))
    {
        line += &format!(" (did you mean '--weights {}'?)", quoted(word));
    }
    let known = command.filter(|_| error.kind() != ErrorKind::InvalidSubcommand);
    line + &known
        .map_or("; see saddle --help".into(), |command| format!("; see saddle {} --help", quoted(&command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_readers() {
        for (value, text) in [
            (3512.3, "3,512"),
            (1234567.0, "1,234,567"),
            (12.34, "12.3"),
            (2.346, "2.35"),
            (0.09756, "0.0976"),
            (0.0, "0"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (number(-1500.0), number(f64::NAN), number(1e-6)),
            ("-1,500".into(), "NaN".into(), "1.00e-6".into())
        );
        assert_eq!(
            (duration(12.34), duration(185.0), duration(3725.0)),
            ("12.3 s".into(), "3 min 05 s".into(), "1 h 02 min".into())
        );
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let text =
            table(&[row(["name", "value", "note"]), row(["ε", "8", "b"]), row(["steps", "1,000", ""])], &[1]);
        assert_eq!(text, "name   value  note\nε          8  b\nsteps  1,000\n");
        assert_eq!(wrapped("one two three", "> ", "  ", 9), "> one two\n  three\n");
    }

    #[test]
    fn a_command_line_reads_back() {
        let words = ["/a/b/saddle", "train", "--set", "eps=8/255", "--out", "it's here"].map(OsString::from);
        assert_eq!(command_line(&words), r"saddle train --set eps=8/255 --out 'it'\''s here'");
    }
}
