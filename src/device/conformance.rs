//! Runs `kernels/conformance`: results that every device must give, and wrong kernels that the host device
//! must refuse, with the exact message.

use super::cuda::check::{self, Row};
use super::kernels::conformance::SOURCES;
use super::kernels::conformance::execution::*;
use super::kernels::conformance::math::conf_exp_log;
use super::testing::{checked_devices, devices, nvrtc_is_present};
use super::{Buffer, Device, Grid, Order};
use crate::error::Result;
use std::process::Command;

/// Small numbers of both signs, no two neighbours alike.
fn numbers(n: usize) -> Vec<i32> {
    (0..n as i32).map(|i| (i * 37 + 11) % 101 - 40).collect()
}

fn ints(device: &Device, n: usize) -> Buffer<i32> {
    Buffer::from_slice(device, &numbers(n)).unwrap()
}

fn out(device: &Device, n: usize) -> Buffer<i32> {
    Buffer::uninit(device, n).unwrap()
}

/// Runs a check on every device and says which.
fn everywhere(check: impl Fn(&Device)) {
    for (label, device) in devices() {
        println!("{label}");
        check(&device);
    }
}

type Sum = fn(&Device, Grid, &Buffer<i32>, &mut Buffer<i32>) -> Result<()>;

#[test]
fn block_sums_from_1_to_1024_threads() {
    let kernels: [(usize, Sum); 6] = [
        (1, conf_sum_1),
        (2, conf_sum_2),
        (33, conf_sum_33),
        (256, conf_sum_256),
        (1000, conf_sum_1000),
        (1024, conf_sum_1024),
    ];
    everywhere(|device| {
        for (threads, sum) in kernels {
            for blocks in [1, 2, 3, 17, if threads < 100 { 3001 } else { 64 }] {
                let x = numbers(blocks * threads);
                let mut y = out(device, blocks);
                sum(device, Grid::from(blocks), &ints(device, x.len()), &mut y).unwrap();
                let want: Vec<i32> = x.chunks(threads).map(|block| block.iter().sum()).collect();
                assert_eq!(y.to_vec().unwrap(), want, "{threads} threads, {blocks} blocks");
            }
        }
    });
}

#[test]
fn barriers_in_a_loop() {
    type Ring = fn(&Device, usize, &Buffer<i32>, &mut Buffer<i32>, usize) -> Result<()>;
    let kernels: [(usize, Ring); 3] = [(8, conf_ring_8), (32, conf_ring_32), (256, conf_ring_256)];
    everywhere(|device| {
        for (threads, ring) in kernels {
            for rounds in [0, 1, 2, 45] {
                let (blocks, x) = (5, numbers(5 * threads));
                let mut y = out(device, x.len());
                ring(device, blocks, &ints(device, x.len()), &mut y, rounds).unwrap();
                let want: Vec<i32> = (0..x.len())
                    .map(|i| x[i / threads * threads + (i % threads + rounds) % threads])
                    .collect();
                assert_eq!(y.to_vec().unwrap(), want, "{threads} threads, {rounds} rounds");
            }
        }
    });
}

