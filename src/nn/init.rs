//! PyTorch's default initialisation, from a counter-based generator keyed by seed and parameter name.

use crate::rng::Stream;

/// How a parameter starts.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Uniform in (-bound, bound): PyTorch's default for convolutions and linear layers with bound = 1 /
    /// sqrt(fan in).
    Uniform { bound: f32, seed: u64 },
    /// The same value everywhere.
    Constant(f32),
}

impl Init {
    /// PyTorch's default for a layer whose outputs each read `fan_in` inputs.
    pub fn fan_in(fan_in: usize, seed: u64) -> Init {
        Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt(), seed }
    }

    /// The starting values of the parameter `name`.
    pub fn values(self, name: &str, n: usize) -> Vec<f32> {
        match self {
            Init::Constant(value) => vec![value; n],
            Init::Uniform { bound, seed } => {
                let mut stream = Stream::new(seed, name);
                (0..n).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect()
            }
        }
    }
}
