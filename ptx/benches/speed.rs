//! Thread-instructions a second, with all checks, with counts only, and with neither: `cargo bench -p ptx`.
//!
//! `cargo bench -p ptx -- NAME` runs only the cases whose name contains NAME. The project's kernels need
//! NVRTC.

#[path = "../tests/common/mod.rs"]
mod common;
use common::*;
use ptx::{Checks, Module, Options};

struct Case {
    name: &'static str,
    module: Module,
    kernel: &'static str,
    grid: u32,
    block: u32,
    arguments: fn(&mut Device) -> Vec<Argument>,
}

/// 64 chains of FMA in a loop: the inner part of a matrix product without its memory.
fn fma() -> Module {
    let chain: String = (0..64).map(|i| format!("fma.rn.f32 %f{i}, %f{i}, %f64, %f65;\n")).collect();
    let zero: String = (0..64).map(|i| format!("mov.f32 %f{i}, 0f3F800000;\n")).collect();
    let sum: String = (1..64).map(|i| format!("add.f32 %f0, %f0, %f{i};\n")).collect();
    parse(&format!(
        ".reg .f32 %f<66>;\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n.reg .pred %p<2>;\nld.param.u64 %rd1, [out];\n\
         mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r1, %r2, 256, %r1;\n\
         mad.wide.u32 %rd1, %r1, 4, %rd1;\nmov.f32 %f64, 0f3F7FFFFF;\nmov.f32 %f65, 0f33800000;\nmov.u32 %r0, 0;\n\
         {zero}LOOP:\n{chain}add.u32 %r0, %r0, 1;\nsetp.lt.u32 %p1, %r0, 200;\n@%p1 bra LOOP;\n{sum}\
         st.global.f32 [%rd1], %f0;\nret;"
    ))
}

/// 16 chains of m16n8k16 in a loop.
fn mma() -> Module {
    let chain: String = (0..16)
        .map(|i| {
            let c = format!("{{%f{}, %f{}, %f{}, %f{}}}", 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3);
            format!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {c}, {{%r1, %r1, %r1, %r1}}, {{%r1, %r1}}, {c};\n")
        })
        .collect();
    let zero: String = (0..64).map(|i| format!("mov.b32 %f{i}, 0;\n")).collect();
    parse(&format!(
        ".reg .f32 %f<66>;\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n.reg .pred %p<2>;\nld.param.u64 %rd1, [out];\n\
         mov.u32 %r1, 0;\nmov.u32 %r0, 0;\n{zero}LOOP:\n{chain}add.u32 %r0, %r0, 1;\n\
         setp.lt.u32 %p1, %r0, 200;\n@%p1 bra LOOP;\nret;"
    ))
}

fn parse(body: &str) -> Module {
    let head = ".version 8.3\n.target sm_90\n.address_size 64\n.visible .entry t(.param .u64 out)\n{\n";
    Module::parse(&format!("{head}{body}\n}}\n")).expect("a kernel of this file")
}

const ROWS: usize = 4096;
const N: usize = 1 << 20;
const CHANNELS: usize = 64;

