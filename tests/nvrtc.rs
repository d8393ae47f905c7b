//! Every kernel compiles with NVRTC for four generations of GPUs, with no spills where its file promises
//! none. NVRTC needs no GPU; without it this test is reported as not run, and `SADDLE_REQUIRE_NVRTC=1` turns
//! that into a failure.

use saddle::device::cuda::check;
use saddle::device::cuda::nvrtc::{Arch, compile};
use saddle::device::kernels::SOURCES;
use saddle::device::testing::nvrtc_is_present;

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
