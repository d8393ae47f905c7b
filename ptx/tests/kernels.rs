//! Kernels of the project, as NVRTC compiles them, against formulas in float64.

mod common;
use common::*;
use ptx::{Module, Options, Order};
use std::path::Path;

fn orders() -> [Options; 3] {
    let with = |order, threads| Options { order, threads, ..Options::default() };
    [with(Order::Forward, 1), with(Order::Reverse, 2), with(Order::Shuffled(3), 2)]
}

fn close(found: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (at, (&x, &y)) in found.iter().zip(expected).enumerate() {
        // Written so that NaN fails.
        assert!((x as f64 - y).abs() <= bound * scale, "{at}: {x}, expected {y}");
    }
}

#[test]
fn add_adds() {
    let module = Module::parse(include_str!("ptx/add.ptx")).unwrap();
    assert_eq!(module.target(), "sm_90");
    for n in [1, 31, 32, 255, 2048, 2049, 5000] {
        for options in orders() {
            let mut device = Device::new(options);
            let (a, b) = (random(1, n), random(2, n));
            let out = device.empty(n);
            let arguments =
                [Pointer(device.floats(&a)), Pointer(device.floats(&b)), Pointer(out), Int(n as i32)];
            device.run(&module, "add_forward", [n.div_ceil(2048) as u32, 1, 1], 256, &arguments);
            let expected: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
            assert_eq!(device.read(out, n), expected);
        }
    }
}

#[test]
fn cross_entropy_is_the_log_of_the_softmax() {
    let module = Module::parse(include_str!("ptx/cross_entropy.ptx")).unwrap();
    for (n, k) in [(1, 1), (3, 10), (9, 33), (5, 100), (17, 260)] {
        for options in orders() {
            let mut device = Device::new(options);
            let logits: Vec<f32> = random(n as u32, n * k).iter().map(|x| 8.0 * x).collect();
            let labels: Vec<i32> = (0..n).map(|i| (7 * i % k) as i32).collect();
            let rows: Vec<&[f32]> = logits.chunks(k).collect();
            let log_sum = |row: &[f32]| row.iter().map(|&z| (z as f64).exp()).sum::<f64>().ln();
            let (z, y, loss) = (device.floats(&logits), device.ints(&labels), device.empty(n));
            let grid = [n.div_ceil(8) as u32, 1, 1];
            let arguments = [Pointer(z), Pointer(y), Pointer(loss), Int(n as i32), Int(k as i32)];
            device.run(&module, "cross_entropy_forward", grid, 256, &arguments);
            let expected: Vec<f64> =
                rows.iter().zip(&labels).map(|(row, &y)| log_sum(row) - row[y as usize] as f64).collect();
            close(&device.read(loss, n), &expected, 1e-6);
            let (upstream, grad) = (device.floats(&random(5, n)), device.empty(n * k));
            let arguments = [
                Pointer(upstream),
                Pointer(z),
                Pointer(y),
                Pointer(grad),
                Int(1),
                Float(0.5),
                Int(n as i32),
                Int(k as i32),
                Bool(false),
            ];
            device.run(&module, "cross_entropy_backward", grid, 256, &arguments);
            let upstream = random(5, n);
            let mut expected = Vec::new();
            for (i, row) in rows.iter().enumerate() {
                let log_sum = log_sum(row);
                for (j, &z) in row.iter().enumerate() {
                    let hot = (labels[i] as usize == j) as u8 as f64;
                    expected.push(0.5 * upstream[i] as f64 * ((z as f64 - log_sum).exp() - hot));
                }
            }
            close(&device.read(grad, n * k), &expected, 1e-6);
        }
    }
}

