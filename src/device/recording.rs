//! What a device that runs its work at once has recorded for a graph.

use super::{Arg, Grid, Kernel};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// One piece of recorded work.
pub(super) enum Recorded {
    Launch { kernel: &'static Kernel, grid: Grid, args: Vec<Arg> },
    Zero { address: u64, bytes: usize },
    Copy { from: u64, to: u64, bytes: usize },
}

#[derive(Default)]
pub(super) struct Recorder {
    capturing: AtomicBool,
    recording: Mutex<Vec<Recorded>>,
}

impl Recorder {
    pub fn capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    pub fn push(&self, item: Recorded) {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }

    pub fn begin(&self) -> Result<()> {
        self.refuse_while_capturing("start a second capture")?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn end(&self) -> Vec<Recorded> {
        self.capturing.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.recording.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn refuse_while_capturing(&self, what: &str) -> Result<()> {
        if self.capturing() {
            return Err(Error::Internal { what: format!("cannot {what} while a graph is captured") });
        }
        Ok(())
    }
}
