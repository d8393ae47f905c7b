//! Kernels as machine code of this CPU's family: one object per `.cu` file and instruction set, linked into
//! the binary.

use crate::parse::{Instance, Kernel, Source};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An instruction set that kernels are compiled for; the best one that the machine has is chosen at run time.
pub struct InstructionSet {
    pub name: &'static str,
    flags: &'static [&'static str],
}

/// The instruction sets of the target from lowest to highest, with one thread per block; and last the
/// variant with CUDA's launch configurations.
pub fn instruction_sets() -> Vec<InstructionSet> {
    match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => vec![
            InstructionSet { name: "v2", flags: &[ONE_THREAD_BLOCKS, "-march=x86-64-v2"] },
            InstructionSet { name: "v3", flags: &[ONE_THREAD_BLOCKS, "-march=x86-64-v3"] },
            InstructionSet {
                name: "v4",
                flags: &[ONE_THREAD_BLOCKS, "-march=x86-64-v4", "-mprefer-vector-width=512"],
            },
            InstructionSet { name: CUDA_SHAPES, flags: &["-march=x86-64-v2"] },
        ],
        _ => vec![
            InstructionSet { name: "base", flags: &[ONE_THREAD_BLOCKS] },
            InstructionSet { name: CUDA_SHAPES, flags: &[] },
        ],
    }
}

/// The host's own build: kernels/lib/common.cuh says what the macro means.
const ONE_THREAD_BLOCKS: &str = "-DONE_THREAD_BLOCKS=1";

/// The name of the variant that runs CUDA's launch configurations, and the code that only they have, on the
/// CPU.
pub const CUDA_SHAPES: &str = "cuda_shapes";

/// `SADDLE_KERNEL_DEBUG=1`: kernels for a debugger, which then shows arguments and locals, and slow ones.
const OPTIMIZED: &[&str] = &["-O3", "-g1"];
const DEBUGGABLE: &[&str] = &["-O0", "-g"];

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-fPIC",
    "-DSADDLE_HOST",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-ftls-model=initial-exec",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-ignored-attributes",
    "-Wno-unused-variable",
    "-Werror=return-type",
];

/// Compiles every source for every instruction set (in parallel, and only what changed), tells cargo to link
/// those of `sources`, and leaves those of `conformance` in an archive of their own, which unit tests link.
pub fn compile(root: &Path, out: &Path, sources: &[Source], conformance: &[Source], isas: &[InstructionSet]) {
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=SADDLE_KERNEL_DEBUG");
    let debug = std::env::var_os("SADDLE_KERNEL_DEBUG").is_some_and(|value| value == "1");
    let level = if debug { DEBUGGABLE } else { OPTIMIZED };
    let compiler = cc::Build::new().cpp(true).cargo_metadata(false).get_compiler();
    let kernels = root.join("kernels");
    let mut headers = DefaultHasher::new();
    for folder in ["lib", "host"] {
        for file in
            crate::list(&kernels.join(folder), "cuh").iter().chain(&crate::list(&kernels.join(folder), "h"))
        {
            crate::read(file).hash(&mut headers);
        }
    }
    // Another compiler makes other objects.
    let version =
        compiler.to_command().arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    (compiler.path(), version, level).hash(&mut headers);
    let headers = headers.finish();

    let runtime = crate::read(&kernels.join("host/runtime.cpp"));
    let unit = runtime.replace("\"shim.h\"", "\"host/shim.h\"");
    let mut jobs = vec![Job::new(out, "runtime", unit, &runtime, headers, &[])];
    jobs.extend(jobs_of(sources, out, headers, isas));
    let product_jobs = jobs.len();
    jobs.extend(jobs_of(conformance, out, headers, isas));
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    job.run(compiler.to_command(), level, root, &kernels);
                }
            });
        }
    });
    let (product, conformance) = jobs.split_at(product_jobs);
    for (name, jobs) in [("saddle_kernels", product), ("saddle_conformance", conformance)] {
        let mut archive = cc::Build::new();
        for job in jobs {
            archive.object(&job.object);
        }
        archive.cargo_metadata(false).compile(name);
    }
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=saddle_kernels");
    println!("cargo:rustc-link-lib=m");
}

/// A job for each instance of a source and each instruction set.
fn jobs_of(sources: &[Source], out: &Path, headers: u64, isas: &[InstructionSet]) -> Vec<Job> {
    let instances = sources.iter().flat_map(|source| source.instances.iter().map(move |i| (source, i)));
    let each = instances.flat_map(|(source, instance)| isas.iter().map(move |isa| (source, instance, isa)));
    each.map(|(source, instance, isa)| {
        let file = instance_file(out, source, instance);
        let stem = format!("{}_{}", identifier(source, instance), isa.name);
        let unit = translation_unit(source, instance, &file, isa);
        Job::new(out, &stem, unit, &instance.text, headers, isa.flags)
    })
    .collect()
}

