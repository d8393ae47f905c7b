use crate::harness::{LATE, PTX, alone};

#[test]
fn a_fault_stays() {
    let said = alone(&[LATE], |cuda| {
        let context = cuda.start();
        let (block, stream, function) = (cuda.block(&[1, 2]), cuda.stream(), cuda.function(c"increment"));
        let (event, doomed) = (cuda.event(), cuda.block(&[3]));
        // One value too many.
        assert_eq!(cuda.increment(function, block, 1, 3, stream), 0);
        cuda.ok("cuMemsetD8Async", &[doomed, 0, 4, stream]);
        cuda.refuses(700, "cuStreamSynchronize", &[stream]);
        let mut word = 0usize;
        let result = &raw mut word as usize;
        cuda.refuses(700, "cuStreamSynchronize", &[stream]);
        cuda.refuses(700, "cuMemAlloc_v2", &[result, 4]);
        cuda.refuses(700, "cuMemcpyDtoH_v2", &[result, block, 4]);
        cuda.refuses(700, "cuCtxSynchronize", &[]);
        cuda.refuses(700, "cuEventSynchronize", &[event]);
        assert_eq!(cuda.increment(function, block, 1, 1, stream), 700);
        // What needs no device still works, and what cleans up does so.
        assert_eq!(cuda.get("cuCtxGetCurrent", &[]), context);
        cuda.refuses(700, "cuMemFree_v2", &[doomed]);
        cuda.refuses(700, "cuStreamDestroy_v2", &[stream]);
        cuda.refuses(400, "cuStreamDestroy_v2", &[stream]);
        cuda.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
        assert_eq!(cuda.get("cuDeviceGetCount", &[]), 1);
    });
    let Some(said) = said else { return };
    let line = said.lines().find(|line| line.starts_with("softgpu: fault: CUDA_ERROR_ILLEGAL_ADDRESS: "));
    assert!(line.is_some_and(|line| line.contains("increment")), "{said}");
}

#[test]
fn the_legacy_stream_meets_the_fault() {
    alone(&[], |cuda| {
        cuda.start();
        let (block, function) = (cuda.block(&[1]), cuda.function(c"increment"));
        assert_eq!(cuda.increment(function, block, 1, 2, 0), 0);
        let mut word = 0u32;
        cuda.refuses(700, "cuMemcpyDtoH_v2", &[&raw mut word as usize, block, 4]);
        assert_eq!(std::hint::black_box(word), 0);
    });
}

#[test]
fn kernels_can_be_made_to_fail() {
    let fail = ("SOFTGPU_FAIL", "increment:2=CUDA_ERROR_LAUNCH_TIMEOUT");
    let said = alone(&[fail], |cuda| {
        cuda.start();
        let (block, function) = (cuda.block(&[1]), cuda.function(c"increment"));
        assert_eq!(cuda.increment(function, block, 1, 1, 0), 0);
        assert_eq!(cuda.values(block), [2]);
        assert_eq!(cuda.increment(function, block, 1, 1, 0), 0);
        cuda.refuses(702, "cuCtxSynchronize", &[]);
    });
    let Some(said) = said else { return };
    assert!(said.contains("softgpu: fault: CUDA_ERROR_LAUNCH_TIMEOUT: increment\n"), "{said}");
}

#[test]
fn a_mutant_of_no_instruction_is_refused() {
    let said = alone(&[("SOFTGPU_MUTANT", "tile:1")], |cuda| {
        cuda.start();
        let mut module = 0usize;
        cuda.refuses(1, "cuModuleLoadData", &[&raw mut module as usize, PTX.as_ptr() as usize]);
    });
    let Some(said) = said else { return };
    let line =
        "CUDA_ERROR_INVALID_VALUE: SOFTGPU_MUTANT: tile has 0 instructions that wait, there is no number 1";
    assert!(said.contains(line), "{said}");
}

#[test]
fn a_report_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let ended = alone(&[("SOFTGPU_REPORT", path.to_str().unwrap())], |cuda| {
        cuda.start();
        let (block, function) = (cuda.block(&[1; 40]), cuda.function(c"increment"));
        for _ in 0..3 {
            assert_eq!(cuda.increment(function, block, 1, 32, 0), 0);
        }
        cuda.ok("cuCtxSynchronize", &[]);
    });
    if ended.is_none() {
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["kernels"]["increment"]["launches"], 3, "{text}");
    assert_eq!((&report["peak_bytes"], &report["blocks_not_freed"]), (&160.into(), &1.into()), "{text}");
    let counts = &report["kernels"]["increment"]["counts"];
    assert_eq!((&counts["blocks"], &counts["threads_per_block"]), (&3.into(), &32.into()), "{text}");
    // 15 instructions: the branch is not taken.
    assert_eq!(counts["total"]["thread_instructions"], 3 * 32 * 15, "{text}");
    assert!(report["fault"].is_null(), "{text}");
}

#[test]
fn a_trace_shows_every_call() {
    let said = alone(&[("SOFTGPU_TRACE", "on")], |cuda| {
        cuda.start();
        cuda.stream();
    });
    let Some(said) = said else { return };
    for line in ["softgpu: cuInit: CUDA_SUCCESS\n", "softgpu: cuStreamCreate: CUDA_SUCCESS\n"] {
        assert!(said.contains(line), "{said}");
    }
}
