//! What the convolution on tensor cores costs, counted as PTX. NVRTC needs no GPU; without it these tests are
//! reported as not run, and `SADDLE_REQUIRE_NVRTC=1` turns that into a failure.

use half::bf16;
use saddle::device::testing::nvrtc_is_present;
use saddle::device::{Buffer, Coverage, Device, Real};
use saddle::nn::{Arch, BnMode, Net, Shape};
use saddle::ops::batch_norm::{Norm, batch_norm};
use saddle::ops::conv2d::{Conv, Epilogue, Filter, Precision, conv2d_measured, conv2d_prepared};
use saddle::ops::conv2d_mma::{Packed, Passes, Tile, forward, input_grad, weight_grad};
use saddle::ops::valid::Rows;
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use std::rc::Rc;

/// The counts of a kernel for one layer.
struct Cost {
    name: String,
    counts: ptx::Counts,
}

/// Every kernel, for a layer with 128 channels and a batch that fills whole tiles.
fn costs<T: Real>() -> Vec<Cost> {
    let device = Device::software("compute_90", Coverage::Sample(8), None).unwrap();
    let conv = Conv::new(&[128, 4, 4, 128], &[128, 3, 3, 128], 1, 1).unwrap();
    let weight = Tensor::zeros(&device, &[128, 3, 3, 128]).unwrap();
    let len = conv.in_shape().iter().product();
    let map = || Buffer::<T>::zeros(&device, len).unwrap();
    let (x, mut y, mut dw) = (map(), map(), Buffer::<f32>::zeros(&device, weight.len()).unwrap());
    let packed = Packed::new(&weight, None, Passes::Both).unwrap();
    for tile in Tile::ALL.map(Some) {
        forward(&conv, &x, &packed, Epilogue::default(), None, &mut y, tile).unwrap();
        input_grad(&conv, &x, &packed, None, None, &mut y, false, tile).unwrap();
    }
    for tile in Tile::OF_WEIGHTS.map(Some) {
        weight_grad(&conv, &x, &y, None, &mut dw, false, tile).unwrap();
    }
    let costs = device.take_costs().into_iter().filter(|cost| cost.kernel.name.contains("x"));
    costs.map(|cost| Cost { name: cost.kernel.name.into(), counts: cost.counts.unwrap() }).collect()
}

