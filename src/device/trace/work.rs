//! What a launch has to do, read off its signature and its arguments: sizes, bytes, and floating-point
//! operations.
//!
//! Bytes are those of the buffers that a kernel is given, each once: what its algorithm has to move at least
//! when nothing is in a cache. A buffer that is changed in place counts as read and as written. Operations
//! are counted for the kernels that multiply matrices, a multiplication and an addition as two; all others
//! are limited by memory.

use super::super::table::Traffic;
use super::super::{Arg, Precision};
use serde::Serialize;

/// The work of one launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Work {
    /// Its sizes: `128x32x32x64, 3x3 to 64`, or the kernel's own numbers.
    pub shape: String,
    /// The kernel's sizes by their names.
    pub sizes: Vec<(&'static str, usize)>,
    /// Bytes.
    pub read: u64,
    pub written: u64,
    /// `None` for a kernel that multiplies no matrices.
    pub flop: Option<u64>,
    /// Of its products.
    pub precision: Precision,
}

/// The parameters of a kernel, as its signature has them.
pub(super) struct Parameters(Vec<Parameter>);

struct Parameter {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    /// A pointer to elements of so many bytes.
    Pointer {
        mutable: bool,
        element: u64,
    },
    /// Of a launch on many tensors: it points to their buffers.
    Table,
    Size,
    Other,
}

/// Pointers that a kernel reads and changes, by name; other mutable ones are results.
const IN_PLACE: [&str; 12] = [
    "adv",
    "average",
    "best",
    "memory",
    "momentum",
    "prev",
    "running_mean",
    "running_var",
    "sum",
    "velocity",
    "w",
    "walk",
];

impl Parameters {
    /// Of `name(const float* x, int n)`.
    pub fn of(signature: &'static str) -> Parameters {
        let list = signature.split_once('(').map_or("", |(_, list)| list.trim_end_matches(')'));
        let parameter = |text: &'static str| {
            let (kind, name) = text.rsplit_once(' ')?;
            let kind = match kind {
                "int" => Kind::Size,
                "const uint64_t*" if name == "table" => Kind::Table,
                pointer if pointer.ends_with('*') => Kind::Pointer {
                    mutable: !pointer.contains("const "),
                    element: element(pointer.trim_end_matches('*')),
                },
                _ => Kind::Other,
            };
            Some(Parameter { name, kind })
        };
        Parameters(list.split(", ").filter_map(parameter).collect())
    }

    fn value(&self, args: &[Arg], name: &str) -> Option<u64> {
        let place = self.0.iter().position(|parameter| parameter.name == name)?;
        args.get(place).map(|arg| arg.0 & u64::from(u32::MAX))
    }

    /// The values of sizes, if the kernel has all of them.
    fn sizes<const N: usize>(&self, args: &[Arg], names: [&str; N]) -> Option<[u64; N]> {
        let mut values = [0; N];
        for (value, name) in values.iter_mut().zip(names) {
            *value = self.value(args, name)?;
        }
        Some(values)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|parameter| parameter.name == name)
    }
}

/// Bytes of an element of this type, such as `NULLABLE const uint8_t`.
fn element(name: &str) -> u64 {
    match name.rsplit(' ').next().unwrap_or(name) {
        "uint8_t" => 1,
        word if word.contains("16") => 2,
        _ => 4,
    }
}

