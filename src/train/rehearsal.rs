//! Training steps on random images, to be measured or looked at: no data are needed, and nothing is written.

use super::epoch::EpochSteps;
use super::trainer::Trainer;
use crate::config::Config;
use crate::data;
use crate::device::Device;
use crate::error::Result;

/// A step of the last epoch, again and again: everything that a method begins late has begun.
pub struct Rehearsal<'a> {
    trainer: Trainer<'a>,
    epoch: usize,
}

impl<'a> Rehearsal<'a> {
    /// Random images have the sizes of the data set. Errors: as for a run.
    pub fn new(device: &Device, config: &'a Config) -> Result<Rehearsal<'a>> {
        super::validate(config)?;
        let images = || data::random(&config.dataset, config.data.as_deref(), config.batch + config.held_out);
        let trainer = Trainer::on(device, config, "", images)?;
        Ok(Rehearsal { trainer, epoch: config.epochs.saturating_sub(1) })
    }

    /// Trained numbers of the network.
    pub fn parameters(&self) -> usize {
        self.trainer.net.params.count()
    }

    /// One step, the first of its epoch.
    pub fn step(&mut self) -> Result<()> {
        let mut steps = EpochSteps::new(&self.trainer, self.epoch)?;
        self.trainer.step(&mut steps, 0)
    }
}
