use crate::harness::{Cuda, alone, room};
use std::ffi::{CStr, c_char};

/// The names of all functions, as the library lists them.
fn names() -> Vec<String> {
    if let Ok(names) = std::env::var("SOFTGPU_TEST_NAMES") {
        return names.split(',').map(str::to_owned).collect();
    }
    let said = list();
    said.lines().filter(|line| line.starts_with("cu")).map(str::to_owned).collect()
}

fn list() -> String {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", "basics::the_list_of_functions", "--nocapture"]);
    let output =
        command.env("SOFTGPU_TEST_CHILD", "basics::the_list_of_functions").env("SOFTGPU_FAIL", "all");
    String::from_utf8(output.output().unwrap().stderr).unwrap()
}

#[test]
fn the_list_of_functions() {
    let said = alone(&[("SOFTGPU_FAIL", "all")], |cuda| cuda.ok("cuInit", &[0]));
    let Some(said) = said else { return };
    let names: Vec<&str> = said.lines().filter(|line| line.starts_with("cu")).collect();
    assert!(names.len() > 100 && names.contains(&"cuLaunchKernel"), "{said}");
}

/// Needs no `cuInit`.
const ALWAYS: [&str; 5] =
    ["cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuGetProcAddress_v2"];

#[test]
fn every_function_can_be_made_to_fail_and_needs_initialisation() {
    let names = names();
    let fail: Vec<String> = names.iter().map(|name| format!("{name}:1=CUDA_ERROR_TIMEOUT")).collect();
    let variables = [("SOFTGPU_FAIL", fail.join(",")), ("SOFTGPU_TEST_NAMES", names.join(","))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let said = alone(&variables, |cuda| {
        for name in crate::basics::names() {
            cuda.refuses(909, &name, &[]);
            let arguments: &[usize] = if name == "cuInit" { &[1] } else { &[] };
            match cuda.call(&name, arguments) {
                801 => {}
                code if ALWAYS.contains(&name.as_str()) => assert_eq!(code, 1, "{name}"),
                code => assert_eq!(code, 3, "{name}"),
            }
        }
    });
    let Some(said) = said else { return };
    assert!(said.contains("softgpu: cuMemAlloc_v2: CUDA_ERROR_TIMEOUT: injected into call 1\n"), "{said}");
    assert!(
        said.contains("softgpu: cuMemAlloc_v2: CUDA_ERROR_NOT_INITIALIZED: cuInit was not called\n"),
        "{said}"
    );
}

#[test]
fn null_arguments_are_refused_without_a_crash() {
    let names = names().join(",");
    alone(&[("SOFTGPU_TEST_NAMES", &names)], |cuda| {
        let context = cuda.start();
        for name in crate::basics::names() {
            let code = cuda.call(&name, &[]);
            // Context 0, the default stream, address 0 and a size of 0 are allowed.
            let allowed = ["cuMem", "cuStream", "cuCtx", "cuProfiler", "cuDevicePrimary", "cuInit"];
            let allowed = allowed.iter().any(|start| name.starts_with(start));
            assert!(code != 0 || allowed, "{name}: {code}");
            assert_ne!(code, 999, "{name}");
            if cuda.call("cuCtxSetCurrent", &[context]) != 0 {
                cuda.start();
            }
        }
    });
}

#[test]
fn the_second_call_and_all_later_ones_fail() {
    alone(&[("SOFTGPU_FAIL", "cuDeviceGetCount:2+=100,cuDeviceGet:3")], |cuda| {
        let mut word = 0usize;
        let result = &raw mut word as usize;
        cuda.ok("cuInit", &[0]);
        let codes: [u32; 4] = std::array::from_fn(|_| cuda.call("cuDeviceGetCount", &[result]));
        assert_eq!(codes, [0, 100, 100, 100]);
        let codes: [u32; 4] = std::array::from_fn(|_| cuda.call("cuDeviceGet", &[result, 0]));
        assert_eq!(codes, [0, 0, 999, 0]);
    });
}

#[test]
fn wrong_options_are_said_and_stop_everything() {
    for (name, value, line) in [
        ("SOFTGPU_ARCH", "70", "SOFTGPU_ARCH=70: write 75, 80, 90 or 121"),
        ("SOFTGPU_MEMORY", "8G", "SOFTGPU_MEMORY=8G: write a number"),
        ("SOFTGPU_CHECKS", "yes", "SOFTGPU_CHECKS=yes: write on or off"),
        ("SOFTGPU_ORDER", "back", "SOFTGPU_ORDER=back: write forward, reverse or shuffled:SEED"),
        ("SOFTGPU_DELAY", "long", "SOFTGPU_DELAY=long: write microseconds or wait"),
        ("SOFTGPU_LIMIT", "long", "SOFTGPU_LIMIT=long: write a number"),
        ("SOFTGPU_MUTANT", "tile:0", "SOFTGPU_MUTANT=tile:0: write KERNEL:N, N from 1"),
        ("SOFTGPU_FAIL", "cuFoo:1", "SOFTGPU_FAIL: there is no cuFoo; SOFTGPU_FAIL=all lists all functions"),
        (
            "SOFTGPU_FAIL",
            "cuInit",
            "SOFTGPU_FAIL: cuInit: write NAME:N or NAME:N+, and =CODE after it if not UNKNOWN",
        ),
        (
            "SOFTGPU_FAIL",
            "cuInit:1=CUDA_ERROR_FOO",
            "SOFTGPU_FAIL: CUDA_ERROR_FOO is no result of the driver",
        ),
    ] {
        let Some(said) = alone(&[(name, value)], |cuda| cuda.refuses(802, "cuInit", &[0])) else { return };
        assert!(said.contains(&format!("softgpu: {line}\n")), "{said}");
    }
}

#[test]
fn hidden_gpus() {
    for hidden in ["", "-1"] {
        let said = alone(&[("CUDA_VISIBLE_DEVICES", hidden)], |cuda| cuda.refuses(100, "cuInit", &[0]));
        if said.is_none() {
            return;
        }
    }
}

#[test]
fn the_device() {
    let archs = [("75", (7, 6), 64), ("80", (8, 1), 163), ("90", (9, 1), 227), ("121", (12, 2), 99)];
    for (arch, ..) in archs {
        let ended = alone(&[("SOFTGPU_ARCH", arch), ("SOFTGPU_MEMORY", "12345")], |cuda| {
            let own = std::env::var("SOFTGPU_ARCH").unwrap();
            let (_, capability, shared) = archs.into_iter().find(|(arch, ..)| *arch == own).unwrap();
            cuda.ok("cuInit", &[0]);
            assert_eq!(cuda.get("cuDeviceGetCount", &[]), 1);
            assert_eq!(cuda.get("cuDeviceGet", &[0]), 0);
            let attribute = |number| cuda.get("cuDeviceGetAttribute", &[number, 0]);
            assert_eq!((attribute(75), attribute(76)), capability);
            assert_eq!(attribute(97), shared << 10);
            assert_eq!((attribute(1), attribute(10), attribute(8)), (1024, 32, 48 << 10));
            cuda.refuses(1, "cuDeviceGetAttribute", &[room(), 500, 0]);
            cuda.refuses(101, "cuDeviceGetAttribute", &[room(), 1, 1]);
            cuda.refuses(101, "cuDeviceGet", &[room(), 1]);
            assert_eq!(cuda.get("cuDeviceTotalMem_v2", &[0]), 12345);
            let mut name = [1u8; 20];
            cuda.ok("cuDeviceGetName", &[name.as_mut_ptr() as usize, 20, 0]);
            assert_eq!(&name, b"Software GPU (compu\0");
            let mut uuid = [0u8; 16];
            cuda.ok("cuDeviceGetUuid_v2", &[uuid.as_mut_ptr() as usize, 0]);
            assert_eq!(&uuid, b"softgpu device 0");
            assert_eq!(cuda.get("cuDriverGetVersion", &[]), 13050);
        });
        if ended.is_none() {
            return;
        }
    }
}

#[test]
fn names_and_texts_of_errors() {
    alone(&[], |cuda| {
        let text = |function: &str, code: usize| {
            let mut text: *const c_char = std::ptr::null();
            let outcome = cuda.call(function, &[code, &raw mut text as usize]);
            // SAFETY: the library's constants.
            let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap());
            (outcome, text)
        };
        assert_eq!(text("cuGetErrorName", 0), (0, Some("CUDA_SUCCESS")));
        assert_eq!(text("cuGetErrorName", 700), (0, Some("CUDA_ERROR_ILLEGAL_ADDRESS")));
        assert_eq!(text("cuGetErrorString", 2), (0, Some("out of memory")));
        assert_eq!(text("cuGetErrorString", 12345), (1, None));
    });
}