impl Work {
    /// Of a launch with these arguments; `size` gives the bytes of the buffer at an address.
    /// `table` gives the bytes of the buffers that a table points to.
    pub(super) fn of(
        kernel: &str,
        parameters: &Parameters,
        args: &[Arg],
        size: impl Fn(u64) -> u64,
        table: impl Fn(u64) -> Traffic,
    ) -> Work {
        let adds = parameters.value(args, "accumulate").is_some_and(|flag| flag & 1 == 1);
        let most = most_elements(parameters, args, &size);
        let (mut read, mut written) = (0, 0);
        for (parameter, arg) in parameters.0.iter().zip(args) {
            let (mutable, element) = match parameter.kind {
                Kind::Pointer { mutable, element } if arg.0 != 0 => (mutable, element),
                Kind::Table => {
                    let pointed = table(arg.0);
                    read += pointed.read;
                    written += pointed.written;
                    continue;
                }
                _ => continue,
            };
            let bytes = size(arg.0).min(most.saturating_mul(element));
            if mutable {
                written += bytes;
            }
            if !mutable || adds || IN_PLACE.contains(&parameter.name) {
                read += bytes;
            }
        }
        let (shape, flop) = product(parameters, args, &size);
        let shape = shape.unwrap_or_else(|| plain(parameters, args));
        let sizes =
            parameters.0.iter().zip(args).filter(|(parameter, _)| matches!(parameter.kind, Kind::Size));
        let sizes = sizes.map(|(parameter, arg)| (parameter.name, arg.0 as u32 as usize)).collect();
        Work { shape, sizes, read, written, flop, precision: Precision::of_kernel(kernel) }
    }

    /// The kernel's size of this name.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.sizes.iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }
}

/// The most elements of a buffer that are touched, where a kernel takes a part of a larger one: as many as
/// the smallest of its float buffers has where rows are gathered, or `n` of a slice.
fn most_elements(parameters: &Parameters, args: &[Arg], size: impl Fn(u64) -> u64) -> u64 {
    if let (true, Some(n)) = (parameters.has("from"), parameters.value(args, "n")) {
        return n;
    }
    if !parameters.has("known") {
        return u64::MAX;
    }
    let elements = parameters.0.iter().zip(args).filter_map(|(parameter, arg)| match parameter.kind {
        Kind::Pointer { element, .. } if ["data", "x", "out", "labels"].contains(&parameter.name) => {
            Some(size(arg.0) / element)
        }
        _ => None,
    });
    elements.min().unwrap_or(u64::MAX)
}

/// Sizes and operations of a convolution or of a product of matrices.
fn product(
    parameters: &Parameters,
    args: &[Arg],
    size: impl Fn(u64) -> u64,
) -> (Option<String>, Option<u64>) {
    const CONV: [&str; 10] = [
        "images",
        "height",
        "width",
        "channels",
        "out_height",
        "out_width",
        "out_channels",
        "kernel_h",
        "kernel_w",
        "stride",
    ];
    if let Some([n, h, w, c, oh, ow, k, kh, kw, stride]) = parameters.sizes(args, CONV) {
        let stride = if stride == 1 { String::new() } else { format!(" s{stride}") };
        let shape = format!("{n}x{h}x{w}x{c}, {kh}x{kw}{stride} to {k}");
        return (Some(shape), Some(2 * n * oh * ow * k * kh * kw * c));
    }
    // A head multiplies its features by the weights, and the gradient of the logits by them again.
    let maps = parameters.0.iter().zip(args).find(|(parameter, _)| parameter.name == "maps");
    if let Some((Parameter { kind: Kind::Pointer { element, .. }, .. }, arg)) = maps
        && let Some([pixels, channels, classes]) = parameters.sizes(args, ["pixels", "channels", "classes"])
    {
        let images = size(arg.0) / (element * pixels * channels).max(1);
        let shape = format!("{images}x{pixels}x{channels} to {classes}");
        return (Some(shape), Some(2 * 2 * images * channels * classes));
    }
    match parameters.sizes(args, ["rows", "inputs", "outputs"]) {
        Some([rows, inputs, outputs]) => {
            (Some(format!("{rows}x{inputs} to {outputs}")), Some(2 * rows * inputs * outputs))
        }
        None => (None, None),
    }
}

/// Sizes that say how a kernel works, not on what.
const INNER: [&str; 6] = ["known", "per_image", "per_view", "rows_per_block", "side", "stride"];

/// The sizes of any other kernel, by their names; those that are 0 say nothing.
fn plain(parameters: &Parameters, args: &[Arg]) -> String {
    let sizes = parameters.0.iter().zip(args).filter(|(parameter, arg)| {
        matches!(parameter.kind, Kind::Size) && arg.0 != 0 && !INNER.contains(&parameter.name)
    });
    let words = sizes.map(|(parameter, arg)| format!("{} {}", parameter.name, arg.0 as u32));
    words.collect::<Vec<_>>().join(", ")
}
