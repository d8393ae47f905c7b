//! Averages of a network's weights over training: an exponential moving one, or a stochastic weight average.

use crate::config::{Averaging, Config};
use crate::error::Result;
use crate::method::Method;
use crate::nn::Net;
use crate::ops::sgd::ema;

/// How a network is averaged. Running statistics are averaged as the weights are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    /// `Ema` or `Swa`.
    pub kind: Averaging,
    /// EMA: what the average keeps of itself at each step.
    pub decay: f32,
    /// 0-based epoch in which averaging starts; before, the average is a copy.
    pub start: usize,
}

impl Average {
    /// The average that a key or the method asks for, if one does.
    pub fn of(config: &Config, method: &Method) -> Option<Average> {
        let kind = match config.average {
            Averaging::None if method.averaged => Averaging::Ema,
            kind => kind,
        };
        let average = Average { kind, decay: config.average_decay, start: config.average_start_epoch };
        (kind != Averaging::None).then_some(average)
    }

    /// EMA (ReBAT's): `wa <- d wa + (1 - d) net` after every step, d = 0 before the start. SWA: a copy before
    /// the start.
    pub fn after_step(&self, wa: &mut Net, net: &Net, epoch: usize) -> Result<()> {
        match (epoch >= self.start, self.kind) {
            (false, _) => follow(wa, net, 0.0),
            (true, Averaging::Ema) => follow(wa, net, self.decay),
            (true, _) => Ok(()),
        }
    }

    /// SWA (Izmailov et al., UAI 2018, arXiv 1803.05407): the mean of the networks at the ends of the epochs
    /// from the start on.
    pub fn after_epoch(&self, wa: &mut Net, net: &Net, epoch: usize) -> Result<()> {
        if self.kind != Averaging::Swa || epoch < self.start {
            return Ok(());
        }
        let seen = (epoch - self.start) as f32;
        follow(wa, net, seen / (seen + 1.0))
    }
}

fn follow(wa: &mut Net, net: &Net, decay: f32) -> Result<()> {
    wa.train_passes = net.train_passes;
    let pairs = wa.params.iter_mut().zip(net.params.iter()).map(|(wa, net)| (&mut wa.value, &net.value));
    ema(pairs.collect(), decay)
}
