//! The one error type of the crate: every variant names its subject, so that its message is one clear line.

use std::path::{Path, PathBuf};

/// An error: its place, the expected and the found value, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kernel source did not compile; `log` is the compiler's first error, and where the rest is.
    #[error("kernel source {file} does not compile for {arch}: {log}")]
    Compile { file: String, arch: String, log: String },
    /// A kernel could not be launched.
    #[error("kernel {kernel} could not be launched with grid {grid:?} and block {block}: {reason}")]
    Launch { kernel: String, grid: [u32; 3], block: u32, reason: String },
    /// The host device found an error in a kernel while it ran: divergence, a missing arrival, a wrong mask.
    #[error("kernel {kernel}, block {block:?}: {reason}")]
    Kernel { kernel: String, block: [u32; 3], reason: String },
    /// An operation got a tensor of the wrong shape.
    #[error("{op}: expected {expected}, got shape {got:?}")]
    Shape { op: &'static str, expected: String, got: Vec<usize> },
    /// A device cannot be used; `reason` names the missing part and how to get it.
    #[error("device {device} cannot be used: {reason}")]
    Device { device: String, reason: String },
    /// The driver reported an error.
    #[error("CUDA: {call} failed: {reason}")]
    Cuda { call: &'static str, reason: String },
    /// Device memory ran out.
    #[error(
        "out of memory on {device}: {asked} bytes asked, {free} of {total} bytes free; a smaller --batch \
         needs less"
    )]
    OutOfMemory { device: String, asked: usize, free: usize, total: usize },
    /// A file or folder could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// A data, weight or record file has the wrong content.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    /// A name that is not in a registry, or a key that does not exist.
    #[error("unknown {kind} '{name}'{}; {hint}", nearest(.near))]
    Unknown { kind: String, name: String, near: Option<String>, hint: String },
    /// A value of a setting is out of its range or cannot be read.
    #[error("{key} = {value}: {problem}")]
    Value { key: String, value: String, problem: String },
    /// Training met a loss that is not a number.
    #[error(
        "the loss is {loss} at epoch {epoch}, step {step}: training stopped, {kept}; a smaller --lr \
         usually helps"
    )]
    NotFinite { loss: f32, epoch: usize, step: usize, kept: String },
    /// A fault of the program itself, whatever the user asked for.
    #[error("internal error: {what}")]
    Internal { what: String },
    /// A run that was asked to stop (Ctrl-C); `resume` is the command that goes on.
    #[error("interrupted: {saved}; resume with: {resume}")]
    Interrupted { saved: String, resume: String },
}

/// The longest list of known names that a message repeats, and how many it names of a longer one.
const LISTED: usize = 80;
const NEAREST: usize = 10;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `Ok` where `good`, else `error`.
pub fn ensure<E>(good: bool, error: impl FnOnce() -> E) -> Result<(), E> {
    if good { Ok(()) } else { Err(error()) }
}

/// The longest message in characters, and how many of them are kept of the end, where the remedy stands.
const LONGEST: usize = 2000;
const KEPT_END: usize = 600;
/// The longest text for which similar names are searched.
const LONGEST_NAME: usize = 200;

/// `text` as one line for a terminal, whatever a file or an argument put into it: control characters and
/// those that change the direction of text are escaped, and the middle of a very long text is left out.
pub fn one_line(text: &str) -> String {
    // A prefix and a suffix are enough, so that 10 MB are not escaped for nothing.
    let end = |count| text.char_indices().nth_back(count).map_or(0, |(at, _)| at);
    let cut = match text.char_indices().nth(LONGEST) {
        Some(_) => {
            let start = text.char_indices().nth(LONGEST - KEPT_END).map_or(text.len(), |(at, _)| at);
            format!("{} ... {}", escaped(&text[..start]), escaped(&text[end(KEPT_END - 1)..]))
        }
        None => escaped(text),
    };
    // Escapes take up to ten characters for one.
    match cut.char_indices().nth(LONGEST + 10) {
        Some(_) => one_line(&cut),
        None => cut,
    }
}

fn escaped(text: &str) -> String {
    // Zero-width characters, line separators, and changes of the direction.
    let hidden =
        ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}', '\u{feff}'..='\u{feff}'];
    let is_hidden = |c: char| c.is_control() || hidden.iter().any(|range| range.contains(&c));
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

fn nearest(near: &Option<String>) -> String {
    near.as_ref().map(|n| format!(" (did you mean '{n}'?)")).unwrap_or_default()
}

impl Error {
    /// An [`Error::Io`] about `path`; use as `.map_err(Error::io(path, "cannot read"))`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: &Path, problem: impl Into<String>) -> Error {
        Error::File { path: path.to_owned(), problem: problem.into() }
    }

    /// An [`Error::Value`] about the setting `key`.
    pub fn value(key: impl Into<String>, value: impl std::fmt::Display, problem: impl Into<String>) -> Error {
        Error::Value { key: key.into(), value: value.to_string(), problem: problem.into() }
    }

    /// An [`Error::Unknown`] with the nearest of `known` as a suggestion and the whole list as the hint.
    pub fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
        let known: Vec<&str> = known.into_iter().collect();
        // The search takes time in proportion to the name's length, which a file may choose.
        let start: String = name.chars().take(LONGEST_NAME).flat_map(char::to_lowercase).collect();
        let near = known
            .iter()
            .map(|k| (strsim::damerau_levenshtein(&start, k), *k))
            .min()
            .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
            .map(|(_, k)| k.to_owned());
        // Of a long list, those that resemble the name.
        let mut listed = known.clone();
        let mut rest = String::new();
        if known.len() > LISTED {
            listed.sort_by_key(|k| strsim::damerau_levenshtein(&start, k));
            listed.truncate(NEAREST);
            rest = format!(" and {} more", known.len() - NEAREST);
        }
        Error::Unknown {
            kind: kind.to_owned(),
            name: name.to_owned(),
            near,
            hint: format!("known: {}{rest}", listed.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_is_one_line_of_printable_characters() {
        assert_eq!(one_line("a\x1b]0;x\x07\r\nb\u{85}"), "a\\u{1b}]0;x\\u{7}\\r\\nb\\u{85}");
        assert_eq!(one_line("\u{202e}fdp.exe\u{2028}"), "\\u{202e}fdp.exe\\u{2028}");
        let plain = "Übergröße 8/255 – \\n, 'ε' 画像";
        assert_eq!(one_line(plain), plain);
        assert_eq!(one_line(&one_line("\n")), "\\n", "an error in an error is not escaped twice");
    }

    #[test]
    fn long_text_loses_its_middle_and_keeps_the_remedy() {
        for filler in ["a", "\n", "\x1b", "ä"] {
            let line = one_line(&format!("file: {}; do this", filler.repeat(10_000_000)));
            assert!(line.chars().count() <= LONGEST + 10, "{}", line.chars().count());
            assert!(line.starts_with("file: ") && line.contains(" ... "), "{}", &line[..100]);
            assert!(line.ends_with("; do this") && !line.contains('\n'));
        }
        let whole = "x".repeat(LONGEST);
        assert_eq!(one_line(&whole), whole);
    }

    #[test]
    fn a_name_of_10_mb_is_looked_up_in_no_time() {
        let known: Vec<String> = (0..500).map(|number| format!("name-{number}")).collect();
        let began = std::time::Instant::now();
        let error = Error::unknown("model", &"n".repeat(10_000_000), known.iter().map(String::as_str));
        assert!(one_line(&error.to_string()).ends_with(" and 490 more"));
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
}