#[test]
fn attack_steps_stay_in_their_ball() {
    let module = Module::parse(include_str!("ptx/attack_step.ptx")).unwrap();
    let (alpha, eps) = (0.1f32, 0.25f32);
    for (n, size) in [(1, 5), (3, 100), (2, 2100)] {
        for options in orders() {
            let mut device = Device::new(options);
            let x: Vec<f32> = random(1, n * size).iter().map(|x| 0.5 + 0.5 * x).collect();
            let adv: Vec<f32> = random(2, n * size).iter().map(|x| 0.5 + 0.5 * x).collect();
            let grad = random(3, n * size);
            let clip = |x: f64| x.clamp(0.0, 1.0);
            let (g, centre) = (device.floats(&grad), device.floats(&x));
            let at = device.floats(&adv);
            let arguments =
                [Pointer(at), Pointer(g), Pointer(centre), Float(alpha), Float(eps), Int((n * size) as i32)];
            device.run(
                &module,
                "attack_step_linf",
                [(n * size).div_ceil(2048) as u32, 1, 1],
                256,
                &arguments,
            );
            let linf = |i: usize| {
                let (x, eps) = (x[i] as f64, eps as f64);
                let sign = if grad[i] == 0.0 { 0.0 } else { grad[i].signum() as f64 };
                clip((adv[i] as f64 + alpha as f64 * sign).clamp(x - eps, x + eps))
            };
            close(&device.read(at, n * size), &(0..n * size).map(linf).collect::<Vec<f64>>(), 1e-6);

            let at = device.floats(&adv);
            let arguments =
                [Pointer(at), Pointer(g), Pointer(centre), Float(alpha), Float(eps), Int(size as i32)];
            device.run(&module, "attack_step_l2", [n as u32, 1, 1], 256, &arguments);
            let mut expected = Vec::new();
            for sample in 0..n {
                let range = sample * size..(sample + 1) * size;
                let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
                let own: Vec<f64> = range.clone().map(|i| grad[i] as f64).collect();
                let step = alpha as f64 / (norm(&own) + 1e-8);
                let moved: Vec<f64> =
                    range.clone().map(|i| adv[i] as f64 - x[i] as f64 + step * grad[i] as f64).collect();
                let shrink = (eps as f64 / norm(&moved)).min(1.0);
                expected.extend(range.zip(&moved).map(|(i, d)| clip(x[i] as f64 + shrink * d)));
            }
            close(&device.read(at, n * size), &expected, 2e-6);
        }
    }
}

/// All sources of a folder.
fn each_source(of: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "cu")).collect();
    found.sort();
    found
}

#[test]
fn every_kernel_of_the_project_parses_and_writes_what_it_reads() {
    let Some(nvrtc) = nvrtc("every_kernel_of_the_project_parses_and_writes_what_it_reads") else { return };
    let (mut kernels, mut instructions) = (0, 0);
    for arch in ["compute_75", "compute_80", "compute_90", "compute_121"] {
        for source in each_source(&sources()).iter().chain(&each_source(&sources().join("conformance"))) {
            let leaves_open = std::fs::read_to_string(source).unwrap().contains("T*");
            let elements: &[&str] = if leaves_open { &["float", "bf16"] } else { &["float"] };
            for element in elements {
                let text = compile_for(&nvrtc, source, arch, element);
                let of = format!("{} of {element} for {arch}", source.display());
                let module = Module::parse(&text).unwrap_or_else(|error| panic!("{of}: {error}"));
                for kernel in module.kernels() {
                    assert_eq!(kernel.unwritten_register(), None, "{of}: {}", kernel.name);
                }
                kernels += module.kernels().count();
                instructions += module.kernels().map(|kernel| kernel.instructions()).sum::<usize>();
            }
        }
    }
    println!("{kernels} kernels, {instructions} instructions");
    assert!(kernels > 400);
}

#[test]
fn conv2d_convolves() {
    let Some(nvrtc) = nvrtc("conv2d_convolves") else { return };
    for arch in ["compute_75", "compute_90", "compute_121"] {
        let module = Module::parse(&compile(&nvrtc, &sources().join("conv2d.cu"), arch)).unwrap();
        for (at, options) in orders().into_iter().enumerate() {
            // images, height, width, channels in and out, kernel, stride, pad
            for shape in [[2, 7, 5, 3, 10, 3, 1, 1], [1, 9, 9, 16, 40, 3, 2, 1], [3, 4, 4, 5, 70, 1, 1, 0]] {
                convolve(&module, &mut Device::new(options), shape, at);
            }
        }
    }
}

