//! The checks of a configuration before anything is loaded: the data set, ranges, and what the method asks.

use super::average::Average;
use crate::config::{Averaging, Config, Stage};
use crate::data;
use crate::error::Result;
use crate::method::{self, Method};

/// Checks a configuration; the names of methods and models are checked where they are looked up.
///
/// Errors: an unknown data set; [`Value`](crate::Error::Value) about the first key that is wrong.
pub fn validate(config: &Config) -> Result<()> {
    data::find(&config.dataset)?;
    config.validate()?;
    method::find(&config.method).map_or(Ok(()), |method| check_method(config, method))
}

/// Checks what a method asks of the other keys.
fn check_method(config: &Config, method: &Method) -> Result<()> {
    let averaged = Average::of(config, method).is_some();
    let staged = |stage| method.keys.contains(&"stage") && config.stage == stage;
    let exponential = !method.averaged || config.average != Averaging::Swa;
    let problem = "this method's averaged network is an exponential one; leave it out";
    config.require("average", exponential, problem)?;
    let begins = !averaged || config.average_start_epoch < config.epochs;
    config.require("average_start_epoch", begins, "the run has ended by then; it counts epochs from 0")?;
    let both_stages = !staged(Stage::Auto) || (1..config.epochs).contains(&config.linear_epochs);
    config.require("linear_epochs", both_stages, "must be 1 or more and below epochs")?;
    let backbone = !staged(Stage::Linear) || config.init.is_some();
    config.require("stage", backbone, "needs a pre-trained backbone; give --init RUN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let message = |settings: &[(&str, &str)]| {
            let mut config = Config::default();
            config.apply(settings).unwrap();
            validate(&config).unwrap_err().to_string()
        };
        let unknown = message(&[("dataset", "cifar1")]);
        assert!(unknown.starts_with("unknown data set 'cifar1' (did you mean 'cifar10'?)"), "{unknown}");
        assert_eq!(message(&[("lr", "-1")]), "lr = -1: must not be negative");
        assert_eq!(
            message(&[("method", "rebat"), ("average", "swa")]),
            "average = swa: this method's averaged network is an exponential one; leave it out"
        );
        assert_eq!(
            message(&[("method", "afa"), ("stage", "linear")]),
            "stage = linear: needs a pre-trained backbone; give --init RUN"
        );
    }
}