#[test]
fn shuffles() {
    everywhere(|device| {
        let x = numbers(64);
        let mut y = out(device, 8 * 64);
        conf_shuffles(device, 1, &ints(device, 64), &mut y).unwrap();
        let want: Vec<i32> = (0..64)
            .flat_map(|t| {
                let (warp, lane) = (t / 32 * 32, t % 32);
                let from = |lane: usize| x[warp + lane];
                let (up, down) =
                    (if lane < 3 { lane } else { lane - 3 }, if lane > 24 { lane } else { lane + 7 });
                let next = if lane == 31 { lane } else { lane + 1 };
                [
                    from(5),
                    from((t * 7 + 3) % 32),
                    from(lane ^ 1),
                    from(lane ^ 21),
                    from(up),
                    from(down),
                    from(lane ^ 16),
                    from(next),
                ]
            })
            .collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn votes() {
    everywhere(|device| {
        let mut x = numbers(64);
        x[32..].iter_mut().for_each(|v| *v = v.abs() + 1);
        let mut y = out(device, 5 * 64);
        conf_votes(device, 1, &Buffer::from_slice(device, &x).unwrap(), &mut y).unwrap();
        let ballot =
            |warp: usize| (0..32).fold(0u32, |bits, l| bits | ((x[warp * 32 + l] > 0) as u32) << l) as i32;
        let want: Vec<i32> = (0..64).flat_map(|t| [ballot(t / 32), 1, (t >= 32) as i32, 0, 1]).collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn partial_masks() {
    everywhere(|device| {
        let x = numbers(64);
        let mut y = out(device, 2 * 64);
        conf_partial_masks(device, 1, &ints(device, 64), &mut y).unwrap();
        let want: Vec<i32> = (0..64)
            .flat_map(|t| {
                let warp = t / 32 * 32;
                let upper = (16..32).fold(0u32, |bits, l| bits | ((x[warp + l] > 0) as u32) << l) as i32;
                let even = (0..32).step_by(2).all(|l| x[warp + l] > 0) as i32;
                [if t % 32 < 16 { x[t ^ 3] } else { upper }, if t % 2 == 1 { x[warp + 31] } else { even }]
            })
            .collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn a_short_last_warp_and_lanes_that_left() {
    everywhere(|device| {
        let x = numbers(40);
        let mut y = out(device, 40);
        conf_tail_warp(device, 1, &ints(device, 40), &mut y).unwrap();
        let tail: i32 = x[32..].iter().sum();
        let want: Vec<i32> = (0..40)
            .map(|t| {
                if t >= 32 {
                    tail
                } else if t > 4 {
                    -1
                } else {
                    x[4 - t]
                }
            })
            .collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn groups_of_lanes() {
    everywhere(|device| {
        let x: Vec<f32> = numbers(96).iter().map(|v| *v as f32).collect();
        let mut y = Buffer::<f32>::uninit(device, 7 * 96).unwrap();
        conf_groups(device, 1, &Buffer::from_slice(device, &x).unwrap(), &mut y).unwrap();
        let group = |t: usize, lanes: usize| &x[t / lanes * lanes..(t / lanes + 1) * lanes];
        let want: Vec<f32> = (0..96)
            .flat_map(|t| {
                let sums = [1, 2, 4, 8, 16, 32].map(|lanes| group(t, lanes).iter().sum::<f32>());
                let largest = group(t, 16).iter().fold(f32::MIN, |m, v| m.max(*v));
                sums.into_iter().chain([largest])
            })
            .collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn shuffles_then_a_barrier_then_one_warp_alone() {
    everywhere(|device| {
        let x: Vec<f32> = numbers(128 * 9).iter().map(|v| *v as f32).collect();
        let mut y = Buffer::<f32>::uninit(device, 9).unwrap();
        conf_two_stages(device, 9, &Buffer::from_slice(device, &x).unwrap(), &mut y).unwrap();
        let want: Vec<f32> = x.chunks(128).map(|block| block.iter().sum()).collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn warp_barriers_and_shared_arrays() {
    everywhere(|device| {
        let x = numbers(128);
        let mut y = out(device, 64);
        conf_warp_sync(device, 1, &ints(device, 64), &mut y).unwrap();
        let want: Vec<i32> = (0..64).map(|t: usize| x[(63 - t) ^ 1] + 1).collect();
        assert_eq!(y.to_vec().unwrap(), want);

        let x: Vec<i32> = (0..128).collect();
        let mut y = out(device, 3 * 128);
        conf_shared_arrays(device, 3, &Buffer::from_slice(device, &x).unwrap(), &mut y).unwrap();
        let want: Vec<i32> = (0..3 * 128).map(|i| i % 128).map(|t| 3 * (t % 16 * 8 + t / 16)).collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn dynamic_shared_memory() {
    everywhere(|device| {
        let x = numbers(64 * 300);
        let mut y = out(device, x.len());
        conf_dynamic_shared(device, 300, &ints(device, x.len()), &mut y).unwrap();
        let want: Vec<i32> = x.chunks(64).flat_map(|block| block.iter().rev().copied()).collect();
        assert_eq!(y.to_vec().unwrap(), want);
    });
}

#[test]
fn integer_atomics() {
    everywhere(|device| {
        let n = 10_007;
        let x = numbers(n);
        let mut histogram = Buffer::<i32>::zeros(device, 16).unwrap();
        let mut maximum = Buffer::from_slice(device, &[i32::MIN]).unwrap();
        let (mut counter, mut taken) =
            (Buffer::<i32>::zeros(device, 1).unwrap(), Buffer::<i32>::zeros(device, n).unwrap());
        let blocks = n.div_ceil(64);
        conf_atomics(
            device,
            blocks,
            &ints(device, n),
            &mut histogram,
            &mut maximum,
            &mut counter,
            &mut taken,
            n,
        )
        .unwrap();
        let want: Vec<i32> = (0..16).map(|bin| x.iter().filter(|v| **v & 15 == bin).count() as i32).collect();
        assert_eq!(histogram.to_vec().unwrap(), want);
        assert_eq!(maximum.to_vec().unwrap(), [*x.iter().max().unwrap()]);
        assert_eq!(counter.to_vec().unwrap(), [n as i32]);
        assert_eq!(taken.to_vec().unwrap(), vec![1; n]);
    });
}

#[test]
fn grids_of_three_dimensions() {
    everywhere(|device| {
        for [gx, gy, gz] in [[1, 1, 1], [5, 1, 1], [1, 7, 1], [1, 1, 4], [5, 7, 4]] {
            let (mut y, mut shape) = (out(device, 3 * gx * gy * gz), out(device, 3));
            conf_grid(device, (gx, gy, gz), &mut y, &mut shape).unwrap();
            let place = |b: usize| b % gx + 100 * (b / gx % gy) + 10_000 * (b / gx / gy);
            let want: Vec<i32> = (0..gx * gy * gz)
                .flat_map(|b| (0..3).map(move |t| (place(b) + 1_000_000 * t) as i32))
                .collect();
            assert_eq!(y.to_vec().unwrap(), want);
            assert_eq!(shape.to_vec().unwrap(), [gx as i32, gy as i32, gz as i32]);
        }
        // An empty grid launches nothing.
        conf_grid(device, (3, 0, 1), &mut out(device, 1), &mut out(device, 1)).unwrap();
    });
}

#[test]
fn bit_functions() {
    everywhere(|device| {
        let x: Vec<i32> = numbers(32).iter().map(|v| v * 19_349_663).collect();
        let mut y = out(device, 6 * 32);
        conf_bits(device, 1, &Buffer::from_slice(device, &x).unwrap(), &mut y).unwrap();
        let first = |v: i32| if v == 0 { 0 } else { v.trailing_zeros() as i32 + 1 };
        let high = |v: i32| ((v as u32 as u64 * 0x9e37_79b9) >> 32) as i32;
        let bits = |v: i32| {
            [
                v.count_ones() as i32,
                first(v),
                v.leading_zeros() as i32,
                high(v),
                v & 0x3fff_ffff,
                v.min(7) + v.max(-7),
            ]
        };
        assert_eq!(y.to_vec().unwrap(), x.iter().flat_map(|v| bits(*v)).collect::<Vec<_>>());
    });
}

#[test]
fn every_type_of_argument() {
    everywhere(|device| {
        let mut y = Buffer::<u32>::uninit(device, 8).unwrap();
        let (there, mut also) = (Buffer::<f32>::zeros(device, 1).unwrap(), out(device, 1));
        conf_arguments(
            device,
            1,
            &mut y,
            &there,
            None,
            Some(&mut also),
            -7,
            0xffff_fffe,
            0x0123_4567_89ab_cdef,
            2.75,
        )
        .unwrap();
        assert_eq!(y.to_vec().unwrap(), [1, 0, 1, 7, 0xffff_fffe, 0x89ab_cdef, 0x0123_4567, 11]);
        conf_arguments(device, 1, &mut y, &there, Some(&there), None, 0, 0, 0, 0.25).unwrap();
        assert_eq!(y.to_vec().unwrap(), [1, 1, 0, 0, 0, 0, 0, 1]);
    });
}

#[test]
fn launches_from_several_threads() {
    let device = Device::host().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for blocks in 1..60 {
                    let mut y = out(&device, blocks);
                    conf_sum_33(&device, blocks, &ints(&device, blocks * 33), &mut y).unwrap();
                    let want: Vec<i32> = numbers(blocks * 33).chunks(33).map(|b| b.iter().sum()).collect();
                    assert_eq!(y.to_vec().unwrap(), want);
                }
            });
        }
    });
}

/// `kernels/conformance/execution.cu:LINE` of the line that carries this comment.
fn line(comment: &str) -> String {
    let source = include_str!("../../kernels/conformance/execution.cu");
    let marked: Vec<usize> = source
        .lines()
        .enumerate()
        .filter(|(_, l)| l.ends_with(&format!("// {comment}")))
        .map(|(i, _)| i + 1)
        .collect();
    assert_eq!(marked.len(), 1, "{comment}");
    format!("kernels/conformance/execution.cu:{}", marked[0])
}

/// A wrong kernel gives this message on the host, checked or not, in every order; afterwards the device still
/// works.
fn refused(message: &str, run: impl Fn(&Device) -> Result<()>) {
    for (label, device) in [("host".into(), Device::host().unwrap())].into_iter().chain(checked_devices()) {
        for _ in 0..2 {
            assert_eq!(run(&device).unwrap_err().to_string(), message, "{label}");
            let mut y = out(&device, 5);
            conf_sum_33(&device, 5, &ints(&device, 5 * 33), &mut y).unwrap();
            assert_eq!(
                y.to_vec().unwrap(),
                numbers(5 * 33).chunks(33).map(|b| b.iter().sum()).collect::<Vec<i32>>(),
                "{label}"
            );
        }
    }
}

#[test]
fn refuses_an_early_exit_above_a_barrier() {
    let at = line("EARLY EXIT");
    refused(
        &format!(
            "kernel conf_bad_early_exit, block [0, 0, 0]: 50 of 64 threads wait at the barrier {at}, but \
             thread 50 ended without it"
        ),
        |d| conf_bad_early_exit(d, 1, &ints(d, 64), &mut out(d, 64), 50),
    );
}

#[test]
fn refuses_a_barrier_in_a_branch() {
    let (one, two) = (line("BRANCH ONE"), line("BRANCH TWO"));
    let message = format!(
        "kernel conf_bad_branch, block [0, 0, 0]: barrier in a branch: thread 0 waits at {one}, thread 16 at \
         {two}"
    );
    refused(&message, |d| conf_bad_branch(d, 1, &mut out(d, 32)));
}

#[test]
fn refuses_unequal_rounds_of_a_loop_with_a_barrier() {
    let at = line("ROUNDS");
    let message = format!(
        "kernel conf_bad_rounds, block [0, 0, 0]: 15 of 16 threads wait at the barrier {at}, but thread 3 \
         ended without it"
    );
    refused(&message, |d| conf_bad_rounds(d, 1, &mut out(d, 16)));
}

#[test]
fn refuses_wrong_masks() {
    let says = |kernel: &str, at: &str, what: &str| {
        format!("kernel {kernel}, block [0, 0, 0]: {}: {what}", line(at))
    };
    let message = says(
        "conf_bad_own_mask",
        "OWN MASK",
        "lane 16 of warp 0 calls with mask 0x0000ffff, which does not name it",
    );
    refused(&message, |d| conf_bad_own_mask(d, 1, &ints(d, 32), &mut out(d, 32)));
    let missing =
        "lanes 0x7fffffff of warp 1 wait with mask 0xffffffff, but lanes 0x80000000 wait elsewhere or ended";
    refused(&says("conf_bad_absent_lane", "ABSENT LANE", missing), |d| {
        conf_bad_absent_lane(d, 1, &ints(d, 64), &mut out(d, 64))
    });
    let short = "mask 0xffffffff names lanes that warp 0 of 8 threads does not have";
    refused(&says("conf_bad_short_warp", "SHORT WARP", short), |d| {
        conf_bad_short_warp(d, 1, &ints(d, 8), &mut out(d, 8))
    });
    let source = "lane 2 reads from lane 9, which mask 0x000000ff does not name";
    refused(&says("conf_bad_source", "SOURCE", source), |d| {
        conf_bad_source(d, 1, &ints(d, 32), &mut out(d, 32))
    });
    let mixed =
        "lanes 0xfffffffe of warp 0 wait with mask 0xffffffff, but lanes 0x00000001 wait elsewhere or ended";
    refused(&says("conf_bad_mixed", "MIXED", mixed), |d| conf_bad_mixed(d, 1, &ints(d, 32), &mut out(d, 32)));
}

#[test]
fn names_the_block_that_diverged() {
    // Only the last block is wrong; the others run.
    let device = Device::host().unwrap();
    let error = conf_bad_early_exit(&device, (1, 1, 1), &ints(&device, 64), &mut out(&device, 64), 64);
    assert!(error.is_ok(), "{error:?}");
    let error = conf_bad_branch(&device, (3, 2, 2), &mut out(&device, 32)).unwrap_err().to_string();
    assert!(error.starts_with("kernel conf_bad_branch, block ["), "{error}");
}

#[test]
fn refuses_too_much_shared_memory() {
    let message = "kernel conf_bad_shared_size, block [0, 0, 0]: a shared array of 262144 bytes does not fit \
                   into the 227 KiB of a block";
    refused(message, |d| conf_bad_shared_size(d, 1, &mut Buffer::<f32>::uninit(d, 4)?));
}

#[test]
fn a_missing_barrier_shows_in_the_order_of_threads() {
    let x: Vec<f32> = numbers(64).iter().map(|v| *v as f32).collect();
    let run = |order: Order| {
        let device = Device::host_checked(order).unwrap();
        let mut y = Buffer::<f32>::uninit(&device, 64).unwrap();
        conf_bad_missing_barrier(&device, 1, &Buffer::from_slice(&device, &x).unwrap(), &mut y).unwrap();
        y.to_vec().unwrap()
    };
    let (forward, reverse, shuffled) = (run(Order::Forward), run(Order::Reverse), run(Order::Shuffled(3)));
    // A value that has not been written yet is NaN, never an old one.
    let right = |y: &[f32]| (0..64).filter(|t| y[*t] == x[63 - t]).count();
    let unwritten = |y: &[f32]| y.iter().filter(|v| v.is_nan()).count();
    for y in [&forward, &reverse, &shuffled] {
        assert_eq!((right(y), unwritten(y)), (32, 32));
    }
    assert!(forward[..32].iter().all(|v| v.is_nan()) && reverse[32..].iter().all(|v| v.is_nan()));
    assert!(shuffled[..32].iter().any(|v| v.is_nan()) && shuffled[32..].iter().any(|v| v.is_nan()));
}

#[test]
fn refuses_writes_past_a_shared_array() {
    for (label, device) in checked_devices() {
        conf_bad_shared_write(&device, 1, &mut out(&device, 32), 32).unwrap();
        let error = conf_bad_shared_write(&device, 1, &mut out(&device, 32), 33).unwrap_err().to_string();
        let message = "kernel conf_bad_shared_write, block [0, 0, 0]: out-of-bounds write: 0 bytes past the \
                       end of a shared array of 128 bytes";
        assert_eq!(error, message, "{label}");
        conf_bad_dynamic_write(&device, 1, &mut out(&device, 32), 32).unwrap();
        let error = conf_bad_dynamic_write(&device, 1, &mut out(&device, 32), 40).unwrap_err().to_string();
        assert_eq!(error, message.replace("conf_bad_shared_write", "conf_bad_dynamic_write"), "{label}");
    }
}

#[test]
fn refuses_writes_between_a_buffer_and_its_guard_page() {
    for (label, device) in checked_devices() {
        // 33 integers end 12 bytes before the guard page.
        conf_bad_write(&device, 1, &mut out(&device, 33), 1).unwrap();
        let error = conf_bad_write(&device, 1, &mut out(&device, 33), 3).unwrap_err().to_string();
        assert_eq!(
            error,
            "kernel conf_bad_write, block [0, 0, 0]: out-of-bounds write: 0 bytes past the end of a buffer \
             of 132 bytes",
            "{label}"
        );
    }
}

#[test]
fn exp_and_log_are_right_to_two_units_in_the_last_place() {
    // Numbers all over the range of float32, subnormal ones, infinities and NaN among them; and those that
    // losses meet, closer together.
    let everywhere_in_range = (0..=u32::MAX).step_by(9973).map(f32::from_bits);
    let common =
        (-200_000..20_000).map(|i| i as f32 * 5.1e-4).chain((0..100_000).map(|i| 0.5 + i as f32 * 1.7e-5));
    let ends = [
        0.0,
        -0.0,
        1.0,
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        88.72283,
        88.72284,
        -103.97,
    ];
    let x: Vec<f32> = everywhere_in_range.chain(common).chain(ends).collect();
    everywhere(|device| {
        let input = Buffer::from_slice(device, &x).unwrap();
        let (mut exps, mut logs) = (
            Buffer::<f32>::uninit(device, x.len()).unwrap(),
            Buffer::<f32>::uninit(device, x.len()).unwrap(),
        );
        conf_exp_log(device, 1, &input, &mut exps, &mut logs, x.len()).unwrap();
        for (name, got, exact) in [("exp", exps, f64::exp as fn(f64) -> f64), ("log", logs, f64::ln)] {
            for (x, got) in x.iter().zip(got.to_vec().unwrap()) {
                let want = exact(*x as f64);
                let nearest = want as f32;
                let unit = (nearest.abs().next_up() as f64 - nearest.abs() as f64).min(2f64.powi(104));
                let same = got == nearest || (got.is_nan() && nearest.is_nan());
                assert!(
                    same || (got as f64 - want).abs() <= 2.0 * unit,
                    "{name}({x:e}) is {got:e}, not {nearest:e}"
                );
            }
        }
    });
}

/// The architectures of `tests/nvrtc.rs`; sm_75 has less dynamic shared memory than one kernel asks for.
#[test]
fn conformance_kernels_compile_for_gpus() {
    if !nvrtc_is_present() {
        return;
    }
    let archs = ["sm_75", "sm_80", "sm_90a", "sm_100"];
    let rows =
        archs.map(|arch| SOURCES.iter().flat_map(|s| check::compile(arch, s).unwrap()).collect::<Vec<_>>());
    let kernels = SOURCES.iter().map(|source| source.kernels.len()).sum::<usize>();
    for (arch, rows) in archs.iter().zip(&rows) {
        assert_eq!(rows.len(), kernels, "{arch}");
        assert_eq!(rows.iter().find_map(Row::problem), None);
        // Kernels with known arrays: the numbers are read, not defaulted.
        let shared = |name: &str| rows.iter().find(|row| row.kernel == name).unwrap().shared_bytes;
        assert_eq!(shared("conf_sum_1024"), 4096, "{arch}");
        assert_eq!(shared("conf_dynamic_shared"), 65536, "{arch}");
    }
}

/// The name of the variable that tells a child process to run the wrong kernel.
const CHILD: &str = "SADDLE_TEST_CHILD";

/// Runs `wrong` in a child process, which must print this line and exit with code 86. The child is this test
/// program with one test.
fn ends_the_process(test: &str, message: &str, wrong: impl Fn(&Device)) {
    if std::env::var(CHILD).is_ok() {
        wrong(&Device::host_checked(Order::Forward).unwrap());
        panic!("the access was not noticed");
    }
    let program = std::env::current_exe().unwrap();
    let name = format!("device::conformance::{test}");
    let child = Command::new(program)
        .args(["--exact", &name, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!((said.trim_end(), child.status.code()), (message, Some(86)));
}

#[test]
fn a_write_past_a_buffer_ends_the_process() {
    let message = "error: kernel conf_bad_write, block [0, 0, 0], thread 28: out-of-bounds access 0 bytes \
                   past the end of a buffer of 128 bytes";
    ends_the_process("a_write_past_a_buffer_ends_the_process", message, |d| {
        conf_bad_write(d, 1, &mut out(d, 32), 4).unwrap()
    });
}

#[test]
fn a_write_far_past_a_buffer_ends_the_process() {
    let message = "error: kernel conf_bad_write, block [0, 0, 0], thread 0: out-of-bounds access 2000 \
                   bytes past the end of a buffer of 128 bytes";
    ends_the_process("a_write_far_past_a_buffer_ends_the_process", message, |d| {
        conf_bad_write(d, 1, &mut out(d, 32), 532).unwrap()
    });
}

#[test]
fn a_read_before_a_buffer_ends_the_process() {
    let message = "error: kernel conf_bad_read, block [0, 0, 0], thread 0: out-of-bounds access before \
                   the start of a buffer of 4096 bytes";
    ends_the_process("a_read_before_a_buffer_ends_the_process", message, |d| {
        conf_bad_read(d, 1, &ints(d, 1024), &mut out(d, 32), -8).unwrap();
    });
}
