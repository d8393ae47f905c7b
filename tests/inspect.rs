//! `saddle inspect` from outside. NVRTC needs no GPU; without it these tests are reported as not run, and
//! `SADDLE_REQUIRE_NVRTC=1` turns that into a failure.

use std::path::Path;
use std::process::{Command, Output};

use saddle::device::testing::nvrtc_is_present;
use saddle::device::{Buffer, Coverage, Device};
use saddle::ops::cross_entropy::cross_entropy;
use saddle::ops::reduce::Reduction;
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use serde_json::Value;

fn saddle(folder: &Path, line: &str) -> Output {
    let saddle = env!("CARGO_BIN_EXE_saddle");
    Command::new(saddle).args(line.split_whitespace()).current_dir(folder).output().unwrap()
}

fn printed(folder: &Path, line: &str) -> String {
    let output = saddle(folder, line);
    assert!(output.status.success(), "saddle {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(line: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    serde_json::from_str(&printed(folder.path(), &format!("{line} --json"))).unwrap()
}

/// The one line that a failing command writes, after `error: `.
fn error(line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = saddle(folder.path(), line);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{line}: {text}");
    text.trim_end().strip_prefix("error: ").unwrap().to_owned()
}

#[test]
fn an_elementwise_kernel_costs_what_its_arrays_say() {
    if !nvrtc_is_present() {
        return;
    }
    // 8,388,608 floats: two arrays read and one written.
    let bytes = 128 * 32 * 32 * 64 * 4;
    let report = json("inspect add_forward --shape 128x32x32x64");
    let [kernel] = &report["kernels"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&kernel["kernel"], &kernel["times"]), (&"add_forward".into(), &1.into()));
    assert_eq!((&kernel["blocks"], &kernel["counted"]), (&4096.into(), &32.into()));
    let number = |name: &str| kernel[name].as_u64().unwrap();
    assert_eq!((number("distinct_read"), number("distinct_written")), (2 * bytes, bytes));
    let total = |name: &str| kernel["total"][name].as_u64().unwrap();
    assert_eq!((total("global_loaded"), total("global_stored")), (2 * bytes, bytes));
    assert_eq!(
        (total("flops_float"), total("flops_fma"), total("sectors_least")),
        (bytes / 4, 0, 3 * bytes / 32)
    );
    assert!((8..=64).contains(&number("registers")), "{kernel}");
    // On an H200 at 4.8 TB/s.
    let cold = kernel["bounds"]["cold"].as_f64().unwrap();
    assert!((cold / (3.0 * bytes as f64 / 4.8e12) - 1.0).abs() < 1e-9, "{cold}");
    assert_eq!(kernel["bounds"]["limits"][0]["resource"], "dram");
    assert_eq!(report["cold"].as_f64(), Some(cold));
    // All blocks say the same.
    let all = json("inspect add_forward --shape 128x32x32x64 --blocks all");
    assert_eq!(all["kernels"][0]["counted"], 4096);
    assert_eq!(all["kernels"][0]["total"], kernel["total"]);
    assert_eq!(all["blocks"], Value::Null);
    let lines = report["lines"].as_array().unwrap();
    let hot = lines.iter().find(|file| file["file"] == "add.cu").unwrap();
    assert!(hot["lines"].as_array().unwrap().iter().any(|line| line["tally"]["flops_float"].as_u64() > Some(0)
        || line["inlined"].as_u64() > Some(0)));
    assert_eq!(report["provenance"]["command"], "saddle inspect add_forward --shape 128x32x32x64 --json");
}

#[test]
fn a_convolution_needs_as_many_operations_as_it_has() {
    if !nvrtc_is_present() {
        return;
    }
    // Without borders: 1x1, so that each output is 64 products.
    let report = json("inspect conv2d-forward --shape 16x8x8x64,out=32,kernel=1 --gpu t4 --blocks all");
    let kernel = &report["kernels"][0];
    assert_eq!((&kernel["kernel"], &report["arch"]), (&"conv2d_forward".into(), &"sm_75".into()));
    assert_eq!(kernel["total"]["flops_fma"], 2 * 16 * 8 * 8 * 64 * 32);
    assert_eq!(report["gpu"]["name"], "t4");
}

