//! A small reader of the two things that build.rs needs from a `.cu` file: kernel signatures and PER_DEVICE
//! constants; and the writer of its instances. A kernel that says `T` exists for float32 and, with `_bf16`
//! after its name, for bf16: the same text with another word for T.

use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    pub path: PathBuf,
    /// The path inside `kernels/`, such as `kl.cu` or `conformance/math.cu`.
    pub file: String,
    pub stem: String,
    /// The constants of the file and of the headers that it includes, except those of `lib/common.cuh`.
    pub configs: Vec<Config>,
    /// As they are written, T and all.
    pub kernels: Vec<Kernel>,
    /// One, or one for each type of T.
    pub instances: Vec<Instance>,
}

/// A `.cu` file with a type in the place of T, compiled as a unit of its own.
pub struct Instance {
    /// The file's stem, then `_bf16` where T is that.
    pub name: String,
    /// The file's text, line by line at the same place.
    pub text: String,
    pub kernels: Vec<Kernel>,
}

/// The types of T, and what their kernels have after their names.
const TYPES: [(&str, &str); 2] = [("float", ""), ("bf16", "_bf16")];

/// `PER_DEVICE(name, cuda, host);`.
pub struct Config {
    pub name: String,
    pub cuda: i64,
    pub host: i64,
}

/// One `extern "C" __global__` function.
pub struct Kernel {
    pub name: String,
    /// The first argument of `__launch_bounds__`: a literal or the name of a constant. The second, the blocks
    /// that a multiprocessor must be able to hold, bounds the registers of CUDA's compiler alone.
    pub threads: String,
    /// The text inside `DYN_BYTES(...)` after the launch bounds: bytes of dynamic shared memory, a literal
    /// or the name of a constant.
    pub dynamic: String,
    /// The comment above the declaration.
    pub doc: String,
    pub params: Vec<Param>,
    /// Whether it says T, and exists for every type of it.
    pub generic: bool,
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

/// An `int` of a parameter list is a size, a count or a place, never negative: `usize` in Rust. Where it may
/// be negative, the kernel says `signed int`.
const SCALARS: [Scalar; 9] = [
    Scalar { c: "float", rust: "f32" },
    Scalar { c: "bf16", rust: "bf16" },
    Scalar { c: "T", rust: "T" },
    Scalar { c: "int", rust: "i32" },
    Scalar { c: "signed int", rust: "i32" },
    Scalar { c: "bool", rust: "bool" },
    Scalar { c: "uint8_t", rust: "u8" },
    Scalar { c: "uint32_t", rust: "u32" },
    Scalar { c: "uint64_t", rust: "u64" },
];

const MARK: &str = "extern \"C\" __global__ __launch_bounds__(";

/// Reads a `.cu` file under `kernels_dir`; panics with file and reason, which cargo prints as the build
/// error.
pub fn source(kernels_dir: &Path, path: &Path) -> Source {
    let text = crate::read(path);
    let mut configs = configs(&text);
    for header in headers(kernels_dir, &text).iter().filter(|header| *header != "lib/common.cuh") {
        configs.extend(self::configs(&crate::read(&kernels_dir.join(header))));
    }
    let file = path.strip_prefix(kernels_dir).unwrap_or(path).to_string_lossy().into_owned();
    let kernels = kernels(path, &text);
    let types = if kernels.iter().any(|kernel| kernel.generic) { &TYPES[..] } else { &TYPES[..1] };
    let instance = |(ty, suffix): &(&str, &str)| {
        let text = instance(&text, &kernels, ty, suffix);
        Instance { name: crate::stem(path) + suffix, kernels: self::kernels(path, &text), text }
    };
    let instances = types.iter().map(instance).collect();
    Source { path: path.to_owned(), file, stem: crate::stem(path), configs, kernels, instances }
}

/// The text with `ty` for T. Kernels without T are in the first instance alone.
fn instance(text: &str, kernels: &[Kernel], ty: &str, suffix: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    for kernel in kernels {
        let Some((before, from)) = rest.split_once(MARK) else { break };
        let (body, after) = from.split_at(body_bytes(from));
        out += before;
        if kernel.generic {
            let name = format!("{}{suffix}", kernel.name);
            out += MARK;
            out += &replace_word(&replace_word(body, "T", ty), &kernel.name, &name);
        } else if suffix.is_empty() {
            out += MARK;
            out += body;
        } else {
            out += &"\n".repeat(body.matches('\n').count());
        }
        rest = after;
    }
    out + rest
}

/// The bytes of `text` up to the end of its first function.
fn body_bytes(text: &str) -> usize {
    text.find("\n}\n").map_or(text.len(), |end| end + 3)
}

fn replace_word(text: &str, word: &str, by: &str) -> String {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut at) = (String::new(), 0);
    for (found, _) in text.match_indices(word) {
        let whole = !text[..found].ends_with(inside) && !text[found + word.len()..].starts_with(inside);
        if whole {
            out += &text[at..found];
            out += by;
            at = found + word.len();
        }
    }
    out + &text[at..]
}

