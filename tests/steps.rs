//! The results of a training step, against float64 and against passes put together by hand: the updated
//! weights, the running statistics, the averaged network, and the |S| that is recorded.

mod common;

use common::{Golden, Tolerance, assert_close};
use saddle::config::Config;
use saddle::device::testing::fast_devices;
use saddle::device::{Buffer, Device};
use saddle::files::weights::WeightFile;
use saddle::method::{self, LogValue, common::perturbation::reduced};
use saddle::nn::{Arch, BnMode, Net, Role, Shape};
use saddle::ops::split::select;
use saddle::run::network;
use saddle::tape::Tape;
use saddle::tensor::Tensor;
use saddle::train::average::Average;
use saddle::train::step::{Batch, Models, Sgd, StepConfig, differentiate, train_step};

const IMAGES: usize = 8;
const SIDE: usize = 8;
const LR: f32 = 0.05;
const DECAY: f32 = 5e-4;

/// SGD at this rate `[1]`.
fn sgd(lr: &Buffer<f32>) -> Sgd<'_> {
    Sgd { lr, momentum: 0.9, weight_decay: DECAY }
}

/// The network of the goldens whose weights have this prefix.
fn net(device: &Device, golden: &Golden, prefix: &str) -> Net {
    let shape = Shape { channels: 1, height: SIDE, classes: 10, mean: vec![], std: vec![] };
    let mut net = Net::new(device, Arch::find("resnet-mini").unwrap(), &shape, 0).unwrap();
    let mut file = WeightFile::default();
    for name in golden.names().filter(|name| name.starts_with(prefix)) {
        file.tensors.insert(name[prefix.len()..].to_owned(), (golden.shape(&name), golden.floats(&name)));
    }
    network::load(&mut net, device, &file).unwrap();
    net
}

/// Images with one channel.
fn images(device: &Device, pixels: &[f32]) -> Tensor {
    Tensor::from_slice(device, &[pixels.len() / (SIDE * SIDE), SIDE, SIDE, 1], pixels).unwrap()
}

/// The tensor `name` of a network, as in a file.
fn tensor(net: &Net, name: &str) -> Vec<f32> {
    let param = net.params.iter().find(|param| param.name == name).unwrap_or_else(|| panic!("no {name}"));
    param.in_file(&param.value).unwrap().1
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// `(1 - t) a + t b`
fn between(a: &[f32], b: &[f32], t: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (1.0 - t) * f64::from(*a) + t * f64::from(*b)).collect()
}

fn close(got: &[f32], want: &[f64], relative: f64, what: &str) {
    assert_close(what, got, want, Tolerance { relative, least: 1e-3 });
}

/// Running statistics of the first batch norm.
#[derive(Clone)]
struct First {
    mean: Vec<f64>,
    var: Vec<f64>,
}

impl First {
    fn of(net: &Net) -> First {
        First { mean: wide(&tensor(net, "bn1.running_mean")), var: wide(&tensor(net, "bn1.running_var")) }
    }

    /// Updates them as a pass in train mode over images `x` does, in float64: `r <- 0.9 r + 0.1 s`, with the
    /// unbiased variance.
    fn pass(&mut self, conv1: &[f64], x: &[f64]) {
        for channel in 0..self.mean.len() {
            let mut outputs = Vec::with_capacity(x.len());
            for image in x.chunks(SIDE * SIDE) {
                for (row, column) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column))) {
                    let tap = |k: usize| {
                        let (r, c) = (row + k / 3, column + k % 3);
                        let inside = (1..=SIDE).contains(&r) && (1..=SIDE).contains(&c);
                        if inside { conv1[channel * 9 + k] * image[(r - 1) * SIDE + c - 1] } else { 0.0 }
                    };
                    outputs.push((0..9).map(tap).sum::<f64>());
                }
            }
            let n = outputs.len() as f64;
            let mean = outputs.iter().sum::<f64>() / n;
            let var = outputs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
            self.mean[channel] = 0.9 * self.mean[channel] + 0.1 * mean;
            self.var[channel] = 0.9 * self.var[channel] + 0.1 * var;
        }
    }

    fn check(&self, net: &Net, what: &str) {
        close(&tensor(net, "bn1.running_mean"), &self.mean, 2e-6, &format!("{what}: running mean"));
        close(&tensor(net, "bn1.running_var"), &self.var, 2e-6, &format!("{what}: running variance"));
    }
}

