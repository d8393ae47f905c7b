//! Events.

use super::driver;
use crate::call::Out;
use crate::capture::Event;
use crate::codes::Code;
use crate::handles::{self, Handle};
use std::sync::Arc;

/// `CU_EVENT_DISABLE_TIMING`, and all flags: blocking wait, no timing, between processes.
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
const FLAGS: u32 = 7;

fn elapsed(result: Out<f32>, start: Handle, end: Handle) -> crate::call::Outcome {
    let events = &driver()?.events;
    let (start, end) = (events.find(start, "event")?.time()?, events.find(end, "event")?.time()?);
    let sign = if end >= start { 1.0 } else { -1.0 };
    let span = end.max(start) - end.min(start);
    result.set(sign * span.as_secs_f32() * 1000.0)
}

calls! {
    Context cuEventCreate(result: Out<Handle>, flags: u32) {
        if flags & !FLAGS != 0 || flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS {
            return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags of an event")));
        }
        if flags & INTERPROCESS != 0 {
            return Err(Code::NOT_SUPPORTED.because("events between processes are not modelled"));
        }
        let driver = driver()?;
        let handle = handles::fresh();
        let event = Event::new(driver.current()?.handle, flags & DISABLE_TIMING == 0);
        driver.events.insert(handle, Arc::new(event));
        result.set(handle)
    }

    /// The event may go before its work is done.
    Cleanup cuEventDestroy_v2(event: Handle) {
        driver()?.events.remove(event, "event").map(|_| ())
    }

    Context cuEventRecord(event: Handle, stream: Handle) {
        let driver = driver()?;
        let (event, stream) = (driver.events.find(event, "event")?, driver.stream(stream)?);
        if event.context != stream.context {
            return Err(Code::INVALID_HANDLE.because("event and stream belong to different contexts"));
        }
        event.record(driver, &stream)
    }

    Context cuEventQuery(event: Handle) {
        if driver()?.events.find(event, "event")?.is_done()? { Ok(()) } else { Err(Code::NOT_READY.into()) }
    }

    Context cuEventSynchronize(event: Handle) {
        let driver = driver()?;
        driver.events.find(event, "event")?.wait()?;
        driver.fault().map_or(Ok(()), |code| Err(code.into()))
    }

    Context cuEventElapsedTime(result: Out<f32>, start: Handle, end: Handle) {
        elapsed(result, start, end)
    }

    Context cuEventElapsedTime_v2(result: Out<f32>, start: Handle, end: Handle) {
        elapsed(result, start, end)
    }
}
