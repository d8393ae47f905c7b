//! The commit that the program is built from, for `--version` and for every record.

use std::path::Path;
use std::process::Command;

/// The folders and files that make the program.
const SOURCES: [&str; 7] = ["Cargo.toml", "Cargo.lock", "build.rs", "build", "kernels", "recipes", "src"];

/// Sets `SADDLE_COMMIT`: `591b62c8827d`, or `591b62c8827d-modified` where the sources differ from that
/// commit; `unknown` where the sources are neither a checkout nor a published package.
pub fn emit(root: &Path) {
    SOURCES.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
    let commit = packaged(root).or_else(|| checkout(root));
    println!("cargo:rustc-env=SADDLE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit that `cargo package` noted.
fn packaged(root: &Path) -> Option<String> {
    let info = std::fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = info.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    Some(commit.get(..12)?.to_owned() + if info.contains("\"dirty\": true") { "-modified" } else { "" })
}

fn checkout(root: &Path) -> Option<String> {
    let git = |args: &[&str]| -> Option<String> {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // Sources that were unpacked inside of another repository are not of its commit.
    let top = std::fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != std::fs::canonicalize(root).ok()? {
        return None;
    }
    // Every commit, checkout and reset adds a line to the log of HEAD.
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(commit + if status.is_empty() { "" } else { "-modified" })
}
