//! `cargo bench`: the figures of `saddle bench kernels` and `saddle bench step`, on the device that
//! `SADDLE_BENCH_DEVICE` names (default: auto).

use saddle::bench::kernels::{KernelsRequest, kernels};
use saddle::bench::work::{BATCH, jobs};
use saddle::bench::{BenchRow, DEFAULT_PRECISION, precision, step};
use saddle::device::DeviceChoice;

fn main() -> saddle::Result<()> {
    // cargo passes --bench, and whatever the user adds: nothing of it changes what is timed.
    let device = std::env::var("SADDLE_BENCH_DEVICE")
        .unwrap_or_else(|_| "auto".into())
        .parse::<DeviceChoice>()?
        .open()?;
    println!("{}", device.describe());
    let steps = step(&device, 5.0, None, &[], None, DEFAULT_PRECISION)?;
    let request = KernelsRequest {
        job: jobs(Some("resnet18"))?[0],
        batch: BATCH,
        precision: precision(&device, DEFAULT_PRECISION)?,
        seconds: 0.5,
    };
    let kernels = kernels(&device, &request, &device.peaks()?)?;
    let rows: Vec<BenchRow> = kernels.into_iter().chain(steps).collect();
    for row in rows {
        println!("{:28} {:34} {:10.1} {:9} {}", row.name, row.detail, row.value, row.unit, row.note);
    }
    Ok(())
}
