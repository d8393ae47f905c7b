//! A small reader of the two things that build.rs needs from a `.cu` file: kernel signatures and CONFIG
//! constants.

use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    pub path: PathBuf,
    /// The path inside `kernels/`, such as `kl.cu` or `conformance/math.cu`.
    pub file: String,
    pub stem: String,
    pub configs: Vec<Config>,
    pub kernels: Vec<Kernel>,
}

/// `CONFIG(name, cuda, host)`.
pub struct Config {
    pub name: String,
    pub cuda: i64,
    pub host: i64,
}

/// One `extern "C" __global__` function.
pub struct Kernel {
    pub name: String,
    /// The text inside `__launch_bounds__(...)`: a literal or the name of a CONFIG.
    pub threads: String,
    /// The text inside `DYN_BYTES(...)` behind the launch bounds: bytes of dynamic shared memory, a literal
    /// or the name of a CONFIG.
    pub dynamic: String,
    /// The comment between the launch bounds and the name.
    pub doc: String,
    pub params: Vec<Param>,
}

pub struct Param {
    pub name: String,
    pub scalar: &'static Scalar,
    pub pointer: Option<Pointer>,
}

pub struct Pointer {
    pub mutable: bool,
    pub nullable: bool,
}

/// A type that a kernel parameter may have: its name in C and in Rust.
pub struct Scalar {
    pub c: &'static str,
    pub rust: &'static str,
}

const SCALARS: [Scalar; 5] = [
    Scalar { c: "float", rust: "f32" },
    Scalar { c: "int", rust: "i32" },
    Scalar { c: "uint8_t", rust: "u8" },
    Scalar { c: "uint32_t", rust: "u32" },
    Scalar { c: "uint64_t", rust: "u64" },
];

const MARK: &str = "extern \"C\" __global__ void __launch_bounds__(";

/// Reads a `.cu` file under `root`; panics with file and reason, which cargo prints as the build error.
pub fn source(root: &Path, path: &Path) -> Source {
    let text = crate::read(path);
    let fail = |why: String| -> ! { panic!("{}: {why}", path.display()) };
    if text.matches("__global__").count() != text.matches(MARK).count() {
        fail(format!("every kernel must start with `{MARK}THREADS)`"));
    }
    let mut kernels = Vec::new();
    for piece in text.split(MARK).skip(1) {
        let Some((threads, rest)) = piece.split_once(')') else { fail("unclosed __launch_bounds__".into()) };
        let (dynamic, rest) =
            match rest.trim_start().strip_prefix("DYN_BYTES(").map(|rest| rest.split_once(')')) {
                Some(Some((bytes, rest))) => (bytes.trim(), rest),
                Some(None) => fail("unclosed DYN_BYTES".into()),
                None => ("0", rest),
            };
        let (doc, rest) = leading_comment(rest);
        let Some((name, rest)) = rest.split_once('(') else { fail("no parameter list".into()) };
        let Some((list, _)) = rest.split_once(')') else { fail(format!("{name}: unclosed parameter list")) };
        let params = list.split(',').map(str::trim).filter(|p| !p.is_empty());
        let params = params
            .map(|p| param(p).unwrap_or_else(|| fail(format!("{name}: parameter `{p}` has no known type"))));
        kernels.push(Kernel {
            name: name.trim().into(),
            threads: threads.trim().into(),
            dynamic: dynamic.into(),
            doc,
            params: params.collect(),
        });
    }
    let file = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    Source { path: path.to_owned(), file, stem: crate::stem(path), configs: configs(&text), kernels }
}

impl Source {
    /// The path inside `kernels/` as an identifier.
    pub fn identifier(&self) -> String {
        self.file.trim_end_matches(".cu").replace('/', "_")
    }
}

/// The CONFIG lines of a file.
pub fn configs(text: &str) -> Vec<Config> {
    let calls = text.lines().filter_map(|line| line.trim().strip_prefix("CONFIG("));
    calls
        .filter_map(|call| {
            let (inside, _) = call.split_once(')')?;
            let mut parts = inside.split(',').map(str::trim);
            Some(Config {
                name: parts.next()?.into(),
                cuda: parts.next()?.parse().ok()?,
                host: parts.next()?.parse().ok()?,
            })
        })
        .collect()
}

fn leading_comment(mut text: &str) -> (String, &str) {
    let mut doc = Vec::new();
    loop {
        text = text.trim_start();
        let Some(comment) = text.strip_prefix("//") else { return (doc.join(" "), text) };
        let (line, rest) = comment.split_once('\n').unwrap_or((comment, ""));
        doc.push(line.trim());
        text = rest;
    }
}

fn param(text: &str) -> Option<Param> {
    let spaced = text.replace("__restrict__", " ").replace('*', " * ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    let name = words.pop()?.to_owned();
    let mut take = |word: &str| words.iter().position(|w| *w == word).map(|at| words.remove(at)).is_some();
    let (constant, nullable, pointer) = (take("const"), take("NULLABLE"), take("*"));
    let scalar = SCALARS.iter().find(|s| words == [s.c])?;
    Some(Param { name, scalar, pointer: pointer.then_some(Pointer { mutable: !constant, nullable }) })
}
