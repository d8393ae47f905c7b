//! The shape of the crate: which module may import which, where `unsafe` may stand, the header of every
//! kernel file, the format, width and length of all files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms of `docs/architecture.md` from the bottom up, each with the rooms directly below it: it may
/// import those and all that they may import. Everybody may import [`BASE`].
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("files", &[]),
    ("numeric", &[]),
    ("report", &[]),
    ("device", &[]),
    ("rng", &["device"]),
    ("tensor", &["device"]),
    ("tape", &["tensor"]),
    ("ops", &["tape"]),
    ("nn", &["ops"]),
    ("attack", &["nn"]),
    ("config", &["attack"]),
    ("method", &["config"]),
    ("data", &["ops"]),
    ("run", &["method", "data"]),
    ("eval", &["run"]),
    ("train", &["eval"]),
    ("study", &["train"]),
    ("bench", &["train"]),
    ("inspect", &["bench"]),
    ("profile", &["train"]),
    ("cli", &["study", "inspect", "profile"]),
];

/// The rooms below everything.
const BASE: &[&str] = &["error", "files", "numeric", "report", "rng"];

/// The only imports against the direction: the tape fills a first gradient with 1, adds gradients, and
/// applies a ReLU mask that was put off.
const EXCEPTIONS: &[(&str, &str)] = &[("tape", "ops::fill"), ("tape", "ops::add"), ("tape", "ops::relu")];

/// Files of tests inside `src`.
const TEST_FILES: &[&str] = &["testing.rs", "tests.rs", "conformance.rs", "oracle.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files under `folder` with one of these extensions, as paths relative to the root.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let inside = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            found.extend(files(&inside, extensions));
        } else if path.extension().is_some_and(|e| extensions.contains(&e.to_str().unwrap())) {
            found.push(PathBuf::from(inside));
        }
    }
    found.sort();
    found
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The lines of a Rust file with their numbers, without comments and without the test module at its end.
fn code(file: &Path) -> Vec<(usize, String)> {
    let text = text(file);
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|w| w[0] == "#[cfg(test)]" && w[1].starts_with("mod ") && w[1].ends_with('{'));
    let until = tests.unwrap_or(lines.len());
    let uncommented =
        lines[..until].iter().map(|line| line.split("//").next().unwrap_or_default().to_owned());
    uncommented.enumerate().map(|(number, line)| (number + 1, line)).collect()
}

fn is_test(file: &Path) -> bool {
    TEST_FILES.contains(&file.file_name().unwrap().to_str().unwrap())
}

/// The module that a file of `src` belongs to: its folder, or its own name.
fn module(file: &Path) -> String {
    file.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The two leading names of every path that begins with `crate::` (`config::keys`), braces expanded at the
/// first level.
fn imports(line: &str) -> Vec<String> {
    let two = |path: &str| {
        let path: String =
            path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        path.split("::").filter(|name| !name.is_empty()).take(2).collect::<Vec<_>>().join("::")
    };
    let expand = |rest: &str| match rest.strip_prefix('{') {
        Some(list) => list.split(['}', ';']).next().unwrap_or_default().split(',').map(two).collect(),
        None => vec![two(rest)],
    };
    line.split("crate::").skip(1).flat_map(expand).filter(|path| !path.is_empty()).collect()
}

/// Whether `from` may import `to`.
fn may_import(from: &str, to: &str) -> bool {
    let below = ROOMS.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, below)| below);
    BASE.contains(&to) || below.iter().any(|room| *room == to || may_import(room, to))
}

