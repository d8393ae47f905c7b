//! The one error type of the crate: every variant names its subject, so that its message is one clear line.

use std::collections::HashSet;
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
    /// A network computed logits that are infinite or NaN: its predictions mean nothing.
    #[error(
        "the network's logits are not finite numbers on {unusable} of {images} images, so it has no \
         accuracy; its weights are broken or its training diverged"
    )]
    NoAccuracy { unusable: usize, images: usize },
    /// The checks after a protocol failed: its result does not count.
    #[error("{complaint}; there is no robust accuracy")]
    Unverified { complaint: String },
    /// A fault of the program itself, whatever the user asked for.
    #[error("internal error: {what}")]
    Internal { what: String },
    /// A run that was asked to stop (Ctrl-C); `resume` is the command that goes on.
    #[error("interrupted: {saved}; resume with: {resume}")]
    Interrupted { saved: String, resume: String },
}

/// The longest list of known names that a message repeats, and how many it names of a longer one.
const LISTED: usize = 24;
const NEAREST: usize = 10;
/// The fewest letters by which a name is found as a part of known ones.
const PART: usize = 3;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `Ok` where `good`, else `error`.
pub fn ensure<E>(good: bool, error: impl FnOnce() -> E) -> Result<(), E> {
    if good { Ok(()) } else { Err(error()) }
}

/// Whether every word of `query` is a part of `text`: `raat-cifar` names `raat-cifar10-resnet18`. Case does
/// not count, and hyphens, underscores, dots and spaces separate words.
pub fn contains_words(text: &str, query: &str) -> bool {
    let text = text.to_lowercase();
    query.to_lowercase().split(['-', '_', '.', ' ']).all(|word| text.contains(word))
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

    /// An [`Error::Unknown`] with the nearest of `known` as a suggestion, and as the hint all of them or, of
    /// a long list, the nearest: first those that contain the words of the name, then by edit distance.
    pub fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
        let mut known: Vec<&str> = known.into_iter().collect();
        let mut seen = HashSet::new();
        known.retain(|name| seen.insert(*name));
        // The search takes time in proportion to the name's length, which a file may choose.
        let start: String = name.chars().take(LONGEST_NAME).flat_map(char::to_lowercase).collect();
        let letters = start.chars().filter(|letter| letter.is_alphanumeric()).count();
        let distance = |k: &str| strsim::damerau_levenshtein(&start, k);
        let rank = |k: &str| (letters < PART || !contains_words(k, &start), distance(k));
        let plausible = |k: &&str| !rank(k).0 || distance(k) <= 1 + k.len() / 3;
        let near = known.iter().copied().min_by_key(|k| rank(k)).filter(plausible).map(str::to_owned);
        let mut rest = String::new();
        if known.len() > LISTED {
            rest = format!(" and {} more", known.len() - NEAREST);
            known.sort_by_key(|k| rank(k));
            known.truncate(NEAREST);
        }
        let hint = format!("known: {}{rest}", known.join(", "));
        Error::Unknown { kind: kind.to_owned(), name: name.to_owned(), near, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str, known: &[&str]) -> String {
        Error::unknown("recipe", name, known.iter().copied()).to_string()
    }

    #[test]
    fn names_are_found_by_their_words_and_then_by_their_letters() {
        let known =
            ["raat-digits", "mart-digits", "raat-cifar100-resnet18", "raat-cifar10-resnet18", "digits"];
        let near = |name: &str| {
            let message = unknown(name, &known);
            message.split("did you mean '").nth(1).map(|rest| rest.split('\'').next().unwrap().to_owned())
        };
        for (name, expected) in [
            ("raat-cifar", "raat-cifar10-resnet18"),
            ("RAAT_cifar100", "raat-cifar100-resnet18"),
            ("cifar10-raat", "raat-cifar10-resnet18"),
            ("digit", "digits"),
            ("digist", "digits"),
            ("raat-digist", "raat-digits"),
        ] {
            assert_eq!(near(name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!((near("zzzz"), near("")), (None, None));
    }

    #[test]
    fn a_list_of_known_names_is_short_and_names_each_once() {
        assert_eq!(
            unknown("rpa", &["rpat", "trades", "rpat"]),
            "unknown recipe 'rpa' (did you mean 'rpat'?); known: rpat, trades"
        );
        let many: Vec<String> = (0..100).map(|i| format!("mart-{i}")).chain(["raat-x".into()]).collect();
        let message = unknown("raat", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(message.contains("'raat' (did you mean 'raat-x'?); known: raat-x, mart-"), "{message}");
        assert!(message.ends_with(" and 91 more") && message.len() < 200, "{message}");
    }

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
