//! The test bench that walks every operation: see `docs/writing-an-op.md`.

use crate::device::Device;
pub use crate::device::testing::devices;
use crate::error::Result;
use crate::numeric::{close_with_nan, max_abs};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Shapes for operations on whole samples: rows that are and are not a multiple of four, long and short.
pub const SAMPLES: [&[usize]; 9] = [
    &[1, 1],
    &[3, 7],
    &[2, 12],
    &[2, 33],
    &[3, 7, 5, 3],
    &[5, 8, 8, 1],
    &[2, 32, 32, 3],
    &[1, 4097],
    &[2, 3, 1, 257],
];

/// One input of a case: shape, values, and whether the operation is differentiated in it.
pub struct Input {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    pub differentiable: bool,
}

impl Input {
    fn new(shape: &[usize], value: impl FnMut(usize) -> f32) -> Input {
        Input {
            shape: shape.to_vec(),
            values: (0..shape.iter().product()).map(value).collect(),
            differentiable: true,
        }
    }

    /// Standard normal values, others for every shape.
    pub fn normal(shape: &[usize]) -> Input {
        Input::normal_seeded(shape, 0)
    }

    /// Standard normal values; the seed tells inputs of one shape apart.
    pub fn normal_seeded(shape: &[usize], seed: u64) -> Input {
        let mut random = Random::new(
            shape.iter().fold(seed.wrapping_add(17), |h, d| h.wrapping_mul(1_000_003) ^ *d as u64),
        );
        Input::new(shape, |_| random.normal() as f32)
    }

    /// Uniform values in [low, high).
    pub fn uniform(shape: &[usize], low: f32, high: f32) -> Input {
        let mut random =
            Random::new(shape.iter().fold(99, |h: u64, d| h.wrapping_mul(1_000_003) ^ *d as u64));
        Input::new(shape, |_| low + (high - low) * random.uniform() as f32)
    }

    /// The same value everywhere.
    pub fn filled(shape: &[usize], value: f32) -> Input {
        Input::new(shape, |_| value)
    }

    /// Values of the caller's.
    pub fn values(shape: &[usize], values: Vec<f32>) -> Input {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Input { shape: shape.to_vec(), values, differentiable: true }
    }

    /// Multiplies all values.
    pub fn scaled(mut self, factor: f32) -> Input {
        self.values.iter_mut().for_each(|v| *v *= factor);
        self
    }

    /// Moves values that are closer than 0.01 to a kink at `at` away from it, where central differences would
    /// be wrong.
    pub fn away_from(mut self, at: f32) -> Input {
        self.values.iter_mut().filter(|v| (**v - at).abs() < 0.01).for_each(|v| *v = at + 0.01 + *v - at);
        self.values.iter_mut().filter(|v| (**v - at).abs() < 0.005).for_each(|v| *v = at + 0.02);
        self
    }

    /// Rounds all values to bf16, which casts then leave as they are.
    pub fn in_bf16(mut self) -> Input {
        self.values.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
        self
    }

    /// Excludes this input from differentiation.
    pub fn constant(mut self) -> Input {
        self.differentiable = false;
        self
    }
}

type Run = Box<dyn Fn(&Tape, &[Var]) -> Result<Var>>;
type RunKernel = Box<dyn Fn(&Device, &[Tensor]) -> Result<Vec<f32>>>;
type Oracle = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

enum Subject {
    Op(Run),
    Kernel(RunKernel),
}

/// One case: inputs, what is run, and what it should give in float64.
pub struct Case {
    pub name: String,
    inputs: Vec<Input>,
    subject: Subject,
    oracle: Oracle,
    forward: (f64, f64),
    gradient: (f64, f64),
    runs_on: fn(&Device) -> bool,
    /// Relative tolerance of a gradient that was added to itself.
    accumulated: f64,
}

impl Case {
    /// An operation on the tape, differentiated in every input that is not constant.
    pub fn op(
        name: impl Into<String>,
        inputs: impl IntoIterator<Item = Input>,
        run: impl Fn(&Tape, &[Var]) -> Result<Var> + 'static,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
    ) -> Case {
        Case::new(name.into(), inputs, Subject::Op(Box::new(run)), Box::new(oracle))
    }

    /// A function of tensors that is not differentiated.
    pub fn kernel(
        name: impl Into<String>,
        inputs: impl IntoIterator<Item = Input>,
        run: impl Fn(&Device, &[Tensor]) -> Result<Vec<f32>> + 'static,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
    ) -> Case {
        Case::new(name.into(), inputs, Subject::Kernel(Box::new(run)), Box::new(oracle))
    }

