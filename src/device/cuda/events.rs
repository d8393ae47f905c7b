//! Times of a stream: events that are recorded between launches and read much later.

use super::{Cuda, failed};
use crate::device::trace;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, profiler_start, profiler_stop, sys};
use std::collections::VecDeque;
use std::sync::Arc;

/// Events of a stream in the order in which they were recorded, with numbers from 0 on.
pub struct Events {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Those whose times were read; they are used again.
    free: Vec<CudaEvent>,
    recorded: VecDeque<CudaEvent>,
    /// The number of the first of `recorded`.
    first: u64,
    /// An event before all of `recorded`, and its time.
    base: Option<(CudaEvent, f64)>,
}

/// An elapsed time is a float of milliseconds. Beyond this many it would lose what the clock of a GPU has,
/// and is counted from a later event.
const PRECISE: f32 = 500.0;

impl Events {
    pub fn new(cuda: &Cuda) -> Events {
        Events {
            context: cuda.context.clone(),
            stream: cuda.stream.clone(),
            free: Vec::new(),
            recorded: VecDeque::new(),
            first: 0,
            base: None,
        }
    }

    /// Events whose times have not been read.
    pub fn unread(&self) -> usize {
        self.recorded.len()
    }

    fn event(&mut self) -> Result<CudaEvent> {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        match self.free.pop() {
            Some(event) => Ok(event),
            None => self.context.new_event(timed).map_err(failed("cuEventCreate")),
        }
    }

    fn record_now(&mut self) -> Result<CudaEvent> {
        let event = self.event()?;
        event.record(&self.stream).map_err(failed("cuEventRecord"))?;
        Ok(event)
    }

    /// Records an event, and returns its number.
    pub fn record(&mut self) -> Result<u64> {
        if self.base.is_none() {
            // The only wait: the program's clock and the stream's begin together.
            let base = self.record_now()?;
            base.synchronize().map_err(failed("cuEventSynchronize"))?;
            self.base = Some((base, trace::now()));
        }
        let event = self.record_now()?;
        self.recorded.push_back(event);
        Ok(self.first + self.recorded.len() as u64 - 1)
    }

    /// The times of the first `count` events that have not been read, in seconds, and the number of the
    /// first. Waits for the last of them.
    pub fn resolve(&mut self, count: usize) -> Result<(u64, Vec<f64>)> {
        let first = self.first;
        let mut times = Vec::with_capacity(count);
        let lost = || Error::Internal { what: "an event of the timeline is missing".into() };
        if let Some(last) = count.checked_sub(1).and_then(|last| self.recorded.get(last)) {
            last.synchronize().map_err(failed("cuEventSynchronize"))?;
        }
        while times.len() < count {
            let event = self.recorded.pop_front().ok_or_else(lost)?;
            self.first += 1;
            let (base, began) = self.base.take().ok_or_else(lost)?;
            let elapsed = base.elapsed_ms(&event).map_err(failed("cuEventElapsedTime"))?;
            let time = began + f64::from(elapsed) * 1e-3;
            times.push(time);
            let (base, old) = if elapsed > PRECISE { ((event, time), base) } else { ((base, began), event) };
            self.base = Some(base);
            self.free.push(old);
        }
        Ok((first, times))
    }
}

/// Tells a profiler of CUDA that what follows is of interest; without one nothing happens.
pub fn start_profiler() {
    // There is nothing to do about a refusal, and the run is as good without.
    let _ = profiler_start();
}

pub fn stop_profiler() {
    let _ = profiler_stop();
}
