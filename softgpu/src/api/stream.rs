//! Streams and what they capture.

use super::driver;
use crate::call::{Out, Outcome};
use crate::capture::{Mode, exchange_mode};
use crate::codes::Code;
use crate::handles::{Handle, lock};
use crate::stream::{Kind, Stream};
use crate::work::{HostFn, Work};
use std::ffi::c_int;
use std::sync::Arc;

pub const LEAST_PRIORITY: c_int = 0;
pub const GREATEST_PRIORITY: c_int = -5;

fn create(result: Out<Handle>, flags: u32, priority: c_int) -> Outcome {
    let kind = match flags {
        0 => Kind::Blocking,
        1 => Kind::NonBlocking,
        _ => return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags of a stream"))),
    };
    let driver = driver()?;
    // The driver brings a priority into the range instead of refusing it.
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let stream = Stream::new(driver.current()?.handle, kind, flags, priority);
    result.set(stream.id)?;
    driver.streams.insert(stream.id, stream);
    Ok(())
}

/// A stream that must not capture, because the call waits for it or asks about it.
fn idle(handle: Handle) -> Outcome<Arc<Stream>> {
    let stream = driver()?.stream(handle)?;
    driver()?.refuse_wait(&stream)?;
    Ok(stream)
}

calls! {
    Context cuStreamCreate(result: Out<Handle>, flags: u32) {
        create(result, flags, 0)
    }

    Context cuStreamCreateWithPriority(result: Out<Handle>, flags: u32, priority: c_int) {
        create(result, flags, priority)
    }

    /// Returns at once; what the stream still has to do is done.
    Cleanup cuStreamDestroy_v2(handle: Handle) {
        let stream = driver()?.streams.remove(handle, "stream")?;
        if let Some(capture) = stream.capturing() {
            capture.invalidate("a stream of the capture was destroyed");
        }
        stream.close();
        Ok(())
    }

    Context cuStreamSynchronize(handle: Handle) {
        let (driver, stream) = (driver()?, idle(handle)?);
        if stream.kind == Kind::Legacy {
            driver.refuse_implicit_dependency(stream.context)?;
        }
        stream.wait(stream.submitted());
        driver.fault().map_or(Ok(()), |code| Err(code.into()))
    }

    /// Asking makes the work start.
    Context cuStreamQuery(handle: Handle) {
        let stream = idle(handle)?;
        if stream.ask(stream.submitted()) { Ok(()) } else { Err(Code::NOT_READY.into()) }
    }

    Context cuStreamWaitEvent(handle: Handle, event: Handle, flags: u32) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags of a wait")));
        }
        let driver = driver()?;
        let stream = driver.stream(handle)?;
        driver.events.find(event, "event")?.hold_up(driver, &stream)
    }

    Context cuStreamGetFlags(handle: Handle, flags: Out<u32>) {
        flags.set(driver()?.stream(handle)?.flags)
    }

    Context cuStreamGetPriority(handle: Handle, priority: Out<c_int>) {
        priority.set(driver()?.stream(handle)?.priority)
    }

    Context cuStreamGetCtx(handle: Handle, context: Out<Handle>) {
        context.set(driver()?.stream(handle)?.context)
    }

    Context cuLaunchHostFunc(handle: Handle, function: Option<HostFn>, data: u64) {
        let function = function.ok_or_else(|| Code::INVALID_VALUE.because("the function is null"))?;
        let driver = driver()?;
        driver.submit(&driver.stream(handle)?, Work::Callback(function, data)).map(|_| ())
    }

    Context cuStreamBeginCapture_v2(handle: Handle, mode: u32) {
        let mode = Mode::parse(mode)?;
        let driver = driver()?;
        driver.begin_capture(&driver.stream(handle)?, mode)
    }

    Context cuStreamEndCapture(handle: Handle, result: Out<Handle>) {
        let driver = driver()?;
        result.set(0)?;
        let graph = driver.end_capture(&*driver.stream(handle)?)?;
        let handle = crate::handles::fresh();
        driver.graphs.insert(handle, Arc::new(graph));
        result.set(handle)
    }

    /// Status: 0 for no capture, 1 for one that goes on, 2 for one that was invalidated.
    Context cuStreamIsCapturing(handle: Handle, status: Out<u32>) {
        let driver = driver()?;
        let stream = driver.stream(handle)?;
        if stream.kind == Kind::Legacy {
            driver.refuse_implicit_dependency(stream.context)?;
        }
        let capture = lock(&stream.capture).clone();
        status.set(capture.map_or(0, |capture| if capture.is_valid() { 1 } else { 2 }))
    }

    Init cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let old = exchange_mode(Mode::parse(mode.get()?)?);
        mode.set(old as u32)
    }
}