#[test]
fn after_the_update_come_a_clean_pass_and_the_average() {
    let golden = Golden::read("methods_input");
    let (x1, x2) = (golden.floats("x"), golden.floats("x2"));
    for (label, device) in fast_devices() {
        let lr = Buffer::from_slice(&device, &[LR]).unwrap();
        for (name, start) in
            ["rebat", "rpat++", "raat#"].into_iter().flat_map(|name| [(name, "0"), (name, "1")])
        {
            let case = format!("{label}: {name}, average_start {start}");
            let entry = method::find(name).unwrap();
            let mut config = Config::default();
            let keys = [
                ("method", name),
                ("eps", "3/16"),
                ("step_size", "3/32"),
                ("attack_steps", "2"),
                ("average_start_epoch", start),
            ];
            config.apply(&keys).unwrap();
            config.apply(&[("average_decay", "0.9"), ("seed", "5")]).unwrap();
            let views = (entry.views)(&config);
            let x = images(&device, &[&x1[..], &x2[..]][..views].concat());
            let y: Vec<i32> = golden.integers("y").iter().map(|y| *y as i32).collect();
            let y = Buffer::from_slice(&device, &y).unwrap();
            let numbers = Buffer::from_slice(&device, &(0..IMAGES as i32).collect::<Vec<_>>()).unwrap();
            let mix = Tensor::from_slice(&device, &[1], &[method::draw_mix(&config, 0, 0)]).unwrap();
            let batch = Batch { x: &x, y: &y, images: &numbers, mix: &mix };
            let step_config = StepConfig { method: entry, set: &config, epoch: 0 };
            let pair = || (net(&device, &golden, "weights."), net(&device, &golden, "wa."));

            let (mut online, mut wa) = pair();
            let average = Average::of(&config, entry).unwrap();
            let models = &mut Models { net: &mut online, wa: Some(&mut wa) };
            train_step(models, &batch, &step_config, sgd(&lr), Some(&average)).unwrap();

            // The same up to the update.
            let (mut before, mut teacher) = pair();
            let mut statistics = First::of(&teacher);
            let models = &mut Models { net: &mut before, wa: Some(&mut teacher) };
            let done = differentiate(models, &batch, &step_config, &Default::default()).unwrap();
            let x1_adv = done.x_adv.to_vec().unwrap()[..x1.len()].to_vec();

            // The passes of wa, which is in train mode yet, in the order of the released code.
            let passes = match (name, start) {
                ("rebat", "0") => vec![wide(&x1_adv)],
                ("rpat++", "0") => vec![wide(&x1), between(&x1_adv, &x1, config.a.into())],
                ("raat#", _) => {
                    vec![wide(&x1), wide(&x1_adv), between(&x1, &x1_adv, config.rho.into()), wide(&x2)]
                }
                _ => vec![],
            };
            for x in &passes {
                statistics.pass(&wide(&tensor(&teacher, "conv1.weight")), x);
            }
            statistics.check(&teacher, &format!("{case}: wa before it is averaged"));

            // The update, with weight decay, momentum being empty.
            let trained = before.params.iter().filter(|param| param.role != Role::Buffer).count();
            assert_eq!(done.gradients.len(), trained, "{case}");
            for (id, gradient) in &done.gradients {
                let param = before.params.get(*id);
                let (w, g) = (param.value.to_vec().unwrap(), gradient.to_vec().unwrap());
                let rule = |(w, g): (&f32, &f32)| {
                    let (w, g) = (f64::from(*w), f64::from(*g));
                    w - f64::from(LR) * (g + f64::from(DECAY) * w)
                };
                let want: Vec<f64> = w.iter().zip(&g).map(rule).collect();
                let updated = online.params.iter().find(|other| other.name == param.name).unwrap();
                close(&updated.value.to_vec().unwrap(), &want, 1e-6, &format!("{case}: {}", param.name));
            }

            // The clean pass of the updated network: its first batch norm in float64, all others by a pass of
            // our own.
            let mut statistics = First::of(&before);
            statistics.pass(&wide(&tensor(&online, "conv1.weight")), &wide(&x1));
            statistics.check(&online, &format!("{case}: the network after the clean pass"));
            for (param, updated) in
                before.params.iter_mut().zip(online.params.iter()).filter(|(p, _)| p.role != Role::Buffer)
            {
                param.value = updated.value.clone();
            }
            let tape = Tape::new(&device);
            before.forward(&tape, tape.constant(images(&device, &x1)), BnMode::Train, None).unwrap();
            for (ours, theirs) in before.params.iter().zip(online.params.iter()) {
                assert_eq!(
                    ours.value.to_vec().unwrap(),
                    theirs.value.to_vec().unwrap(),
                    "{case}: {}",
                    ours.name
                );
            }

            // The average of weights and running statistics alike; a copy before it starts.
            let keeps = if start == "0" { 0.9 } else { 0.0 };
            for ((now, old), new) in wa.params.iter().zip(teacher.params.iter()).zip(online.params.iter()) {
                let [now, old, new] = [now, old, new].map(|param| param.value.to_vec().unwrap());
                if keeps == 0.0 {
                    assert_eq!(now, new, "{case}");
                }
                close(&now, &between(&new, &old, keeps), 1e-6, &format!("{case}: the average"));
            }
            assert_eq!(
                (wa.train_passes, before.train_passes),
                (online.train_passes, online.train_passes),
                "{case}"
            );
        }
    }
}