/// The kernels of a text.
fn kernels(path: &Path, text: &str) -> Vec<Kernel> {
    let fail = |why: String| -> ! { panic!("{}: {why}", path.display()) };
    if text.matches("__global__").count() != text.matches(MARK).count() {
        fail(format!("every kernel must start with `{MARK}THREADS)`"));
    }
    let mut kernels = Vec::new();
    for (at, _) in text.match_indices(MARK) {
        let doc = comment_above(&text[..at]);
        let body = &text[at..at + body_bytes(&text[at..])];
        let Some((threads, rest)) = text[at + MARK.len()..].split_once(')') else {
            fail("unclosed __launch_bounds__".into())
        };
        let threads = threads.split(',').next().unwrap_or_default();
        let (dynamic, rest) =
            match rest.trim_start().strip_prefix("DYN_BYTES(").map(|rest| rest.split_once(')')) {
                Some(Some((bytes, rest))) => (bytes.trim(), rest),
                Some(None) => fail("unclosed DYN_BYTES".into()),
                None => ("0", rest),
            };
        let Some((name, rest)) =
            rest.trim_start().strip_prefix("void ").and_then(|rest| rest.split_once('('))
        else {
            fail("no `void NAME(` after the launch bounds".into())
        };
        if doc.is_empty() {
            fail(format!("{name}: no comment above the kernel says what it computes"));
        }
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
            generic: replace_word(body, "T", "") != body,
        });
    }
    kernels
}

/// The PER_DEVICE lines of a file.
pub fn configs(text: &str) -> Vec<Config> {
    let calls = text.lines().filter_map(|line| line.strip_prefix("PER_DEVICE("));
    calls
        .filter_map(|call| {
            let (inside, _) = call.split_once(");")?;
            let mut parts = inside.split(',').map(str::trim);
            Some(Config {
                name: parts.next()?.into(),
                cuda: parts.next()?.parse().ok()?,
                host: parts.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// The headers of `kernels/lib` that a text includes, directly or through others, each once.
fn headers(kernels_dir: &Path, text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut unread = vec![text.to_owned()];
    while let Some(text) = unread.pop() {
        for line in text.lines() {
            let header = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            let Some(header) = header.filter(|header| header.starts_with("lib/")) else { continue };
            if !found.iter().any(|known| known == header) {
                found.push(header.to_owned());
                unread.push(crate::read(&kernels_dir.join(header)));
            }
        }
    }
    found
}

/// The comment lines that end `text`, as one line.
fn comment_above(text: &str) -> String {
    let comments = text.lines().rev().map_while(|line| line.strip_prefix("//"));
    let mut lines: Vec<&str> = comments.map(str::trim).collect();
    lines.reverse();
    lines.join(" ")
}

fn param(text: &str) -> Option<Param> {
    let spaced = text.replace("__restrict__", " ").replace('*', " * ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    let name = words.pop()?.to_owned();
    let mut take = |word: &str| words.iter().position(|w| *w == word).map(|at| words.remove(at)).is_some();
    let (constant, nullable, pointer) = (take("const"), take("NULLABLE"), take("*"));
    let scalar = SCALARS.iter().find(|s| words.join(" ") == s.c)?;
    Some(Param { name, scalar, pointer: pointer.then_some(Pointer { mutable: !constant, nullable }) })
}
