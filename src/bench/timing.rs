//! How often work is repeated, and what is said of its times.

use super::work::Work;
use crate::device::Device;
use crate::error::Result;
use std::time::Instant;

/// Seconds of repetitions of one work: the median, and what one of ten and nine of ten repetitions stay below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    pub p10: f64,
    pub median: f64,
    pub p90: f64,
}

impl Timing {
    fn of(mut seconds: Vec<f64>) -> Timing {
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        Timing { p10: quantile(0.1), median: quantile(0.5), p90: quantile(0.9) }
    }

    pub fn divided(self, by: f64) -> Timing {
        Timing { p10: self.p10 / by, median: self.median / by, p90: self.p90 / by }
    }
}

/// Seconds of a repetition at least: shorter work is repeated within it.
const REPETITION: f64 = 1e-3;

/// Times `work`: two runs to warm up, then as many repetitions as fit into `seconds`, at least five. Short
/// work is repeated within a repetition.
pub fn time(device: &Device, seconds: f64, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
    Ok(time_each(device, seconds, &mut [&mut work])?[0])
}

/// [`time`] of several works in turn, so that a machine that is slower for a while is so for all of them;
/// `seconds` for each.
pub fn time_each(
    device: &Device,
    seconds: f64,
    works: &mut [impl FnMut() -> Result<()>],
) -> Result<Vec<Timing>> {
    let mut runs = Vec::new();
    for work in works.iter_mut() {
        run(device, work, 1)?;
        runs.push(repeats(run(device, work, 1)?, 1000.0));
    }
    let (began, mut times) = (Instant::now(), vec![Vec::new(); works.len()]);
    while times[0].len() < 5 || began.elapsed().as_secs_f64() < seconds * works.len() as f64 {
        for ((work, runs), times) in works.iter_mut().zip(&runs).zip(&mut times) {
            times.push(run(device, work, *runs)?);
        }
    }
    Ok(times.into_iter().map(Timing::of).collect())
}

/// [`time_each`] of works that launch the same whenever they run. On a GPU they are replayed as graphs, as
/// training does it: the time that the program takes to launch them does not count.
pub fn time_launches(device: &Device, seconds: f64, works: Vec<Work>) -> Result<Vec<Timing>> {
    const MOST: f64 = 100.0;
    if device.is_host() || device.is_traced() {
        let mut works = works;
        return time_each(device, seconds, &mut works);
    }
    let (mut replays, mut counts) = (Vec::new(), Vec::new());
    for mut work in works {
        run(device, &mut work, 1)?;
        let count = repeats(run(device, &mut work, 1)?, MOST);
        let graph = device.capture(|| (0..count).try_for_each(|_| work()))?;
        replays.push(move || graph.replay());
        counts.push(count as f64);
    }
    let times = time_each(device, seconds, &mut replays)?;
    Ok(times.into_iter().zip(counts).map(|(time, count)| time.divided(count)).collect())
}

/// How often work of so many seconds is repeated.
fn repeats(seconds: f64, most: f64) -> usize {
    (REPETITION / seconds.max(1e-7)).ceil().clamp(1.0, most) as usize
}

/// Seconds of one of `runs` runs.
fn run(device: &Device, work: &mut impl FnMut() -> Result<()>, runs: usize) -> Result<f64> {
    device.synchronize()?;
    let began = Instant::now();
    for _ in 0..runs {
        work()?;
    }
    device.synchronize()?;
    Ok(began.elapsed().as_secs_f64() / runs as f64)
}