#[test]
fn entry_points_by_name() {
    alone(&[], |cuda| {
        let mut version = 0;
        let address = |cuda: &Cuda, name: &CStr| {
            let (mut address, mut status) = (0usize, 9u32);
            let arguments =
                [name.as_ptr() as usize, &raw mut address as usize, 13000, 0, &raw mut status as usize];
            (cuda.call("cuGetProcAddress_v2", &arguments), address, status)
        };
        let (outcome, found, status) = address(cuda, c"cuDriverGetVersion");
        assert_eq!((outcome, status), (0, 0));
        // SAFETY: the function of that name.
        let function: extern "C" fn(*mut i32) -> u32 = unsafe { std::mem::transmute(found) };
        assert_eq!((function(&mut version), version), (0, 13050));
        assert_ne!(address(cuda, c"cuMemAlloc").1, 0);
        assert_eq!(address(cuda, c"cuFoo"), (500, 0, 1));
    });
}

#[test]
fn contexts_are_current_per_thread() {
    let said = alone(&[], |cuda| {
        cuda.ok("cuInit", &[0]);
        cuda.refuses(1, "cuInit", &[1]);
        cuda.refuses(201, "cuCtxSynchronize", &[]);
        assert_eq!(cuda.get("cuCtxGetCurrent", &[]), 0);
        cuda.refuses(201, "cuDevicePrimaryCtxRelease_v2", &[0]);
        let context = cuda.start();
        assert_eq!(cuda.get("cuCtxGetCurrent", &[]), context);
        cuda.ok("cuCtxSynchronize", &[]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cuda.refuses(201, "cuCtxSynchronize", &[]);
                cuda.ok("cuCtxPushCurrent_v2", &[context]);
                cuda.ok("cuCtxSynchronize", &[]);
                assert_eq!(cuda.get("cuCtxPopCurrent_v2", &[]), context);
                cuda.refuses(201, "cuCtxPopCurrent_v2", &[0]);
            });
        });
        cuda.refuses(201, "cuCtxSetCurrent", &[0x1234]);
        // Retained twice, released twice; then it is gone, and comes back with the same handle.
        assert_eq!(cuda.get("cuDevicePrimaryCtxRetain", &[0]), context);
        cuda.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
        cuda.ok("cuCtxSynchronize", &[]);
        cuda.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
        cuda.refuses(709, "cuCtxSynchronize", &[]);
        cuda.refuses(709, "cuCtxSetCurrent", &[context]);
        assert_eq!(cuda.get("cuDevicePrimaryCtxRetain", &[0]), context);
        cuda.ok("cuCtxSynchronize", &[]);
    });
    let Some(said) = said else { return };
    let line =
        "softgpu: cuCtxSynchronize: CUDA_ERROR_INVALID_CONTEXT: no context is current in this thread\n";
    assert!(said.contains(line), "{said}");
}