/// The number of images with both views right, by a network in eval mode.
fn both_right(net: &mut Net, x: &Tensor, y: &[i32]) -> usize {
    let tape = Tape::new(x.device());
    let z = net.forward(&tape, tape.constant(x.clone()), BnMode::Eval, None).unwrap();
    let z = tape.value(z).to_vec().unwrap();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as i32;
    let right: Vec<bool> = z.chunks(10).enumerate().map(|(i, row)| best(row) == y[i % y.len()]).collect();
    (0..y.len()).filter(|&i| right[i] && right[i + y.len()]).count()
}

#[test]
fn the_recorded_s_is_the_one_that_the_loss_used() {
    let golden = Golden::read("methods_input");
    for (label, device) in fast_devices() {
        let lr = Buffer::from_slice(&device, &[LR]).unwrap();
        // Running statistics that are off, and that the passes of the loss put right by a good part.
        let spoilt = || {
            let mut net = net(&device, &golden, "weights.");
            for param in net.params.iter_mut().filter(|param| param.role == Role::Buffer) {
                let values: Vec<f32> = param
                    .value
                    .to_vec()
                    .unwrap()
                    .iter()
                    .map(|v| v * 0.5 - 0.15)
                    .map(|v| v.max(-0.2))
                    .collect();
                let values = if param.name.ends_with("running_var") {
                    values.iter().map(|v| v.abs() + 0.02).collect()
                } else {
                    values
                };
                param.value = Tensor::from_slice(&device, param.value.shape(), &values).unwrap();
            }
            net
        };
        let x = images(&device, &[golden.floats("x"), golden.floats("x2")].concat());
        let y: Vec<i32> = golden.integers("y_all").iter().map(|y| *y as i32).collect();
        let labels = Buffer::from_slice(&device, &y).unwrap();
        let numbers = Buffer::from_slice(&device, &(0..IMAGES as i32).collect::<Vec<_>>()).unwrap();
        let mut counts = Vec::new();
        for name in ["raat", "raat++"] {
            let entry = method::find(name).unwrap();
            let mut config = Config::default();
            let keys = [("method", name), ("eps", "0.02"), ("step_size", "0.01"), ("attack_steps", "2")];
            config.apply(&keys).unwrap();
            config.seed = 5;
            let mix = Tensor::from_slice(&device, &[1], &[method::draw_mix(&config, 0, 0)]).unwrap();
            let batch = Batch { x: &x, y: &labels, images: &numbers, mix: &mix };
            let step_config = StepConfig { method: entry, set: &config, epoch: 0 };
            let mut trained = spoilt();
            let models = &mut Models { net: &mut trained, wa: None };
            let stepped = train_step(models, &batch, &step_config, sgd(&lr), None).unwrap();
            let recorded = match stepped.log.iter().find(|(name, _)| *name == "aligned") {
                Some((_, LogValue::Count(count))) => count.to_vec().unwrap()[0] as usize,
                _ => panic!("{label}: {name} logs no |S|"),
            };

            let mut plain = spoilt();
            let at_first = both_right(&mut plain, &x, &y);
            if name == "raat++" {
                let models = &mut Models { net: &mut spoilt(), wa: None };
                let made = differentiate(models, &batch, &step_config, &Default::default()).unwrap();
                let boundary = match made.log.iter().find(|(name, _)| *name == "boundary") {
                    Some((_, LogValue::Flags(flags))) => flags.clone(),
                    _ => panic!("{label}: {name} logs no boundary samples"),
                };
                let x_reduced = reduced(&x, &made.x_adv, config.rho).unwrap();
                let x_ce = select(&device, &x_reduced, &made.x_adv, &boundary).unwrap();
                for images in [&made.x_adv, &x, &x_ce] {
                    let tape = Tape::new(&device);
                    plain.forward(&tape, tape.constant(images.clone()), BnMode::Train, None).unwrap();
                }
                let then = both_right(&mut plain, &x, &y);
                assert!(
                    at_first != then,
                    "{label}: the passes of {name} do not change S, {then} images: nothing is tested"
                );
                assert_eq!(recorded, then, "{label}: {name}; {at_first} before the passes");
            } else {
                assert_eq!(recorded, at_first, "{label}: {name}");
            }
            counts.push(recorded);
        }
        assert!(counts.iter().any(|count| *count > 0), "{label}: {counts:?}");
    }
}