    fn new(name: String, inputs: impl IntoIterator<Item = Input>, subject: Subject, oracle: Oracle) -> Case {
        Case {
            name,
            inputs: inputs.into_iter().collect(),
            subject,
            oracle,
            forward: (1e-5, 1e-5),
            gradient: (1e-4, 1e-3),
            runs_on: |_| true,
            accumulated: 1e-5,
        }
    }

    /// Restricts the case to the devices that have what its kernels need.
    pub fn only_on(mut self, runs_on: fn(&Device) -> bool) -> Case {
        self.runs_on = runs_on;
        self
    }

    /// Absolute and relative tolerance of the forward result.
    pub fn tolerance(mut self, absolute: f64, relative: f64) -> Case {
        self.forward = (absolute, relative);
        self
    }

    /// Absolute tolerance of gradients, and the one relative to the largest entry.
    pub fn gradient_tolerance(mut self, absolute: f64, relative: f64) -> Case {
        self.gradient = (absolute, relative);
        self
    }

    /// The tolerances of an operation between casts to bf16 and back, whose inputs are [`Input::in_bf16`]: a
    /// result is rounded once, to half of 2^-7; a gradient on its way in, in the operation, and when it is
    /// added to another.
    pub fn in_bf16(self) -> Case {
        let half_step = 1.0 / 256.0;
        let case = self.tolerance(1e-6, 1.01 * half_step).gradient_tolerance(1e-4, 3.0 * half_step);
        Case { accumulated: 2.0 * half_step, ..case }
    }

    /// Runs everything that the module documentation promises on one device.
    pub fn check(&self, device: &Device) -> Result<(), String> {
        let wide: Vec<Vec<f64>> =
            self.inputs.iter().map(|i| i.values.iter().map(|v| *v as f64).collect()).collect();
        let want = (self.oracle)(&wide);
        let tensors = self.tensors(device).map_err(|e| e.to_string())?;
        let (got, gradients) = self.run(device, &tensors, &want)?;
        compare("forward", &got, &want, self.forward.1, self.forward.0)?;
        for (input, tensor) in self.inputs.iter().zip(&tensors) {
            let after = tensor.to_vec().map_err(|e| e.to_string())?;
            if !same_bits(&after, &input.values) {
                return Err("an input was changed".into());
            }
        }
        for (index, gradient) in gradients.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            self.check_gradient(index, gradient, &wide)?;
        }
        let (again, gradients_again) = self.run(device, &tensors, &want)?;
        let repeated = gradients.iter().zip(&gradients_again).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => same_bits(a, b),
            (None, None) => true,
            _ => false,
        });
        if !same_bits(&got, &again) || !repeated {
            return Err("a second run gave other bits".into());
        }
        Ok(())
    }

    fn tensors(&self, device: &Device) -> Result<Vec<Tensor>> {
        self.inputs.iter().map(|i| Tensor::from_slice(device, &i.shape, &i.values)).collect()
    }

    /// The result and, for an operation, the gradients under a random upstream gradient. Gradients are also
    /// checked to accumulate.
    #[allow(clippy::type_complexity)]
    fn run(
        &self,
        device: &Device,
        tensors: &[Tensor],
        want: &[f64],
    ) -> Result<(Vec<f32>, Vec<Option<Vec<f32>>>), String> {
        let text = |e: crate::error::Error| e.to_string();
        let run = match &self.subject {
            Subject::Kernel(run) => return Ok((run(device, tensors).map_err(text)?, vec![])),
            Subject::Op(run) => run,
        };
        let tape = Tape::new(device);
        let leaf = |(input, tensor): (&Input, &Tensor)| {
            if input.differentiable { tape.leaf(tensor.clone()) } else { tape.constant(tensor.clone()) }
        };
        let vars: Vec<Var> = self.inputs.iter().zip(tensors).map(leaf).collect();
        let once = run(&tape, &vars).map_err(text)?;
        let value = tape.value(once);
        let got = value.to_vec().map_err(text)?;
        if got.len() != want.len() {
            return Err(format!("{} values instead of {}", got.len(), want.len()));
        }
        if !tape.needs(once) {
            return Ok((got, vec![]));
        }
        let upstream = Tensor::from_slice(device, value.shape(), &upstream(got.len())).map_err(text)?;
        let gradients = tape.backward(once, Some(upstream.clone())).map_err(text)?;
        let first = vars
            .iter()
            .map(|v| gradients.get(*v).map(Tensor::to_vec).transpose())
            .collect::<Result<Vec<_>>>()
            .map_err(text)?;
        // The same operation once more on the same leaves: the gradient of the sum is twice the gradient of
        // one.
        let twice = run(&tape, &vars).map_err(text)?;
        let sum = crate::ops::add::add(&tape, once, twice).map_err(text)?;
        let gradients = tape.backward(sum, Some(upstream)).map_err(text)?;
        for (var, first) in vars.iter().zip(&first) {
            let (Some(first), Some(doubled)) = (first, gradients.get(*var)) else { continue };
            let doubled = doubled.to_vec().map_err(text)?;
            let want: Vec<f64> = first.iter().map(|g| 2.0 * *g as f64).collect();
            let absolute = 1e-6 + self.accumulated * max_abs(want.iter().copied());
            compare("accumulated gradient", &doubled, &want, self.accumulated, absolute)?;
        }
        Ok((got, first))
    }

    /// Compares with central differences of the float64 oracle, for up to 48 entries of an input.
    fn check_gradient(&self, index: usize, gradient: &[f32], wide: &[Vec<f64>]) -> Result<(), String> {
        const STEP: f64 = 1e-5;
        let count = gradient.len().min(48);
        let mut random = Random::new(index as u64 + 5);
        let entries: Vec<usize> = if gradient.len() <= 48 {
            (0..count).collect()
        } else {
            (0..count).map(|_| random.below(gradient.len())).collect()
        };
        let mut moved: Vec<Vec<f64>> = wide.to_vec();
        let mut weighted = |at: usize, by: f64| -> f64 {
            moved[index][at] += by;
            let values = (self.oracle)(&moved);
            moved[index][at] = wide[index][at];
            values.iter().zip(upstream(values.len())).map(|(v, u)| v * u as f64).sum()
        };
        let want: Vec<f64> =
            entries.iter().map(|at| (weighted(*at, STEP) - weighted(*at, -STEP)) / (2.0 * STEP)).collect();
        let got: Vec<f32> = entries.iter().map(|at| gradient[*at]).collect();
        if let Some(bad) = gradient.iter().position(|g| !g.is_finite()) {
            return Err(format!("gradient of input {index}: entry {bad} is {}", gradient[bad]));
        }
        let absolute = self.gradient.0 + self.gradient.1 * max_abs(want.iter().copied());
        compare(&format!("gradient of input {index}"), &got, &want, 0.0, absolute)
    }
}