#[test]
fn contexts_of_ones_own() {
    alone(&[], |cuda| {
        let primary = cuda.start();
        let of_primary = cuda.stream();
        let block = cuda.get("cuMemAlloc_v2", &[64]);
        let own = cuda.get("cuCtxCreate_v4", &[0, 0, 0]);
        assert_eq!(cuda.get("cuCtxGetCurrent", &[]), own);
        cuda.refuses(400, "cuStreamSynchronize", &[of_primary]);
        cuda.refuses(1, "cuCtxCreate_v4", &[room(), 0, 7, 0]);
        let lost = cuda.get("cuMemAlloc_v2", &[64]);
        let stream = cuda.stream();
        cuda.ok("cuCtxDestroy_v2", &[own]);
        assert_eq!(cuda.get("cuCtxGetCurrent", &[]), primary);
        cuda.refuses(709, "cuCtxSetCurrent", &[own]);
        cuda.refuses(201, "cuCtxDestroy_v2", &[primary]);
        // What it had went with it.
        cuda.refuses(1, "cuMemFree_v2", &[lost]);
        cuda.refuses(400, "cuStreamSynchronize", &[stream]);
        cuda.ok("cuMemFree_v2", &[block]);
    });
}

#[test]
fn settings_of_a_context() {
    alone(&[], |cuda| {
        cuda.start();
        assert_eq!(cuda.get("cuCtxGetLimit", &[0]), 1024);
        cuda.ok("cuCtxSetLimit", &[0, 4096]);
        assert_eq!(cuda.get("cuCtxGetLimit", &[0]), 4096);
        cuda.refuses(215, "cuCtxSetLimit", &[77, 1]);
        cuda.ok("cuCtxSetCacheConfig", &[2]);
        assert_eq!(cuda.get("cuCtxGetCacheConfig", &[]), 2);
        cuda.refuses(1, "cuCtxSetCacheConfig", &[9]);
        cuda.ok("cuCtxSetFlags", &[4]);
        assert_eq!(cuda.get("cuCtxGetFlags", &[]), 4);
        cuda.refuses(1, "cuCtxSetFlags", &[3]);
        assert_eq!(cuda.get("cuCtxGetDevice", &[]), 0);
        let (mut least, mut greatest) = (1i32, 1i32);
        cuda.ok("cuCtxGetStreamPriorityRange", &[&raw mut least as usize, &raw mut greatest as usize]);
        assert_eq!((least, greatest), (0, -5));
    });
}
