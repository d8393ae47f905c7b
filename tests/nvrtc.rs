//! Every kernel compiles with NVRTC for four generations of GPUs, with no spills where its file promises
//! none. NVRTC needs no GPU; without it this test is reported as not run, and `SADDLE_REQUIRE_NVRTC=1` turns
//! that into a failure.

use ptx::occupancy::{Demand, Occupancy};
use saddle::device::Source;
use saddle::device::cuda::check;
use saddle::device::cuda::nvrtc::{Arch, compile, version};
use saddle::device::kernels::SOURCES;
use saddle::device::testing::nvrtc_is_present;
use std::collections::BTreeMap;
use std::path::Path;

const ARCHS: [&str; 4] = ["sm_75", "sm_80", "sm_90a", "sm_100"];

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if !nvrtc_is_present() {
        return;
    }
    let rows = check::compile_all(&ARCHS).unwrap();
    let kernels = SOURCES.iter().map(|source| source.kernels.len()).sum::<usize>();
    assert_eq!(rows.len(), ARCHS.len() * kernels);
    for row in &rows {
        assert!((1..=255).contains(&row.registers), "{row:?}");
        let most = match row.arch.as_str() {
            // Kernels for tensor cores are never launched there.
            "sm_75" if row.file.starts_with("conv2d_mma") => 96,
            "sm_75" => 64,
            "sm_80" => 163,
            _ => 227,
        };
        assert!(row.shared_bytes <= most * 1024, "{row:?}: more shared memory than a block has");
    }
    println!("{kernels} kernels of {} files compile for {}", SOURCES.len(), ARCHS.join(", "));
}

/// What `saddle inspect` reads from a cubin is what the assembler printed when it made it.
#[test]
fn a_cubin_says_what_the_assembler_said() {
    if !nvrtc_is_present() {
        return;
    }
    for arch in ARCHS {
        for file in ["linear.cu", "random_start.cu", "reduce.cu"] {
            let source = SOURCES.iter().find(|source| source.file == file).unwrap();
            let compiled = compile(source, &Arch::named(arch)).unwrap();
            let found = ptx::cubin::resources(&compiled.image).unwrap();
            assert_eq!(found.len(), source.kernels.len(), "{file} for {arch}");
            for printed in &compiled.resources {
                let read = found.iter().find(|read| read.kernel == printed.kernel).unwrap();
                let both = (read.registers, read.static_shared);
                assert_eq!(both, (printed.registers, printed.shared_bytes), "{} for {arch}", printed.kernel);
            }
        }
    }
}

/// Architectures, and for each a GPU whose multiprocessors hold as many warps, blocks, registers and bytes.
const TENSOR_CORES: [(&str, &str); 6] = [
    ("sm_80", "a100-80gb"),
    ("sm_86", "rtx4090"),
    ("sm_89", "rtx4090"),
    ("sm_90a", "h200"),
    ("sm_100", "h200"),
    ("sm_120", "rtx4090"),
];

const TABLE: &str = "docs/tensor-core-kernels.md";

/// The convolution on tensor cores multiplies there, keeps everything in registers, and fits, as TABLE says
/// of each kernel and architecture. `SADDLE_WRITE_TABLES=1` writes it.
#[test]
fn the_table_of_tensor_core_kernels_is_current() {
    if !nvrtc_is_present() {
        return;
    }
    let sources: Vec<&Source> =
        SOURCES.iter().copied().filter(|source| source.file.starts_with("conv2d_mma")).collect();
    let mut rows: BTreeMap<(&str, &str), Vec<(u32, u32)>> = BTreeMap::new();
    for ((arch, like), source) in TENSOR_CORES.iter().flat_map(|arch| sources.iter().map(move |s| (arch, s)))
    {
        let compiled = compile(source, &Arch::named(arch)).unwrap();
        let resources = ptx::cubin::resources(&compiled.image).unwrap();
        let limits = ptx::gpu::find(like).unwrap().limits();
        for kernel in source.kernels {
            let found = resources.iter().find(|found| found.kernel == kernel.name).unwrap();
            let name = format!("{} for {arch}", kernel.name);
            let spills = compiled.resources.iter().find(|r| r.kernel == kernel.name).unwrap().spill_bytes;
            assert_eq!((spills, found.stack), (0, 0), "{name} uses local memory");
            // Four products of 16 x 8 for each of the loop's four steps at least.
            let multiplies = !kernel.name.contains("pack");
            assert!(!multiplies || found.matrix_products >= 32, "{name}: {} HMMA", found.matrix_products);
            let demand = Demand {
                threads: kernel.threads.cuda as u32,
                registers: found.registers,
                shared: found.static_shared + kernel.dynamic.cuda as u32,
            };
            assert!(demand.shared <= limits.shared_of_block, "{name}: {} bytes", demand.shared);
            let blocks = Occupancy::of(demand, &limits).blocks;
            assert!(blocks >= 1, "{name} does not fit");
            rows.entry((source.file, kernel.name)).or_default().push((found.registers, blocks));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let (major, minor) = version().unwrap();
    let made_by = format!("Made by NVRTC {major}.{minor}");
    let mut text = format!("{HEAD}{made_by}.\n\n| kernel | threads | shared bytes |");
    TENSOR_CORES.iter().for_each(|(arch, _)| text += &format!(" {arch} |"));
    text += &format!("\n|---|--:|--:|{}\n", "--:|".repeat(TENSOR_CORES.len()));
    for ((file, name), cells) in &rows {
        let source =
            sources.iter().find(|s| s.file == *file && s.kernels.iter().any(|k| k.name == *name)).unwrap();
        let kernel = source.kernels.iter().find(|kernel| kernel.name == *name).unwrap();
        text += &format!("| {name} | {} | {} |", kernel.threads.cuda, kernel.dynamic.cuda);
        cells.iter().for_each(|(registers, blocks)| text += &format!(" {registers} / {blocks} |"));
        text += "\n";
    }
    if std::env::var("SADDLE_WRITE_TABLES").as_deref() == Ok("1") {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    if committed.contains(&made_by) {
        assert_eq!(text, committed, "{TABLE} is not current: SADDLE_WRITE_TABLES=1 writes it");
        return;
    }
    // Another compiler takes other registers; as many blocks must fit.
    let blocks = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("| conv2d"));
        let cell = |cell: &str| cell.rsplit('/').next().unwrap_or(cell).trim().to_owned();
        rows.flat_map(|line| line.split('|').map(cell).collect::<Vec<_>>()).collect()
    };
    assert_eq!(blocks(&text), blocks(&committed), "{TABLE}: another number of blocks with {made_by}");
}

const HEAD: &str = "\
# Kernels for tensor cores

What the assembler makes of each kernel of `conv2d_mma.cu` and `conv2d_mma_weight.cu`: registers of a thread
/ blocks that a multiprocessor holds at once. Shared bytes are the dynamic ones. A kernel without `_bf16` at
its end multiplies tf32. None uses local memory, and each but the packing has HMMA instructions: the tests of
`tests/nvrtc.rs` check all of it, and with `SADDLE_WRITE_TABLES=1` they write this page.

";
