//! Every kernel compiles with NVRTC for four generations of GPUs, with no spills where its file promises
//! none. NVRTC needs no GPU; without it this test is reported as not run, and `SADDLE_REQUIRE_NVRTC=1` turns
//! that into a failure.

use saddle::device::cuda::{check, nvrtc};
use saddle::device::kernels::SOURCES;

const ARCHS: [&str; 4] = ["sm_75", "sm_80", "sm_90a", "sm_100"];

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if let Err(reason) = nvrtc::version() {
        assert!(
            std::env::var("SADDLE_REQUIRE_NVRTC").as_deref() != Ok("1"),
            "SADDLE_REQUIRE_NVRTC=1, but {reason}"
        );
        eprintln!("NOT RUN: {reason}");
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
        // A conformance kernel asks for more dynamic shared memory than sm_75 has; training never runs it.
        let exempt = row.arch == "sm_75" && row.file == "conformance.cu";
        assert!(exempt || row.shared_bytes <= most * 1024, "{row:?}: more shared memory than a block has");
    }
    // A kernel that is known to have a shared array of 1024 integers: the numbers are read, not defaulted.
    let sum = rows.iter().find(|row| row.kernel == "conf_sum_1024").unwrap();
    assert_eq!(sum.shared_bytes, 4096, "{sum:?}");
    let dynamic = rows.iter().find(|row| row.kernel == "conf_dynamic_shared").unwrap();
    assert_eq!(dynamic.shared_bytes, 65536 + 256, "{dynamic:?}");
    println!("{kernels} kernels of {} files compile for {}", SOURCES.len(), ARCHS.join(", "));
}
