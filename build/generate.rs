//! The Rust text that build.rs writes: launchers, kernel tables, module lists.

use crate::host::InstructionSet;
use crate::parse::{Config, Instance, Kernel, Param, Source};
use std::fmt::Write as _;
use std::path::Path;

/// `kernels.rs`: a module per `.cu` file with its constants and launchers, and tables of kernels and sources.
pub fn kernels(root: &Path, out: &Path, sources: &[Source], shared: &[Config], isas: &[InstructionSet]) {
    let mut text = String::new();
    let kernels_dir = root.join("kernels");
    writeln!(text, "/// The instruction sets that kernels are compiled for, from lowest to highest.").ok();
    let plain: Vec<&str> =
        isas.iter().map(|i| i.name).filter(|name| *name != crate::host::CUDA_SHAPES).collect();
    writeln!(text, "pub const INSTRUCTION_SETS: [&str; {}] = {plain:?};", plain.len()).ok();
    for config in shared {
        constant(&mut text, "", config);
    }
    writeln!(
        text,
        "/// The headers of `kernels/lib`, by the name that kernels include them with.\n\
         pub static HEADERS: &[(&str, &str)] = &["
    )
    .ok();
    for header in crate::list(&kernels_dir.join("lib"), "cuh") {
        writeln!(text, "    (\"lib/{}.cuh\", include_str!({:?})),", crate::stem(&header), header).ok();
    }
    writeln!(text, "];").ok();
    modules_of(&mut text, sources, shared, isas);
    write(out, "kernels.rs", &text);
}

/// `conformance.rs`: the same for the kernels of `kernels/conformance`, which test the devices.
pub fn conformance(out: &Path, sources: &[Source], shared: &[Config], isas: &[InstructionSet]) {
    let mut text = String::new();
    modules_of(&mut text, sources, shared, isas);
    write(out, "conformance.rs", &text);
}

/// The table of sources, and a module for each.
fn modules_of(text: &mut String, sources: &[Source], shared: &[Config], isas: &[InstructionSet]) {
    let instances = sources.iter().flat_map(|source| source.instances.iter().map(move |i| (source, i)));
    let table: Vec<String> =
        instances.map(|(source, instance)| format!("&{}::{}", source.stem, static_name(instance))).collect();
    writeln!(text, "/// Every kernel source.\npub static SOURCES: &[&Source] = &[{}];", table.join(", "))
        .ok();
    for source in sources {
        writeln!(
            text,
            "/// Launchers and constants of `kernels/{}`.\npub mod {} {{\n    use super::*;",
            source.file, source.stem
        )
        .ok();
        for instance in &source.instances {
            source_table(text, source, instance, isas);
        }
        for config in &source.configs {
            constant(text, "    ", config);
        }
        for kernel in &source.kernels {
            launcher(text, source, kernel);
        }
        for (instance, kernel) in source.instances.iter().flat_map(|i| i.kernels.iter().map(move |k| (i, k)))
        {
            table_entry(text, source, instance, kernel, shared, isas);
        }
        writeln!(text, "}}").ok();
    }
}

fn static_name(instance: &Instance) -> String {
    format!("SOURCE_{}", instance.name.to_uppercase())
}

/// The text of an instance, the list of its kernels, and their entries on the host.
fn source_table(text: &mut String, source: &Source, instance: &Instance, isas: &[InstructionSet]) {
    let names: Vec<String> = instance.kernels.iter().map(|k| format!("&{}", k.name.to_uppercase())).collect();
    writeln!(
        text,
        "    pub(crate) static {}: Source = Source {{\n        name: {:?},\n        file: {:?},\n        \
         text: {:?},\n        kernels: &[{}],\n    }};",
        static_name(instance),
        instance.name,
        source.file,
        instance.text,
        names.join(", ")
    )
    .ok();
    writeln!(text, "    unsafe extern \"C\" {{").ok();
    for (kernel, isa) in instance.kernels.iter().flat_map(|k| isas.iter().map(move |i| (k, i))) {
        writeln!(text, "        fn saddle_{}_{}_threads(args: *const Arg);", isa.name, kernel.name).ok();
    }
    writeln!(text, "    }}").ok();
}

fn constant(text: &mut String, indent: &str, config: &Config) {
    writeln!(text, "{indent}/// A constant of the kernel source, one value a device.").ok();
    writeln!(
        text,
        "{indent}pub const {}: PerDevice = PerDevice {{ cuda: {}, host: {} }};",
        config.name, config.cuda, config.host
    )
    .ok();
}

/// The static that says all of a kernel.
fn table_entry(
    text: &mut String,
    source: &Source,
    instance: &Instance,
    kernel: &Kernel,
    shared: &[Config],
    isas: &[InstructionSet],
) {
    let per_device = |what: &str, value: &str| match value.parse::<u32>() {
        Ok(n) => format!("PerDevice {{ cuda: {n}, host: {n} }}"),
        Err(_) => {
            let known = source.configs.iter().chain(shared).any(|c| c.name == value);
            assert!(
                known,
                "{}: {what} of {} must be a number or a PER_DEVICE constant, not {value}",
                source.path.display(),
                kernel.name
            );
            value.to_owned()
        }
    };
    let (threads, dynamic) =
        (per_device("launch bounds", &kernel.threads), per_device("DYN_BYTES", &kernel.dynamic));
    let host: Vec<String> =
        isas.iter().map(|i| format!("saddle_{}_{}_threads", i.name, kernel.name)).collect();
    let signature: Vec<String> = kernel.params.iter().map(c_type).collect();
    let upper = kernel.name.to_uppercase();
    writeln!(
        text,
        "    pub(crate) static {upper}: Kernel = Kernel {{ name: \"{name}\", c_name: c\"{name}\", \
         source: &{of}, doc: {doc:?}, signature: \"{name}({signature})\", threads: {threads}, \
         dynamic: {dynamic}, host: [{host}] }};",
        of = static_name(instance),
        name = kernel.name,
        doc = kernel.doc,
        signature = signature.join(", "),
        host = host.join(", "),
    )
    .ok();
}

