use super::explain::{Explanation, explain};
use super::memory::TensorClass;
use super::phase::Phase;
use super::table::profile;
use crate::config::Config;
use crate::device::trace::{Event, Launch, Listener, Work};
use crate::device::{Binding, Device, Peaks, Precision};
use crate::method::METHODS;
use crate::train::rehearsal::Rehearsal;
use std::sync::{Arc, Mutex};

/// Steps of a method on small batches of digits.
fn config(method: &str) -> Config {
    let mut config = Config::default();
    let settings = [
        ("method", method),
        ("dataset", "digits"),
        ("model", "resnet-mini"),
        ("batch", "8"),
        ("attack_steps", "3"),
        ("epochs", "3"),
        ("held_out", "8"),
    ];
    config.apply(&settings).unwrap();
    for key in ["average_start_epoch", "linear_epochs"] {
        config.apply(&[(key, "1")]).unwrap();
    }
    config
}

#[derive(Default)]
struct Launches(Vec<Launch>);

impl Listener for Launches {
    fn hear(&mut self, event: Event) {
        if let Event::Launched(launch) = event {
            self.0.push(launch);
        }
    }
}

/// The launches of the second step, which really runs.
fn run(config: &Config) -> Vec<Launch> {
    let device = Device::host().unwrap();
    let mut rehearsal = Rehearsal::new(&device, config).unwrap();
    rehearsal.step().unwrap();
    let heard = Arc::new(Mutex::new(Launches::default()));
    device.listen(heard.clone());
    rehearsal.step().unwrap();
    let mut heard = heard.lock().unwrap();
    std::mem::take(&mut heard.0)
}

fn explained(config: &Config) -> Explanation {
    explain(&Device::host().unwrap(), config).unwrap()
}

#[test]
fn every_method_is_explained_as_it_runs() {
    for method in METHODS {
        let config = config(method.name);
        let (run, explained) = (run(&config), explained(&config));
        assert_eq!(explained.total.launches, run.len() as u64, "{}", method.name);
        let flop = |launch: &Launch| launch.work.flop.unwrap_or(0);
        assert_eq!(explained.total.flop, run.iter().map(flop).sum::<u64>(), "{}", method.name);
        let phases: u64 = explained.phases.iter().map(|sum| sum.launches).sum();
        assert_eq!(phases, explained.total.launches, "{}", method.name);
    }
}

#[test]
fn steps_of_an_attack_are_shown_once() {
    let config = config("pgd-at");
    let (run, explained) = (run(&config), explained(&config));
    let forward: Vec<_> =
        explained.sections.iter().filter(|section| section.phase == Phase::AttackForward).collect();
    // The first step folds the weights.
    assert_eq!(
        forward.iter().map(|section| section.attack_steps).collect::<Vec<_>>(),
        [Some([1, 1]), Some([2, 3])]
    );
    assert!(forward[0].rows.len() > forward[1].rows.len());
    // The numbers are those of the launches in the step.
    for section in &explained.sections {
        let first = &run[section.first as usize - 1];
        let row = &section.rows[0];
        assert_eq!((row.kernel, row.shape == first.work.shape || row.launches > 1), (first.kernel, true));
        assert_eq!(section.phase, Phase::of(&first.path), "launch {}", section.first);
    }
    let update = explained.sections.iter().find(|section| section.phase == Phase::Update).unwrap();
    assert_eq!((update.rows.len(), update.rows[0].kernel), (1, "sgd_step"));
}