#[test]
fn imports_follow_the_arrows() {
    let mut problems = Vec::new();
    let modules: BTreeSet<String> =
        files("src", &["rs"]).iter().map(|f| module(f)).filter(|m| m != "lib" && m != "main").collect();
    for module in &modules {
        assert!(ROOMS.iter().any(|(room, _)| room == module), "src/{module} is not one of ROOMS");
    }
    for file in files("src", &["rs"]).iter().filter(|f| !is_test(f)) {
        let own = module(file);
        for (number, line) in code(file) {
            for path in imports(&line) {
                let target = path.split("::").next().unwrap_or_default();
                // Names like `crate::Result`, and the module itself.
                if !modules.contains(target) || target == own || may_import(&own, target) {
                    continue;
                }
                let excepted = |(from, to): &(&str, &str)| {
                    *from == own && (*to == path || (path == target && to.starts_with(target)))
                };
                if own == "lib" || own == "main" || EXCEPTIONS.iter().any(excepted) {
                    continue;
                }
                problems.push(format!("{}:{number}: {own} may not use {path}", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_rooms_stand_in_order() {
    for (place, (room, below)) in ROOMS.iter().enumerate() {
        for name in *below {
            assert!(
                ROOMS[..place].iter().any(|(lower, _)| lower == name),
                "{room} stands on {name}, which is not below it"
            );
        }
    }
}

#[test]
fn the_tape_uses_three_operations_only() {
    let allowed = |name: &str| EXCEPTIONS.contains(&("tape", &format!("ops::{name}")));
    for (number, line) in code(Path::new("src/tape.rs")) {
        for used in line.split("ops::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(allowed(&name), "src/tape.rs:{number}: the tape may not use ops::{name}");
        }
    }
}

#[test]
fn unsafe_code_is_in_the_device_layer_only() {
    for file in files("src", &["rs"]).iter().filter(|f| !f.starts_with("src/device")) {
        for (number, line) in code(file) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(
                words.clone().all(|word| word != "unsafe"),
                "{}:{number}: unsafe outside src/device",
                file.display()
            );
            assert!(
                !line.contains("allow(unsafe_code"),
                "{}:{number}: unsafe outside src/device",
                file.display()
            );
        }
    }
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    for file in files("src", &["rs"]).iter().filter(|f| !is_test(f)) {
        let mut in_cases = false;
        for (number, line) in code(file) {
            // The test cases of an operation follow its code, as a function or module of their own.
            in_cases |= line == "#[cfg(test)]";
            let unwraps = line.contains(".unwrap()")
                || line.contains(".expect(")
                || line.contains("todo!(")
                || line.contains("unimplemented!(");
            assert!(in_cases || !unwraps, "{}:{number}: {}", file.display(), line.trim());
        }
    }
}

#[test]
fn every_kernel_file_states_six_facts() {
    const FACTS: [&str; 5] =
        ["// Mathematics", "// Threads", "// Preconditions", "// Outputs", "// Accumulation"];
    for file in files("kernels", &["cu"]) {
        let text = text(&file);
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        for fact in FACTS {
            assert!(
                header.iter().any(|line| line.starts_with(fact)),
                "{}: no line `{fact}: ...` in the header",
                file.display()
            );
        }
        assert!(
            header.iter().any(|line| line.contains("eterministic")),
            "{}: deterministic or not?",
            file.display()
        );
    }
}

#[test]
fn every_kernel_file_belongs_to_an_operation() {
    for file in files("kernels", &["cu"]) {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        // `conv2d_weight.cu` belongs to `conv2d.rs`.
        let mut names = stem.match_indices('_').map(|(at, _)| &stem[..at]).chain([stem]);
        let found = names.any(|name| root().join(format!("src/ops/{name}.rs")).exists());
        let tests_devices = file.starts_with("kernels/conformance");
        assert!(found || tests_devices, "{}: no src/ops/{stem}.rs", file.display());
    }
}

#[test]
fn kernels_include_headers_by_the_name_that_nvrtc_knows() {
    for file in files("kernels", &["cu", "cuh"]) {
        for (number, line) in text(&file).lines().enumerate().filter(|(_, line)| line.starts_with("#include"))
        {
            let pairs = [("common.cuh", "\"../host/shim.h\""), ("mma.cuh", "\"../host/mma.h\"")];
            let host = pairs.iter().any(|(header, used)| file.ends_with(header) && line.contains(used));
            assert!(
                host || line.contains("\"lib/"),
                "{}:{}: `{line}` should include \"lib/...\"",
                file.display(),
                number + 1
            );
        }
    }
}

/// Folders with Rust, CUDA or Markdown, and the root itself.
const FOLDERS: &[&str] = &[
    "src",
    "build",
    "tests",
    "benches",
    "kernels",
    "docs",
    "studies",
    "ptx/src",
    "softgpu/src",
    "softgpu/tests",
];

/// All files of the repository with one of these extensions.
fn all_files(extensions: &[&str]) -> Vec<PathBuf> {
    let folders = FOLDERS.iter().filter(|folder| root().join(folder).exists());
    let mut found: Vec<PathBuf> = folders.flat_map(|folder| files(folder, extensions)).collect();
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = PathBuf::from(entry.unwrap().file_name());
        if path.extension().is_some_and(|e| extensions.contains(&e.to_str().unwrap())) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_rust_file_is_formatted() {
    let mut rustfmt = std::process::Command::new("rustfmt");
    rustfmt.args(["--check", "--edition", "2024"]).args(all_files(&["rs"])).current_dir(root());
    match rustfmt.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => eprintln!("NOT RUN: rustfmt: {error}"),
    }
}

#[test]
fn lines_stay_narrow() {
    const COLUMNS: usize = 110;
    let mut problems = Vec::new();
    for file in all_files(&["rs", "cu", "cuh", "h", "cpp", "md"]) {
        let markdown = file.extension().is_some_and(|extension| extension == "md");
        let mut in_code = false;
        for (number, line) in text(&file).lines().enumerate() {
            in_code ^= markdown && line.trim_start().starts_with("```");
            let table_or_link = line.starts_with('|') || line.contains("](") || line.contains("://");
            // A word that is longer than a line.
            let unbreakable = line.trim().chars().take(COLUMNS).all(|c| c != ' ');
            if line.chars().count() > COLUMNS && !(markdown && (in_code || table_or_link)) && !unbreakable {
                problems.push(format!("{}:{}: {} columns", file.display(), number + 1, line.chars().count()));
            }
        }
    }
    assert!(problems.is_empty(), "{} lines:\n{}", problems.len(), problems.join("\n"));
}

/// The length of a Rust file means something because [`every_rust_file_is_formatted`].
#[test]
fn files_stay_short() {
    let rust = ["src", "build", "ptx/src", "softgpu/src"].map(|folder| files(folder, &["rs"]));
    for file in rust.into_iter().chain([files("kernels", &["cu", "cuh", "h", "cpp"])]).flatten() {
        let lines = text(&file).lines().count();
        assert!(lines <= 400 || is_test(&file), "{}: {lines} lines", file.display());
    }
}

#[test]
fn imports_are_read_as_written() {
    assert_eq!(imports("use crate::config::DeviceChoice;"), ["config::DeviceChoice"]);
    assert_eq!(imports("use crate::{attack, data::cifar, nn};"), ["attack", "data::cifar", "nn"]);
    assert_eq!(imports("fn f(x: crate::tensor::Tensor, e: crate::Error) {"), ["tensor::Tensor", "Error"]);
}