/// The counts of the lines of a header whose source line contains `part`.
fn lines(counts: &ptx::Counts, file: &str, part: &str) -> ptx::Tally {
    let text = std::fs::read_to_string(format!("{}/kernels/lib/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut sum = ptx::Tally::default();
    for line in counts.lines.iter().filter(|line| line.file.ends_with(file)) {
        if text.lines().nth(line.line as usize - 1).is_some_and(|text| text.contains(part)) {
            sum.add(&line.tally);
        }
    }
    sum
}

/// `most`: PTX instructions per product, by a part of the kernel's name; the first that fits counts.
fn check<T: Real>(most: &[(&str, f64)]) {
    let costs = costs::<T>();
    assert_eq!(costs.len(), 8);
    for Cost { name, counts } in &costs {
        let total = counts.total;
        // 16 x 8 x 16 products of bf16, or 16 x 8 x 8 of tf32, of a multiplication and an addition.
        let products = total.flops_tensor / (2 * 16 * 8 * if size_of::<T>() == 2 { 16 } else { 8 });
        assert!(products > 0, "{name}");
        let each = total.warp_instructions as f64 / products as f64;
        println!(
            "{name}: {each:.2} instructions, {:.3} wavefronts of shared memory per product; {:.3} of the \
                  least wavefronts, {:.3} of the least sectors",
            total.wavefronts as f64 / products as f64,
            total.wavefronts as f64 / total.wavefronts_least as f64,
            total.sectors as f64 / total.sectors_least as f64,
        );
        let (_, bound) = most.iter().find(|(part, _)| name.contains(part)).unwrap();
        assert!(each <= *bound, "{name}: {each:.2} instructions per product");
        // The main loop: copies into shared memory and loads from there meet no bank conflict.
        for part in ["cp.async.cg", "ldmatrix.sync", "ld.shared"] {
            let line = lines(counts, "mma.cuh", part);
            assert_eq!(line.wavefronts, line.wavefronts_least, "{name}: {part} in shared memory");
            assert_eq!(line.sectors, line.sectors_least, "{name}: {part} of global memory");
        }
        let (loads, copies) = (lines(counts, "mma.cuh", "ld"), lines(counts, "mma.cuh", "cp.async.cg"));
        assert!(loads.wavefronts > 0 && copies.sectors > 0, "{name}: the lines were not found");
        // bf16 and the sums of weights are written in whole sectors; a thread's eight numbers of tf32 are
        // two halves of 16 bytes of a sector each.
        let halves = if size_of::<T>() == 4 && !name.contains("weight") { 2 } else { 1 };
        assert!(total.sectors <= copies.sectors + halves * (total.sectors_least - copies.sectors), "{name}");
    }
}

#[test]
fn the_main_loop_of_bf16_meets_no_bank_conflict() {
    if nvrtc_is_present() {
        check::<bf16>(&[("weight", 12.0), ("128x128", 6.5), ("128x64", 8.0), ("64x64", 10.1)]);
    }
}

#[test]
fn the_main_loop_of_tf32_meets_no_bank_conflict() {
    if nvrtc_is_present() {
        check::<f32>(&[("weight", 20.0), ("128x128", 7.5), ("128x64", 8.5), ("64x64", 10.1)]);
    }
}

/// Launches of the kernels whose names begin so, and the bytes that all launches load.
fn spent(device: &Device, kernel: &str) -> (u64, u64) {
    let costs = device.take_costs();
    let launches = costs.iter().filter(|cost| cost.kernel.name.starts_with(kernel)).map(|cost| cost.times);
    let loaded = |counts: &ptx::Counts| counts.total.global_loaded + counts.total.async_bytes;
    let loaded = costs.iter().map(|cost| cost.times * cost.counts.as_ref().map_or(0, loaded));
    (launches.sum(), loaded.sum())
}

#[test]
fn a_batch_norm_after_tensor_cores_reads_its_input_once() {
    if !nvrtc_is_present() {
        return;
    }
    let device = Device::software("compute_90", Coverage::All, None).unwrap();
    let shape = [16, 16, 16, 64];
    let of_channels = || Tensor::zeros(&device, &[64]).unwrap();
    let spent = |measured: bool| {
        let tape = Tape::new(&device);
        let x = Buffer::<bf16>::zeros(&device, shape.iter().product()).unwrap();
        let x = tape.constant(Tensor::new(x, &shape).unwrap());
        let weight = Tensor::zeros(&device, &[64, 1, 1, 64]).unwrap();
        let filter = Rc::new(Filter::new(weight.clone(), Precision::Bf16));
        let (w, weight, bias) =
            (tape.constant(weight), tape.constant(of_channels()), tape.constant(of_channels()));
        let (mean, var) = (&mut of_channels(), &mut of_channels());
        let norm = Norm { weight, bias, mean, var, mode: BnMode::Train, rows: &Rows::All };
        device.take_costs();
        let y = if measured {
            conv2d_measured(&tape, x, w, &filter, 1, 0, &Rows::All).unwrap()
        } else {
            conv2d_prepared::<bf16, bf16>(&tape, x, w, &filter, 1, 0, &Rows::All).unwrap().into()
        };
        batch_norm(&tape, y, norm, true).unwrap();
        spent(&device, "")
    };
    let ((launches, loaded), (launches_before, loaded_before)) = (spent(true), spent(false));
    let bytes = shape.iter().product::<usize>() as u64 * 2;
    println!("{launches} launches load {loaded} bytes; {launches_before} and {loaded_before} without");
    assert_eq!(launches, launches_before - 1);
    // All but the statistics themselves, of which there may be more.
    assert!(loaded + bytes * 9 / 10 <= loaded_before, "{loaded} and {loaded_before} bytes of {bytes}");
}

#[test]
fn only_the_first_batch_norm_of_a_resnet_computes_its_statistics_itself() {
    if !nvrtc_is_present() {
        return;
    }
    let device = Device::software("compute_90", Coverage::Sample(1), None).unwrap();
    let (channels, mean, std) = (3, vec![0.5; 3], vec![0.25; 3]);
    let shape = Shape { channels, height: 8, classes: 10, mean, std };
    let mut net = Net::new(&device, Arch::find("resnet18").unwrap(), &shape, 3).unwrap();
    // Its convolution, of images, multiplies in float32.
    for (precision, own) in [(Precision::F32, 20), (Precision::Tf32, 1), (Precision::Bf16, 1)] {
        net.set_precision(precision);
        for (mode, statistics, finished) in
            [(BnMode::Train, own, 20), (BnMode::Batch, own, 20), (BnMode::Eval, 0, 0)]
        {
            let tape = Tape::new(&device);
            let leaves = net.leaves(&tape);
            let x = tape.constant(Tensor::zeros(&device, &[2, 8, 8, 3]).unwrap());
            device.take_costs();
            net.forward(&tape, x, mode, Some(&leaves)).unwrap();
            let costs = device.take_costs();
            let launches = |kernel: &str| {
                let those = costs.iter().filter(|cost| cost.kernel.name.trim_end_matches("_bf16") == kernel);
                those.map(|cost| cost.times).sum::<u64>()
            };
            let found = (launches("batch_norm_statistics"), launches("batch_norm_finish"));
            assert_eq!(found, (statistics, finished), "{precision} {mode}");
        }
    }
}
