//! A training step that can be repeated.

use crate::device::{Device, Graph};
use crate::error::{Error, Result, ensure};
use crate::nn::Net;

/// The networks of a run: the trained one, and its average if there is one.
pub trait Networks {
    fn nets(&mut self) -> impl Iterator<Item = &mut Net>;
}

/// A captured step.
pub struct CapturedStep {
    graph: Graph,
    /// Passes of each network in train mode.
    passes: Vec<i64>,
}

impl CapturedStep {
    /// Captures what `launch` does to `networks`, instead of doing it.
    ///
    /// Errors: the step leaves a tensor of a network elsewhere than it found it, so that it cannot be
    /// repeated.
    pub fn of<N: Networks>(
        device: &Device,
        networks: &mut N,
        launch: impl FnOnce(&mut N) -> Result<()>,
    ) -> Result<CapturedStep> {
        let state = |net: &mut Net| (net.train_passes, net.params.addresses());
        // The copies of weights that a step reads are made in it.
        let before: Vec<_> = networks.nets().map(|net| (net.params.drop_copies(), state(net)).1).collect();
        let graph = device.capture(|| launch(networks))?;
        let mut passes = Vec::new();
        for (net, (count, addresses)) in networks.nets().zip(before) {
            // Copies that were made in it belong to its replays.
            net.params.drop_copies();
            let moved = || Error::Internal { what: "a captured step moves a tensor of the network".into() };
            ensure(net.params.addresses() == addresses, moved)?;
            passes.push(net.train_passes - count);
            net.train_passes = count;
        }
        Ok(CapturedStep { graph, passes })
    }

    /// Does the step once more.
    pub fn replay(&self, networks: &mut impl Networks) -> Result<()> {
        self.graph.replay()?;
        networks.nets().zip(&self.passes).for_each(|(net, passes)| net.train_passes += passes);
        Ok(())
    }
}