#[test]
fn the_memory_of_a_step_is_counted_by_class() {
    let config = config("pgd-at");
    let device = Device::host().unwrap();
    let parameters = {
        let rehearsal = Rehearsal::new(&device, &config).unwrap();
        4 * rehearsal.parameters() as u64
    };
    let explained = explained(&config);
    let of = |class| *explained.memory.iter().find(|bytes| bytes.class == class).unwrap();
    assert!(of(TensorClass::Weights).at_peak > parameters, "parameters and statistics");
    // With the table of addresses that one launch updates all tensors by.
    let momentum = of(TensorClass::Momentum).most;
    assert!((parameters..parameters + 4096).contains(&momentum), "{momentum} of {parameters}");
    // Those of a batch norm come as one tensor, with the gradients of the pass.
    assert!(of(TensorClass::Gradients).most > parameters * 9 / 10);
    assert!(of(TensorClass::Activations).at_peak > of(TensorClass::Weights).at_peak);
    assert!(of(TensorClass::Attack).most > 0);
    let sum: u64 = explained.memory.iter().map(|bytes| bytes.at_peak).sum();
    assert_eq!(sum, explained.peak);
    // The allocator's own count is of blocks, which are rounded up.
    let (_, most) = {
        let mut rehearsal = Rehearsal::new(&device, &config).unwrap();
        rehearsal.step().unwrap();
        rehearsal.step().unwrap();
        device.memory_in_use()
    };
    assert!(
        explained.peak <= most as u64 && explained.peak > most as u64 / 2,
        "{} of {most}",
        explained.peak
    );
}

#[test]
fn a_profile_has_every_launch_once_in_each_table() {
    let mut config = config("raat");
    config.apply(&[("average", "ema")]).unwrap();
    let profile = profile(&Device::host().unwrap(), &config, 2).unwrap();
    assert_eq!(profile.total.launches as usize, run(&config).len());
    for sums in [&profile.phases, &profile.kernels] {
        assert_eq!(sums.iter().map(|sum| sum.launches).sum::<u64>(), profile.total.launches);
        let seconds: f64 = sums.iter().map(|sum| sum.seconds).sum();
        assert!((seconds / profile.total.seconds - 1.0).abs() < 1e-9);
    }
    assert!(profile.total.seconds <= profile.step_seconds, "kernels do not overlap");
    assert!(profile.kernels.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds));
    let phases: Vec<&str> = profile.phases.iter().map(|sum| sum.name.as_str()).collect();
    for phase in
        ["attack forward", "attack backward", "training forward", "training backward", "update", "average"]
    {
        assert!(phases.contains(&phase), "{phase} is missing in {phases:?}");
    }
    assert!(profile.layers.iter().any(|sum| sum.name == "layer1.0.conv1"));
}

#[test]
fn the_larger_of_two_times_binds() {
    let peaks = Peaks { flops: 100.0, tensor: None, bandwidth: 10.0, origin: String::new() };
    let work = |flop, read| Work {
        shape: String::new(),
        sizes: vec![],
        read,
        written: 10,
        flop,
        precision: Precision::F32,
    };
    assert_eq!(peaks.bound(&work(None, 10)), (2.0, Binding::Memory));
    assert_eq!(peaks.bound(&work(Some(100), 10)), (2.0, Binding::Memory));
    assert_eq!(peaks.bound(&work(Some(1000), 10)), (10.0, Binding::Compute));
    let bf16 = Work { precision: Precision::Bf16, ..work(Some(1000), 10) };
    assert_eq!(peaks.bound(&bf16), (10.0, Binding::Compute), "no figure for tensor cores");
    let with_tensor_cores = Peaks { tensor: Some([200.0, 1000.0]), ..peaks };
    assert_eq!(with_tensor_cores.bound(&bf16), (2.0, Binding::Memory));
    let tf32 = Work { precision: Precision::Tf32, ..bf16 };
    assert_eq!(with_tensor_cores.bound(&tf32), (5.0, Binding::Compute));
}

#[test]
fn peaks_are_above_what_kernels_reach() {
    let peaks = Device::host().unwrap().peaks().unwrap();
    assert!(peaks.flops > 1e9 && peaks.bandwidth > 1e8, "{peaks:?}");
    let Peaks { flops, bandwidth, .. } = peaks;
    assert!(flops > bandwidth, "no CPU moves a byte for each operation");
}
