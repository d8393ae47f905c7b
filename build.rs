//! Reads `kernels/*.cu`, compiles them for the host device and writes the Rust side of every kernel.
//!
//! * `build/parse.rs`: kernel signatures and PER_DEVICE constants of the `.cu` files;
//! * `build/host.rs`: trampolines, one object file per source and instruction set, by the system C++
//!   compiler;
//! * `build/generate.rs`: typed launchers, the embedded sources and recipes;
//! * `build/version.rs`: the commit.

#[path = "build/generate.rs"]
mod generate;
#[path = "build/host.rs"]
mod host;
#[path = "build/parse.rs"]
mod parse;
#[path = "build/version.rs"]
mod version;

use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = root.join("kernels");
    let sources = |folder: &Path| -> Vec<parse::Source> {
        list(folder, "cu").iter().map(|path| parse::source(&kernels, path)).collect()
    };
    let (sources, conformance) = (sources(&kernels), sources(&kernels.join("conformance")));
    let shared = parse::configs(&read(&kernels.join("lib/common.cuh")));
    let isas = host::instruction_sets();
    host::compile(&root, &out, &sources, &conformance, &isas);
    generate::kernels(&root, &out, &sources, &shared, &isas);
    generate::conformance(&out, &conformance, &shared, &isas);
    generate::recipes(&root, &out);
    version::emit(&root);
}

/// The files of `folder` with this extension, sorted by name.
fn list(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| {
            entries
                .filter_map(|e| e.ok().map(|e| e.path()))
                .filter(|p| p.extension().is_some_and(|e| e == extension))
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
