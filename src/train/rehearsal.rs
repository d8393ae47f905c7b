//! Training steps on random images, to be measured or looked at: no data are needed, and nothing is written.

use super::trainer::Trainer;
use crate::config::Config;
use crate::data;
use crate::device::{Buffer, Device};
use crate::error::Result;

/// A step of the last epoch, again and again: everything that a method begins late has begun.
pub struct Rehearsal<'a> {
    trainer: Trainer<'a>,
    batch: Buffer<i32>,
    epoch: usize,
}

impl<'a> Rehearsal<'a> {
    /// Random images have the sizes of the data set. Errors: as for a run.
    pub fn new(device: &Device, config: &'a Config) -> Result<Rehearsal<'a>> {
        super::validate(config)?;
        let images = || data::random(&config.dataset, config.data.as_deref(), config.batch + config.held_out);
        let trainer = Trainer::on(device, config, "", images)?;
        let batch = config.batch.min(trainer.train.len);
        let indices: Vec<i32> = (0..batch as i32).collect();
        let batch = Buffer::from_slice(device, &indices)?;
        Ok(Rehearsal { trainer, batch, epoch: config.epochs.saturating_sub(1) })
    }

    /// Trained numbers of the network.
    pub fn parameters(&self) -> usize {
        self.trainer.net.params.count()
    }

    /// One step.
    pub fn step(&mut self) -> Result<()> {
        self.trainer.step(self.epoch, 0, &self.batch).map(drop)
    }
}
