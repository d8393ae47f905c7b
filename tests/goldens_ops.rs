//! Loss operations against PyTorch: values and gradients of `tests/goldens/ops.safetensors`, on the host and,
//! where there is one, on CUDA.

mod common;

use common::{Golden, Tolerance, assert_close};
use saddle::device::testing::devices_and_cuda_shapes;
use saddle::device::{Buffer, Device};
use saddle::ops::reduce::Reduction;
use saddle::ops::{cross_entropy::cross_entropy, js::js, kl::kl, margin::margin, mse::mse, predict};
use saddle::tape::{Tape, Var};
use saddle::tensor::Tensor;

const CASES: [&str; 3] = ["7x10", "5x3", "4x6"];

/// What `with_goldens` hands to a test: the file and one device.
struct Bench<'a> {
    file: &'a Golden,
    device: &'a Device,
    label: &'a str,
}

fn with_goldens(test: impl Fn(&Bench)) {
    let file = Golden::read("ops");
    for (label, device) in devices_and_cuda_shapes() {
        test(&Bench { file: &file, device: &device, label: &label });
    }
}

impl Bench<'_> {
    fn tensor(&self, name: &str) -> Tensor {
        Tensor::from_slice(self.device, &self.file.shape(name), &self.file.floats(name)).unwrap()
    }

    fn labels(&self, name: &str) -> Vec<i32> {
        self.file.integers(name).into_iter().map(|label| label as i32).collect()
    }

    /// Fails unless `got` is the golden `name` up to 1e-5 of the golden's largest value (at least 1e-7: steep
    /// logits have gradients that are the small difference of numbers of order 1).
    fn check(&self, name: &str, got: &Tensor) {
        let (got, want) = (got.to_vec().unwrap(), self.file.floats(name));
        let tolerance = Tolerance { relative: 1e-5, least: 1e-2 };
        assert_close(&format!("{}: {name}", self.label), &got, &want, tolerance);
    }

    /// A loss of two logit tensors: its mean, both gradients and, where there are any, its values per row.
    fn check_pair(
        &self,
        op: &str,
        loss: impl Fn(&Tape, Var, Var, Reduction) -> saddle::Result<Var>,
        rows: bool,
    ) {
        for case in CASES {
            let name = |tensor: &str| format!("{op}.{case}.{tensor}");
            let tape = Tape::new(self.device);
            let (u, v) = (tape.leaf(self.tensor(&name("u"))), tape.leaf(self.tensor(&name("v"))));
            if rows {
                let per_sample = loss(&tape, u, v, Reduction::PerSample).unwrap();
                self.check(&name("per_sample"), &tape.value(per_sample));
            }
            let mean = loss(&tape, u, v, Reduction::Mean).unwrap();
            self.check(&name("mean"), &tape.value(mean));
            let gradients = tape.backward(mean, None).unwrap();
            self.check(&name("grad_u"), gradients.get(u).unwrap());
            self.check(&name("grad_v"), gradients.get(v).unwrap());
        }
    }
}

#[test]
fn cross_entropy_is_pytorchs() {
    with_goldens(|bench| {
        for case in CASES {
            let name = |tensor: &str| format!("ce.{case}.{tensor}");
            let tape = Tape::new(bench.device);
            let logits = tape.leaf(bench.tensor(&name("logits")));
            let labels = Buffer::from_slice(bench.device, &bench.labels(&name("labels"))).unwrap();
            let per_sample = cross_entropy(&tape, logits, &labels, Reduction::PerSample).unwrap();
            bench.check(&name("per_sample"), &tape.value(per_sample));
            let mean = cross_entropy(&tape, logits, &labels, Reduction::Mean).unwrap();
            bench.check(&name("mean"), &tape.value(mean));
            bench.check(&name("grad"), tape.backward(mean, None).unwrap().get(logits).unwrap());
        }
    });
}

#[test]
fn kl_is_pytorchs() {
    with_goldens(|bench| bench.check_pair("kl", kl, true));
}

#[test]
fn js_is_pytorchs() {
    with_goldens(|bench| {
        bench.check_pair("js", |tape, u, v, reduction| js(tape, u, v, 0.5, reduction), true)
    });
}

#[test]
fn mse_is_pytorchs() {
    with_goldens(|bench| bench.check_pair("mse", |tape, u, v, _| mse(tape, u, v), false));
}

#[test]
fn margin_is_pytorchs_and_its_sign_says_what_is_correct() {
    with_goldens(|bench| {
        for case in CASES {
            let name = |tensor: &str| format!("margin.{case}.{tensor}");
            let tape = Tape::new(bench.device);
            let logits = tape.constant(bench.tensor(&name("logits")));
            let labels = Buffer::from_slice(bench.device, &bench.labels(&name("labels"))).unwrap();
            let margins = tape.value(margin(&tape, logits, &labels).unwrap());
            bench.check(&name("margin"), &margins);
            let right: Vec<i32> = margins.to_vec().unwrap().iter().map(|m| (*m > 0.0) as i32).collect();
            let flags = predict::correct(bench.device, &tape.value(logits), &labels).unwrap();
            assert_eq!(flags.to_vec().unwrap(), right);
            assert_eq!(vec![flags.to_vec().unwrap().iter().sum::<i32>()], [right.iter().sum::<i32>()]);
        }
    });
}
