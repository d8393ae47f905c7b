//! What the CPU reaches with nothing but FMAs in registers, and with nothing but memory.

use super::best_instruction_set;
use crate::device::Peaks;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// The best of these many measurements counts: anything else on the machine only takes away.
const TIMES: usize = 5;

/// Rounds of FMAs of one measurement: some milliseconds.
const ROUNDS: usize = 2_000_000;

/// Independent sums, which hide the latency of an FMA.
const SUMS: usize = 12;

/// Floats of an array that no cache holds.
const ARRAY: usize = 32 << 20;

pub fn peaks() -> Peaks {
    let (name, lanes, run): (_, _, fn()) = fma();
    let flop = (2 * lanes * SUMS * ROUNDS * rayon::current_num_threads()) as f64;
    let flops = flop / best(|| drop(rayon::broadcast(|_| run())));
    let (a, b, mut sum) = (vec![1.0f32; ARRAY], vec![2.0f32; ARRAY], vec![0.0f32; ARRAY]);
    let part = ARRAY / rayon::current_num_threads() + 1;
    let add = || {
        sum.par_chunks_mut(part).zip(a.par_chunks(part)).zip(b.par_chunks(part)).for_each(|((sum, a), b)| {
            sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = a + b);
        });
    };
    let bandwidth = (3 * size_of::<f32>() * ARRAY) as f64 / best(add);
    let origin = format!("measured: FMAs in registers ({name}); two arrays added, 3 x 128 MiB");
    Peaks { flops, tensor: None, bandwidth, origin }
}

/// The least seconds of several runs.
fn best(mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    };
    (0..TIMES).map(time).fold(f64::INFINITY, f64::min)
}

/// [`ROUNDS`] of [`SUMS`] FMAs on the widest vectors: their name, their lanes, and the loop.
#[cfg(target_arch = "x86_64")]
fn fma() -> (&'static str, usize, fn()) {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn wide() {
        let (factor, term) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(0.001)));
        let mut sums = [term; SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, term));
        }
        black_box(sums);
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow() {
        let (factor, term) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
        let mut sums = [term; SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, term));
        }
        black_box(sums);
    }
    match best_instruction_set() {
        // SAFETY: the instruction set was found on this CPU.
        2 => ("512 bits", 16, || unsafe { wide() }),
        // SAFETY: as above.
        1 => ("256 bits", 8, || unsafe { narrow() }),
        _ => ("128 bits", 4, portable),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fma() -> (&'static str, usize, fn()) {
    ("128 bits", 4, portable)
}

/// Multiplications and additions of four lanes, as every CPU has them.
fn portable() {
    let (factor, term) = (black_box([0.999f32; 4]), black_box([0.001f32; 4]));
    let mut sums = [term; SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = std::array::from_fn(|lane| sum[lane] * factor[lane] + term[lane]);
        }
    }
    black_box(sums);
}
