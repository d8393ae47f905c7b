//! Flags for the parameters of attacks other than the ball and the step size.

use crate::attack::Params;
use crate::config::Config;

const GROUP: &str = "Parameters of attacks";

/// The parameters that were given; the others have the attack's own defaults.
#[derive(clap::Args)]
pub struct AttackFlags {
    /// Steps, or queries of square; a number in the attack's name takes precedence [default: the attack's]
    #[arg(long, value_name = "COUNT", help_heading = GROUP)]
    steps: Option<usize>,
    /// Random starts, each on the images that withstood the earlier ones [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = GROUP)]
    restarts: Option<usize>,
    /// Target classes of apgd-t and fab-t, from the runner-up on [default: 9]
    #[arg(long, value_name = "COUNT", help_heading = GROUP)]
    targets: Option<usize>,
    /// Passes to average each gradient of apgd-ce, apgd-dlr and apgd-t over, for randomized defenses
    /// [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = GROUP)]
    eot_iter: Option<usize>,
    /// Confidence of cw: a margin below -kappa (κ) counts as -kappa [default: 50]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = GROUP)]
    kappa: Option<f32>,
    /// Part of the accumulated gradient that mim keeps at each step (μ) [default: 1]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = GROUP)]
    momentum: Option<f32>,
}

impl AttackFlags {
    /// Name and value of each parameter that was given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, String)> {
        let text = |value: Option<String>, name| Some((name, value?));
        let count = |value: Option<usize>, name| text(value.map(|value| value.to_string()), name);
        let number = |value: Option<f32>, name| text(value.map(|value| value.to_string()), name);
        let counts = [
            (self.steps, "steps"),
            (self.restarts, "restarts"),
            (self.targets, "targets"),
            (self.eot_iter, "eot-iter"),
        ];
        let numbers = [(self.kappa, "kappa"), (self.momentum, "momentum")];
        let counts = counts.map(|(value, name)| count(value, name)).into_iter();
        counts.chain(numbers.map(|(value, name)| number(value, name))).flatten()
    }

    /// The parameters of an attack: those given, the ball and seed of `config`, and its step size if that was
    /// given, too.
    pub fn params(&self, config: &Config, step_given: bool) -> Params {
        let default = Params::default();
        Params {
            ball: config.ball(),
            step_size: step_given.then_some(config.step_size.get()),
            steps: self.steps,
            restarts: self.restarts.unwrap_or(default.restarts),
            targets: self.targets.unwrap_or(default.targets),
            eot_iter: self.eot_iter.unwrap_or(default.eot_iter),
            kappa: self.kappa.unwrap_or(default.kappa),
            momentum: self.momentum.unwrap_or(default.momentum),
            seed: config.seed,
        }
    }
}