/// [`close_with_nan`] with the name of what was compared in the error.
fn compare(what: &str, got: &[f32], want: &[f64], relative: f64, absolute: f64) -> Result<(), String> {
    close_with_nan(got, want, relative, absolute).map_err(|mismatch| format!("{what}: {mismatch}"))
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn upstream(n: usize) -> Vec<f32> {
    let mut random = Random::new(n as u64 + 3);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// A small generator for test values (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Element-wise shapes: one element, tails, several blocks, images with odd sizes and channels.
pub fn ugly_shapes() -> Vec<Vec<usize>> {
    vec![
        vec![1],
        vec![7],
        vec![33],
        vec![4097],
        vec![1, 1, 1, 1],
        vec![3, 7, 5, 3],
        vec![1, 32, 32, 33],
        vec![2, 3, 1, 257],
    ]
}

#[test]
fn every_operation_on_every_device() {
    let mut cases = super::all_cases();
    // SADDLE_TEST_OP=conv2d runs the cases of one operation while it is being written.
    if let Ok(only) = std::env::var("SADDLE_TEST_OP") {
        cases.retain(|(op, _)| *op == only);
        assert!(!cases.is_empty(), "SADDLE_TEST_OP={only}: no such operation");
    }
    let mut failures = Vec::new();
    for (label, device) in devices() {
        let mut count = 0;
        for (op, cases) in &cases {
            assert!(!cases.is_empty(), "{op} has no cases");
            for case in cases.iter().filter(|case| (case.runs_on)(&device)) {
                count += 1;
                if let Err(reason) = case.check(&device) {
                    failures.push(format!("{label}: {op}: {}: {reason}", case.name));
                }
            }
        }
        println!("{label}: {count} cases of {} operations", cases.len());
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