/// The function or struct that launches a kernel, for every T if it has one.
fn launcher(text: &mut String, source: &Source, kernel: &Kernel) {
    let upper = kernel.name.to_uppercase();
    let (bound, ty, chosen) = if kernel.generic {
        ("T: Real", ", T", format!("T::of(&{upper}, &{upper}_BF16)"))
    } else {
        ("", "", format!("&{upper}"))
    };
    let params: Vec<String> =
        kernel.params.iter().map(|p| format!("{}: {}", p.name, rust_type(p, "&"))).collect();
    let args: Vec<String> = kernel.params.iter().map(|p| argument(p, &upper)).collect();
    let (params, args) = (params.join(", "), args.join(", "));
    let short = kernel.name.strip_prefix(&format!("{}_", source.stem)).unwrap_or(&kernel.name);
    writeln!(text, "    /// {}", kernel.doc.replace('[', "\\[").replace(']', "\\]")).ok();
    if kernel.params.len() <= MOST_POSITIONAL {
        writeln!(
            text,
            "    #[allow(clippy::too_many_arguments)]\n\
             \x20   pub fn {short}<{bound}>(device: &Device, grid: impl Into<Grid>, {params}) \
             -> Result<()> {{\n        \
             device.launch({chosen}, grid.into(), &[{args}])\n    }}"
        )
        .ok();
        return;
    }
    let name = camel_case(short);
    let fields: Vec<String> =
        kernel.params.iter().map(|p| format!("        pub {}: {},", p.name, rust_type(p, "&'a "))).collect();
    let names: Vec<&str> = kernel.params.iter().map(|p| p.name.as_str()).collect();
    writeln!(
        text,
        "    pub struct {name}<'a, {bound}> {{\n{fields}\n    }}\n    impl<{bound}> {name}<'_{ty}> \
         {{\n        \
         pub fn launch(self, device: &Device, grid: impl Into<Grid>) -> Result<()> {{\n            \
         let {name} {{ {names} }} = self;\n            \
         device.launch({chosen}, grid.into(), &[{args}])\n        }}\n    }}",
        fields = fields.join("\n"),
        names = names.join(", "),
    )
    .ok();
}

/// A launcher of more parameters takes them by name, as the fields of a struct.
const MOST_POSITIONAL: usize = 8;

fn camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(word).collect()
}

/// The bits of a parameter of this name.
fn argument(param: &Param, kernel: &str) -> String {
    let name = &param.name;
    match &param.pointer {
        None if param.scalar.c == "int" => format!("narrowed(&{kernel}, \"{name}\", {name})?.arg()"),
        Some(p) if p.mutable && !p.nullable && is_real(param) => {
            format!("{name}.output()?.arg()")
        }
        _ => format!("{name}.arg()"),
    }
}

/// Whether the elements may be those of a tensor.
fn is_real(param: &Param) -> bool {
    matches!(param.scalar.rust, "f32" | "bf16" | "T")
}

fn c_type(param: &Param) -> String {
    match &param.pointer {
        None => format!("{} {}", param.scalar.c, param.name),
        Some(p) => {
            let constant = if p.mutable { "" } else { "const " };
            let nullable = if p.nullable { "NULLABLE " } else { "" };
            format!("{nullable}{constant}{}* {}", param.scalar.c, param.name)
        }
    }
}

/// The type of a launcher's parameter, with `reference` as `&` or `&'a `.
fn rust_type(param: &Param, reference: &str) -> String {
    let scalar = param.scalar.rust;
    match &param.pointer {
        None if param.scalar.c == "int" => "usize".into(),
        None => scalar.into(),
        Some(p) if p.mutable && !p.nullable && is_real(param) => {
            format!("{reference}mut dyn Output<{scalar}>")
        }
        Some(p) => {
            let mutable = if p.mutable { "mut " } else { "" };
            let pointer = format!("{reference}{mutable}Buffer<{scalar}>");
            if p.nullable { format!("Option<{pointer}>") } else { pointer }
        }
    }
}

/// `ops.rs`: a `pub mod` for every file of `src/FOLDER` that has its own `.rs` (mod.rs and
/// `recipes.rs`: the recipes of `recipes/*.toml`, embedded.
pub fn recipes(root: &Path, out: &Path) {
    let mut text = String::from(
        "/// The embedded recipes: name and TOML text.\npub static RECIPES: &[(&str, &str)] = &[\n",
    );
    for path in crate::list(&root.join("recipes"), "toml") {
        writeln!(text, "    ({:?}, include_str!({path:?})),", crate::stem(&path)).ok();
    }
    text += "];\n";
    write(out, "recipes.rs", &text);
}

fn write(out: &Path, name: &str, text: &str) {
    let path = out.join(name);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return;
    }
    std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
