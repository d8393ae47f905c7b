//! The way back into a run: its state, its checkpoints and its records are those that it left, and its data
//! are what they were.

use super::trainer::Trainer;
use super::with_absolute_paths;
use crate::error::{Error, Result, ensure};
use crate::eval::state::differences;
use crate::run::dir::RunDir;
use crate::run::observer::Observer;

impl Trainer<'_> {
    /// Takes up the run in `dir`, which this process has taken. A run that was killed before it had saved its
    /// state begins anew.
    ///
    /// Errors: data, a state or checkpoints that have changed, a state that is missing; nothing is written
    /// then.
    pub(super) fn take_up(&mut self, mut dir: RunDir, observer: &mut dyn Observer) -> Result<RunDir> {
        self.check_data(&dir, observer)?;
        if dir.state().exists() {
            self.resume(&dir.state())?;
            ["best", "last"].iter().try_for_each(|name| self.check_checkpoint(&dir, name))?;
        } else {
            check_unsaved(&dir)?;
            self.begin()?;
            observer.note("note: the run had not saved its state yet; it begins anew");
        }
        let complaints = dir.forget_after(self.progress.epochs_done)?;
        complaints.iter().for_each(|line| observer.note(line));
        let data = with_absolute_paths(self.config.clone()).data;
        if data != dir.config()?.data
            && let Some(path) = data
        {
            dir.set_data_path(&path)?;
        }
        Ok(dir)
    }

    /// Errors: the images are not those that the run began with.
    fn check_data(&self, dir: &RunDir, observer: &mut dyn Observer) -> Result<()> {
        let data = |config| with_absolute_paths(config).data;
        let moved = data(dir.config()?) != data(self.config.clone());
        match dir.data() {
            Some(there) => {
                let differ = differences(there, &self.data).join(", ");
                let problem = format!("its data have changed: {differ}; restore them, or start a new run");
                ensure(differ.is_empty(), || Error::file(dir.root(), problem))
            }
            None if moved => {
                let problem = "the run is of an older version and does not say what its data were: put them \
                               back where they were";
                Err(Error::file(dir.root(), problem))
            }
            None => {
                observer.note("note: the run is of an older version; whether its data changed is not known");
                Ok(())
            }
        }
    }
}

/// Errors: the run has no state although it must have saved one. The records of the first epoch are written
/// before the first state is.
fn check_unsaved(dir: &RunDir) -> Result<()> {
    let epochs = dir.last_recorded_epoch()?;
    let problem =
        format!("is missing, and epochs up to {epochs} are recorded; restore it, or start a new run");
    ensure(epochs <= 1 && !dir.is_finished(), || Error::file(&dir.state(), problem))
}