#[test]
fn a_step_is_printed_by_bound_and_written_as_a_page() {
    if !nvrtc_is_present() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line = "inspect step --model resnet-mini --batch 16 --gpu a100-80gb --blocks 4 --html page.html";
    let text = printed(folder.path(), line);
    for part in [
        "step (pgd-at, resnet-mini, batch 16)\n",
        "On an NVIDIA A100 SXM 80 GB this cannot take less than ",
        "These are bounds, no predictions",
        "at most 4 of its blocks",
        "\nconv2d_forward ",
        "\nsgd_step ",
        "\nbatch_norm_apply ",
        "\nlib/vec.cuh ",
        "\nwritten to page.html\n",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    for part in
        ["<h1>step (pgd-at, resnet-mini, batch 16)</h1>", "kernels/conv2d.cu", "conv2d_step_linf", "</html>"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("{{") && !page.contains("http"), "the page is complete and needs no other");
    // A kernel that only the step of one method launches is found by itself.
    let text = printed(folder.path(), "inspect mart_kl_forward --model resnet-mini --batch 8 --lines none");
    assert!(text.starts_with("mart_kl_forward in step (mart, resnet-mini, batch 8)\n"), "{text}");
}

#[test]
fn what_cannot_be_inspected_is_said_in_a_line() {
    if !nvrtc_is_present() {
        return;
    }
    for (line, message) in [
        (
            "inspect conv2d_forwrad",
            "unknown operation or kernel 'conv2d_forwrad' (did you mean 'conv2d_forward'?); ",
        ),
        (
            "inspect add --gpu h300",
            "unknown GPU 'h300' (did you mean 'h200'?); known: h200, h100, a100-80gb, ",
        ),
        ("inspect add --shape 1x2", "--shape = 1x2: 2 sizes instead of 4; expected NxHxWxC, sizes from 1 on"),
        ("inspect step --shape 1x2x3x4", "inspect = step: takes no --shape"),
        (
            "inspect add --shape 100000x1000x1000x1000",
            "shape = [100000, 1000, 1000, 1000]: kernels index at most 2147483647 numbers",
        ),
        (
            "inspect step --batch 18446744073709551615",
            "shape = [18446744073709551615, 32, 32, 3]: kernels index at most 2147483647 numbers",
        ),
        ("inspect conv2d --batch 4", "inspect = conv2d: takes no --batch"),
        ("inspect step --batch 0", "batch = 0: must be 1 or more"),
        ("inspect step --method pgd", "unknown method 'pgd'"),
        ("inspect step --model resnet", "unknown model 'resnet'"),
        ("inspect add --blocks 0", "--blocks = 0: must be a number from 1 on, or 'all'"),
        ("inspect add --in relu", "inspect = add: is an operation; --in is for kernels"),
        ("inspect add_forward --in realu", "unknown operation 'realu' (did you mean 'relu'?)"),
        (
            "inspect add_forward --in relu",
            "inspect = add_forward: relu (512x32x32x64) does not launch add_forward; ",
        ),
        (
            "inspect sgd_step --shape 1x1x1x1",
            "inspect = sgd_step: no operation with these settings is known to ",
        ),
        ("inspect add --shape 1x1x1x4 --html missing/page.html", "missing/page.html: cannot write: "),
    ] {
        let found = error(line);
        assert!(found.starts_with(message), "saddle {line}: {found}");
    }
}

#[test]
fn with_all_blocks_the_machine_computes_what_the_host_computes() {
    if !nvrtc_is_present() {
        return;
    }
    let machine = Device::software("compute_90", Coverage::All, None).unwrap();
    let numbers = |device: &Device| {
        let x: Vec<f32> = (0..120).map(|i| (i as f32 * 0.37).sin()).collect();
        let y = Buffer::from_slice(device, &(0..12).map(|i| i % 10).collect::<Vec<i32>>()).unwrap();
        let tape = Tape::new(device);
        let z = tape.leaf(Tensor::from_slice(device, &[12, 10], &x).unwrap());
        let loss = cross_entropy(&tape, z, &y, Reduction::Mean).unwrap();
        let mut numbers = tape.backward(loss, None).unwrap().get(z).unwrap().to_vec().unwrap();
        numbers.push(tape.value(loss).item().unwrap());
        numbers
    };
    let (found, expected) = (numbers(&machine), numbers(&Device::host().unwrap()));
    assert!(expected[120] > 1.0 && found.len() == 121, "{expected:?}");
    for (x, y) in found.iter().zip(&expected) {
        assert!((x - y).abs() <= 1e-6, "{x}, expected {y}");
    }
    let costs = machine.take_costs();
    let forward = costs.iter().find(|cost| cost.kernel.name == "cross_entropy_forward").unwrap();
    assert_eq!((forward.times, forward.counts.as_ref().map(|counts| counts.blocks)), (1, Some(2)));
    assert!(machine.take_costs().is_empty());

    let mut from = Buffer::from_slice(&machine, &[1.0f32, 2.0, 3.0]).unwrap();
    let mut to = Buffer::<f32>::zeros(&machine, 3).unwrap();
    let graph = machine.capture(|| to.copy_from(&from)).unwrap();
    assert_eq!(to.to_vec().unwrap(), [0.0; 3]);
    from.write(&[4.0, 5.0, 6.0]).unwrap();
    graph.replay().unwrap();
    assert_eq!(to.to_vec().unwrap(), [4.0, 5.0, 6.0]);

    // Where nothing is computed, no index is wild.
    let sampled = Device::software("compute_90", Coverage::Sample(1), None).unwrap();
    drop(Buffer::from_slice(&sampled, &[i32::MAX; 1000]).unwrap());
    assert_eq!(Buffer::<i32>::uninit(&sampled, 1000).unwrap().to_vec().unwrap(), [0; 1000]);
}