struct Job {
    unit: PathBuf,
    object: PathBuf,
    text: String,
    flags: &'static [&'static str],
}

impl Job {
    fn new(
        out: &Path,
        stem: &str,
        text: String,
        source: &str,
        headers: u64,
        flags: &'static [&'static str],
    ) -> Job {
        let mut hasher = DefaultHasher::new();
        (&text, source, headers, flags, FLAGS).hash(&mut hasher);
        let name = format!("{stem}-{:016x}", hasher.finish());
        Job { unit: out.join(format!("{stem}.cpp")), object: out.join(format!("{name}.o")), text, flags }
    }

    fn run(&self, mut command: Command, level: &[&str], root: &Path, kernels: &Path) {
        if self.object.exists() {
            return;
        }
        std::fs::write(&self.unit, &self.text).unwrap_or_else(|e| panic!("{}: {e}", self.unit.display()));
        let partial = self.object.with_extension("partial");
        command.args(FLAGS).args(level).args(self.flags).arg("-I").arg(kernels);
        command.arg(format!("-fmacro-prefix-map={}/=", root.display()));
        command.arg("-c").arg(&self.unit).arg("-o").arg(&partial);
        let output = command.output().unwrap_or_else(|e| {
            panic!("cannot run the C++ compiler {:?}: {e}; install g++ or set CXX", command.get_program())
        });
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} does not compile:\n{log}", self.unit.display());
        for line in log.lines() {
            println!("cargo:warning={line}");
        }
        std::fs::rename(&partial, &self.object).unwrap_or_else(|e| panic!("{}: {e}", self.object.display()));
    }
}

/// What names of objects and namespaces begin with.
fn identifier(source: &Source, instance: &Instance) -> String {
    let folder = source.file.rsplit_once('/').map_or("", |(folder, _)| folder);
    if folder.is_empty() { instance.name.clone() } else { format!("{folder}_{}", instance.name) }
}

/// The file that a unit includes: the source itself where it has no T, else the instance's text, whose lines
/// a debugger finds in the source.
fn instance_file(out: &Path, source: &Source, instance: &Instance) -> String {
    if source.instances.len() == 1 {
        return source.file.clone();
    }
    let file = out.join(format!("{}.cu", identifier(source, instance)));
    std::fs::write(&file, format!("#line 1 {:?}\n{}", source.path, instance.text))
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    file.display().to_string()
}

/// The `.cu` file with kernel names of their own per instruction set, and a trampoline for each kernel. All
/// of it lies in a namespace of its own: what the compiler does not inline from a shared header (a lambda, a
/// template) is otherwise one function to the linker, whichever instruction set it was compiled for, though
/// Vec is not even passed in the same way.
fn translation_unit(source: &Source, instance: &Instance, file: &str, isa: &InstructionSet) -> String {
    let mut unit = format!(
        "// Written by build.rs from {0}.\n#include <cmath>\n#include <cstdint>\n#include <cstring>\n\
         #ifdef __x86_64__\n\
         #include <immintrin.h>\n#endif\nnamespace saddle_{1}_{2} {{\n#include \"lib/common.cuh\"\n",
        source.file,
        identifier(source, instance),
        isa.name
    );
    for kernel in &instance.kernels {
        unit += &format!("#define {0} {0}_{1}\n", kernel.name, isa.name);
    }
    unit += &format!("#include \"{file}\"\n");
    for kernel in &instance.kernels {
        unit += &trampoline(kernel, isa);
    }
    unit + "}\n"
}

fn trampoline(kernel: &Kernel, isa: &InstructionSet) -> String {
    let mut body = String::new();
    for (i, param) in kernel.params.iter().enumerate() {
        let star = if param.pointer.is_some() { "*" } else { "" };
        body += &format!("  {c}{star} a{i}; memcpy(&a{i}, args + {i}, sizeof a{i});\n", c = param.scalar.c);
    }
    let names: Vec<String> = (0..kernel.params.len()).map(|i| format!("a{i}")).collect();
    format!(
        "extern \"C\" void saddle_{isa}_{name}_threads(const uint64_t* args) {{\n\
         {body}  SaddleBlock* const block = saddle_block;\n  \
         while (block->started < block->threads) {{\n    const unsigned next = block->started++;\n    \
         block->thread = block->order ? block->order[next] : next;\n    {name}({args});\n  }}\n}}\n",
        isa = isa.name,
        name = kernel.name,
        args = names.join(", "),
    )
}