fn convolve(
    module: &Module,
    device: &mut Device,
    [n, h, w, ci, co, k, stride, pad]: [usize; 8],
    seed: usize,
) {
    let (oh, ow) = ((h + 2 * pad - k) / stride + 1, (w + 2 * pad - k) / stride + 1);
    let width = if co > 32 {
        64
    } else if co > 16 {
        32
    } else {
        16
    };
    let (panels, rows) = (co.div_ceil(width), (k * k * ci).next_multiple_of(4));
    let (x, weight) = (random(seed as u32, n * h * w * ci), random(9, co * k * k * ci));
    let (dx, dw) = (device.floats(&x), device.floats(&weight));
    let (panel, y) = (device.empty(panels * rows * width), device.empty(n * oh * ow * co));
    let int = |x: usize| Int(x as i32);
    let mut arguments = vec![Pointer(dw), Pointer(0), Pointer(panel), int(co), int(k * k), int(ci)];
    arguments.extend([Bool(false); 3]);
    device.run(module, "conv2d_prepare", [rows.div_ceil(16) as u32, panels as u32, 1], 256, &arguments);
    let mut arguments =
        vec![Pointer(dx), Pointer(panel), Pointer(0), Pointer(0), Pointer(y), Pointer(0), Pointer(0)];
    arguments.push(Bool(false));
    arguments.extend([n, h, w, ci, oh, ow, co, k, k, stride, pad].map(int));
    // Enough blocks for any way to cut the pixels into chunks; those past the end have nothing to do.
    let blocks = (0..=oh * ow)
        .map(|chunk| if chunk == 0 { 0 } else { (n * chunk).div_ceil(128) * (oh * ow).div_ceil(chunk) });
    let blocks = blocks.max().unwrap() as u32;
    let counts = device.run(module, "conv2d_forward", [blocks, panels as u32, 1], 128, &arguments);
    assert!(counts.total.flops_fma as usize >= 2 * n * oh * ow * co * k * k * ci / 2);
    let mut expected = Vec::new();
    for at in 0..n * oh * ow * co {
        let (c, ox, oy, i) = (at % co, at / co % ow, at / co / ow % oh, at / co / ow / oh);
        let mut sum = 0.0;
        for (ky, kx) in (0..k * k).map(|tap| (tap / k, tap % k)) {
            let (iy, ix) = ((oy * stride + ky).wrapping_sub(pad), (ox * stride + kx).wrapping_sub(pad));
            if iy < h && ix < w {
                for z in 0..ci {
                    let from = x[((i * h + iy) * w + ix) * ci + z] as f64;
                    sum += from * weight[(c * k * k + ky * k + kx) * ci + z] as f64;
                }
            }
        }
        expected.push(sum);
    }
    close(&device.read(y, n * oh * ow * co), &expected, 2e-6);
}

/// The kernels of `conformance/execution.cu` that are wrong; a comment in capitals marks the line to name.
#[test]
fn wrong_kernels_are_reported_with_their_line() {
    let Some(nvrtc) = nvrtc("wrong_kernels_are_reported_with_their_line") else { return };
    let source = sources().join("conformance/execution.cu");
    let text = std::fs::read_to_string(&source).unwrap();
    let marks = |mark: &str| -> Vec<u32> {
        let numbered = text.lines().zip(1u32..);
        numbered.filter(|(line, _)| line.contains(&format!("// {mark}"))).map(|(_, at)| at).collect()
    };
    for arch in ["compute_75", "compute_90", "compute_121"] {
        let module = Module::parse(&compile(&nvrtc, &source, arch)).unwrap();
        let fails = |kernel: &str,
                     block: u32,
                     dynamic: usize,
                     mark: &str,
                     last: &dyn Fn(u64, u64) -> Vec<Argument>| {
            let mut device = Device::new(Options::default());
            let (x, out) = (device.ints(&[1; 64]), device.ints(&[0; 64]));
            let fault = device.try_run(&module, kernel, ([1; 3], block, dynamic), &last(x, out)).unwrap_err();
            let (file, line) = fault.source.clone().unwrap();
            assert!(
                mark.is_empty() || (file.ends_with("execution.cu") && marks(mark).contains(&line)),
                "{fault}"
            );
            println!("{arch}: {fault}");
        };
        let both = |x: u64, out: u64| vec![Pointer(x), Pointer(out)];
        let only = |_: u64, out: u64| vec![Pointer(out)];
        fails("conf_bad_early_exit", 64, 0, "EARLY EXIT", &|x, out| vec![Pointer(x), Pointer(out), Int(40)]);
        fails("conf_bad_branch", 32, 0, "BRANCH", &only);
        fails("conf_bad_rounds", 16, 0, "ROUNDS", &only);
        fails("conf_bad_own_mask", 32, 0, "OWN MASK", &both);
        fails("conf_bad_absent_lane", 64, 0, "ABSENT LANE", &both);
        fails("conf_bad_short_warp", 8, 0, "SHORT WARP", &both);
        fails("conf_bad_source", 32, 0, "SOURCE", &both);
        fails("conf_bad_mixed", 32, 0, "", &both);
        fails("conf_bad_missing_barrier", 64, 0, "", &both);
        fails("conf_bad_write", 32, 0, "", &|_, out| vec![Pointer(out), Int(40)]);
        fails("conf_bad_write", 32, 0, "", &|_, out| vec![Pointer(out), Int(-1)]);
        fails("conf_bad_read", 32, 0, "", &|x, out| vec![Pointer(x), Pointer(out), Int(33)]);
        fails("conf_bad_shared_write", 32, 0, "", &|_, out| vec![Pointer(out), Int(33)]);
        fails("conf_bad_dynamic_write", 32, 128, "", &|_, out| vec![Pointer(out), Int(33)]);
    }
}
