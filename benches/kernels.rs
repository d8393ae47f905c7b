//! `cargo bench`: the figures of `saddle bench kernels` and `saddle bench step`, on the device that
//! `SADDLE_BENCH_DEVICE` names (default: auto).

use saddle::bench::{BenchRow, DEFAULT_PRECISION, kernels, step};
use saddle::device::DeviceChoice;

fn main() -> saddle::Result<()> {
    // cargo passes --bench, and whatever the user adds: nothing of it changes what is timed.
    let device = std::env::var("SADDLE_BENCH_DEVICE")
        .unwrap_or_else(|_| "auto".into())
        .parse::<DeviceChoice>()?
        .open()?;
    println!("{}", device.describe());
    let steps = step(&device, 5.0, None, &[], None, DEFAULT_PRECISION)?;
    let rows: Vec<BenchRow> = kernels(&device, 0.5, None)?.into_iter().chain(steps).collect();
    for row in rows {
        println!("{:28} {:34} {:10.1} {:9} {}", row.name, row.detail, row.value, row.unit, row.note);
    }
    Ok(())
}
