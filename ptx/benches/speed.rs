//! Thread-instructions a second, with all checks, with counts only, and with neither: `cargo bench -p ptx`.
//!
//! `cargo bench -p ptx -- FILE.ptx` adds conv2d_forward of a compiled `kernels/conv2d.cu`.

#[path = "../tests/common/mod.rs"]
mod common;
use common::*;
use ptx::{Checks, Module, Options};
use std::time::Instant;

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

fn cases() -> Vec<Case> {
    let own = |name, module| Case {
        name,
        module,
        kernel: "t",
        grid: 64,
        block: 256,
        arguments: |device| vec![Pointer(device.empty(64 * 256))],
    };
    let mut cases = vec![own("64 chains of fma", fma()), own("16 chains of mma", mma())];
    let fixture = |text: &str| Module::parse(text).expect("a kernel of the project");
    cases.push(Case {
        name: "add",
        module: fixture(include_str!("../tests/ptx/add.ptx")),
        kernel: "add_forward",
        grid: (N / 2048) as u32,
        block: 256,
        arguments: |device| {
            let (a, b) = (device.floats(&random(1, N)), device.floats(&random(2, N)));
            vec![Pointer(a), Pointer(b), Pointer(device.empty(N)), Int(N as i32)]
        },
    });
    cases.push(Case {
        name: "cross entropy of 100 classes",
        module: fixture(include_str!("../tests/ptx/cross_entropy.ptx")),
        kernel: "cross_entropy_forward",
        grid: (ROWS / 8) as u32,
        block: 256,
        arguments: |device| {
            let z = device.floats(&random(1, ROWS * 100));
            let y = device.ints(&vec![3; ROWS]);
            vec![Pointer(z), Pointer(y), Pointer(device.empty(ROWS)), Int(ROWS as i32), Int(100)]
        },
    });
    cases.push(Case {
        name: "L2 attack step",
        module: fixture(include_str!("../tests/ptx/attack_step.ptx")),
        kernel: "attack_step_l2",
        grid: 64,
        block: 256,
        arguments: |device| {
            let mut buffer = |seed| Pointer(device.floats(&random(seed, 64 * 3072)));
            vec![buffer(1), buffer(2), buffer(3), Float(0.1), Float(0.5), Int(3072)]
        },
    });
    if let Some(path) = std::env::args().skip(1).find(|argument| argument.ends_with(".ptx")) {
        cases.push(Case {
            name: "conv2d 16x16, 64 to 64 channels",
            module: fixture(&std::fs::read_to_string(path).expect("a readable file")),
            kernel: "conv2d_forward",
            grid: 8,
            block: 128,
            arguments: |device| {
                let (x, panels) =
                    (device.floats(&random(1, 4 * 256 * 64)), device.floats(&random(2, 9 * 64 * 64)));
                let y = device.empty(4 * 256 * 64);
                let mut all = vec![Pointer(x), Pointer(panels), Pointer(0), Pointer(0), Pointer(y)];
                all.extend([Pointer(0), Pointer(0), Bool(false)]);
                all.extend([4, 16, 16, 64, 16, 16, 64, 3, 3, 1, 1].map(Int));
                all
            },
        });
    }
    cases
}

fn main() {
    println!(
        "{:34} {:>12} {:>12} {:>12}",
        "million thread-instructions/s", "all checks", "counts", "neither"
    );
    for case in cases() {
        let mut rates = Vec::new();
        for (checks, count) in [(Checks::ALL, false), (Checks::NONE, true), (Checks::NONE, false)] {
            let mut device = Device::new(Options { checks, count, ..Options::default() });
            let arguments = (case.arguments)(&mut device);
            let mut once = || {
                let start = Instant::now();
                device.run(&case.module, case.kernel, [case.grid, 1, 1], case.block, &arguments);
                start.elapsed().as_secs_f64()
            };
            // The best of several: the machine may be shared.
            let best = (0..7).map(|_| once()).fold(f64::INFINITY, f64::min);
            let options = Options { checks: Checks::NONE, count: true, ..device.options };
            device.options = options;
            let counts = device.run(&case.module, case.kernel, [case.grid, 1, 1], case.block, &arguments);
            rates.push(counts.total.thread_instructions as f64 / best / 1e6);
        }
        println!("{:34} {:12.0} {:12.0} {:12.0}", case.name, rates[0], rates[1], rates[2]);
    }
}