/// The cases whose name contains one of `parts`, or all.
fn cases(parts: &[String]) -> Vec<Case> {
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
    let own = |name, module| Case {
        name,
        module,
        kernel: "t",
        grid: 64,
        block: 256,
        arguments: |device| vec![Pointer(device.empty(64 * 256))],
    };
    let mut cases = vec![own("64 chains of fma", fma()), own("16 chains of mma", mma())];
    cases.retain(|case| wanted(case.name));
    let Some(compiler) = nvrtc("the project's kernels") else { return cases };
    let mut case = |name, file: &str, kernel, grid: usize, block, arguments| {
        if !wanted(name) {
            return;
        }
        let text = compile(&compiler, &sources().join(file), "compute_90");
        let module = Module::parse(&text).expect("a kernel of the project");
        cases.push(Case { name, module, kernel, grid: grid as u32, block, arguments });
    };
    case("add", "add.cu", "add_forward", N / 2048, 256, |device| {
        let (a, b) = (device.floats(&random(1, N)), device.floats(&random(2, N)));
        vec![Pointer(a), Pointer(b), Pointer(device.empty(N)), Int(N as i32)]
    });
    case("relu with its mask", "relu.cu", "relu_forward", N / 2048, 256, |device| {
        let x = device.floats(&random(1, N));
        vec![Pointer(x), Pointer(device.empty(N)), Pointer(device.empty(N / 32)), Int(N as i32)]
    });
    case("SGD with momentum", "sgd.cu", "sgd_step", N / 2048, 256, |device| {
        let mut buffer = |seed| device.floats(&random(seed, N));
        let row = [0, N as u64, buffer(1), buffer(2), buffer(3), 0];
        let table = device.longs(&row);
        let lr = device.floats(&[0.1]);
        vec![Pointer(table), Pointer(lr), Float(0.9), Float(5e-4), Bool(true), Int(1)]
    });
    case("L2 attack step", "attack_step.cu", "attack_step_l2", 64, 256, |device| {
        let mut buffer = |seed| Pointer(device.floats(&random(seed, 64 * 3072)));
        vec![buffer(1), buffer(2), buffer(3), Float(0.1), Float(0.5), Int(3072)]
    });
    case("mean", "reduce.cu", "reduce_forward", 1, 256, |device| {
        let x = device.floats(&random(1, N));
        vec![Pointer(x), Pointer(device.empty(1)), Float(1.0 / N as f32), Int(N as i32)]
    });
    case(
        "cross entropy of 100 classes",
        "cross_entropy.cu",
        "cross_entropy_forward",
        ROWS / 8,
        256,
        |device| {
            let z = device.floats(&random(1, ROWS * 100));
            let y = device.ints(&vec![3; ROWS]);
            vec![Pointer(z), Pointer(y), Pointer(device.empty(ROWS)), Int(ROWS as i32), Int(100)]
        },
    );
    case("batch norm: statistics", "batch_norm.cu", "batch_norm_statistics", ROWS * 4 / 512, 256, |device| {
        let x = device.floats(&random(1, 4 * ROWS * CHANNELS));
        let partial = device.empty(4 * ROWS / 512 * 2 * CHANNELS);
        let mut all = vec![Pointer(x), Pointer(partial), Pointer(0)];
        all.extend([1, 4 * ROWS, CHANNELS, CHANNELS / 8, 512].map(|n| Int(n as i32)));
        all
    });
    case("batch norm: apply", "batch_norm.cu", "batch_norm_apply", ROWS * CHANNELS / 2048, 256, |device| {
        let x = device.floats(&random(1, ROWS * CHANNELS));
        let stats = device.floats(&random(2, 4 * CHANNELS));
        let y = device.empty(ROWS * CHANNELS);
        let mut all = vec![Pointer(x), Pointer(stats), Pointer(y), Pointer(0), Pointer(0)];
        all.extend([1, ROWS, CHANNELS].map(|n| Int(n as i32)));
        all.push(Bool(true));
        all
    });
    case("conv2d of 64 channels", "conv2d.cu", "conv2d_forward", 8, 128, |device| {
        let (x, panels) = (device.floats(&random(1, 4 * 256 * 64)), device.floats(&random(2, 9 * 64 * 64)));
        let y = device.empty(4 * 256 * 64);
        let mut all = vec![Pointer(x), Pointer(panels), Pointer(0), Pointer(0), Pointer(y)];
        all.extend([Pointer(0), Pointer(0), Bool(false)]);
        all.extend([4, 16, 16, 64, 16, 16, 64, 3, 3, 1, 1].map(Int));
        all
    });
    cases
}

/// The time that this thread has run: other programs on the machine do not add to it.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!(
        "{:34} {:>12} {:>12} {:>12}",
        "million thread-instructions/s", "all checks", "counts", "neither"
    );
    for case in cases(&parts) {
        let rates =
            [(Checks::ALL, false), (Checks::NONE, true), (Checks::NONE, false)].map(|(checks, count)| {
                let mut device = Device::new(Options { checks, count, ..Options::default() });
                let arguments = (case.arguments)(&mut device);
                let launch = |device: &mut Device| {
                    device.run(&case.module, case.kernel, [case.grid, 1, 1], case.block, &arguments)
                };
                let mut once = || {
                    let start = thread_seconds();
                    launch(&mut device);
                    thread_seconds() - start
                };
                // The best of several: the machine may be shared.
                let best = (0..9).map(|_| once()).fold(f64::INFINITY, f64::min);
                device.options = Options { checks: Checks::NONE, count: true, ..device.options };
                launch(&mut device).total.thread_instructions as f64 / best / 1e6
            });
        println!("{:34} {:12.0} {:12.0} {:12.0}", case.name, rates[0], rates[1], rates[2]);
    }
}
