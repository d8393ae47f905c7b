//! A trace in the JSON format of Chrome, which ui.perfetto.dev opens: one track of ranges, one of kernels.
//!
//! Events go to the file in parts and are not kept. Where several begin at the same time, Perfetto takes the
//! first of the file for the outer one: a part is sorted that way, and ends with a training step.

use crate::device::trace::{Event, Frame, Launch, Listener, Path as Place, Range, Span, Steps};
use crate::error::{Error, Result};
use crate::files::growing::GrowingFile;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Launches beyond this many are left out: about 400 MB, more than Perfetto likes to open.
pub const MOST_LAUNCHES: u64 = 1_000_000;

/// The most events of a part of the file.
const PART: usize = 1 << 16;

/// The tracks.
const RANGES: u32 = 1;
const KERNELS: u32 = 2;

/// A trace under way.
pub struct TraceFile {
    path: PathBuf,
    file: GrowingFile,
    steps: Option<Steps>,
    most: u64,
    part: Vec<Slice>,
    part_length: usize,
    /// The end of the last part, in nanoseconds.
    part_ended: i64,
    launches: u64,
    left_out: u64,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

/// An event of the file: begin and end in nanoseconds.
struct Slice {
    begin: i64,
    end: i64,
    depth: usize,
    track: u32,
    name: String,
    args: Value,
}

/// A trace that is written.
#[derive(Debug, PartialEq)]
pub struct Written {
    pub path: PathBuf,
    pub launches: u64,
    /// Launches that would have been too many.
    pub left_out: u64,
}

impl TraceFile {
    /// Begins the trace of a command; of the launches in these training steps, or of all.
    pub fn create(path: &Path, steps: Option<Steps>, command: &str) -> Result<TraceFile> {
        let mut trace = TraceFile {
            path: path.to_owned(),
            file: GrowingFile::create(path)?,
            steps,
            most: MOST_LAUNCHES,
            part: Vec::new(),
            part_length: PART,
            part_ended: i64::MIN,
            launches: 0,
            left_out: 0,
            failed: None,
        };
        trace.head(command).map_err(Error::io(path, "cannot write"))?;
        Ok(trace)
    }

    /// What comes before the events, and the names of the tracks.
    fn head(&mut self, command: &str) -> io::Result<()> {
        let about =
            json!({"command": command, "saddle": env!("CARGO_PKG_VERSION"), "commit": env!("SADDLE_COMMIT")});
        write!(self.file, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{about},\"traceEvents\":[")?;
        let named = |what: &str, track: u32, name: &str| {
            let args = json!({"name": name});
            json!({"name": what, "ph": "M", "pid": 1, "tid": track, "args": args})
        };
        let process = named("process_name", RANGES, "saddle");
        let (ranges, kernels) =
            (named("thread_name", RANGES, "ranges"), named("thread_name", KERNELS, "kernels"));
        write!(self.file, "\n{process},\n{ranges},\n{kernels}")
    }

    /// The launches until now.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Ends the file and gives it its name. Errors: it could not be written.
    pub fn finish(mut self) -> Result<Written> {
        self.end_part();
        let TraceFile { path, mut file, launches, left_out, failed, .. } = self;
        let ended = failed.map_or_else(|| file.write_all(b"\n]}\n"), Err);
        ended.map_err(Error::io(&path, "cannot write"))?;
        Ok(Written { path: file.finish()?, launches, left_out })
    }

    fn push(&mut self, track: u32, depth: usize, span: Span, name: String, args: Value) {
        let nanoseconds = |seconds: f64| (seconds * 1e9).round() as i64;
        let (mut begin, end) = (nanoseconds(span.begin), nanoseconds(span.end));
        if begin < self.part_ended {
            // Its beginning is in the file already, in what it holds: it began just before.
            begin -= 64 - depth.min(63) as i64;
        }
        self.part.push(Slice { begin, end, depth, track, name, args });
        if self.part.len() >= self.part_length {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        let mut part = std::mem::take(&mut self.part);
        part.sort_by_key(|slice| (slice.begin, std::cmp::Reverse(slice.end), slice.depth));
        self.part_ended = part.iter().map(|slice| slice.end).max().unwrap_or(self.part_ended);
        for slice in part {
            if self.failed.is_none() {
                self.failed = slice.write(&mut self.file).err();
            }
        }
    }

    fn launched(&mut self, launch: Launch) {
        let Some(span) = launch.span else { return };
        if self.launches >= self.most {
            self.left_out += 1;
            return;
        }
        self.launches += 1;
        let [x, y, z] = launch.grid;
        let mut args = json!({
            "place": launch.path.to_string(),
            "shape": launch.work.shape,
            "bytes_read": launch.work.read,
            "bytes_written": launch.work.written,
            "precision": launch.work.precision,
            "grid": format!("{x}x{y}x{z} of {} threads", launch.threads),
        });
        let layer = launch.path.layer().map(|layer| ("layer", json!(**layer)));
        let flop = launch.work.flop.map(|flop| ("flop", json!(flop)));
        for (name, value) in layer.into_iter().chain(flop) {
            args[name] = value;
        }
        self.push(KERNELS, 0, span, launch.kernel.into(), args);
    }

    fn closed(&mut self, frame: &Frame, path: &Place, span: Span) {
        self.push(RANGES, path.0.len(), span, frame.to_string(), json!({"place": path.to_string()}));
        if matches!(frame, Frame::Range(Range::Step(_))) {
            self.end_part();
        }
    }
}

impl Listener for TraceFile {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Launched(launch) if self.wants(launch.path.step()) => self.launched(launch),
            Event::Closed { frame, path, span } if self.wants(path.step()) && self.left_out == 0 => {
                self.closed(&frame, &path, span);
            }
            _ => {}
        }
    }

    fn wants(&self, step: Option<usize>) -> bool {
        self.steps.is_none_or(|steps| step.is_some_and(|step| steps.contains(step)))
    }
}

impl Slice {
    fn write(&self, file: &mut GrowingFile) -> io::Result<()> {
        let microseconds =
            |ns: i64| format!("{}{}.{:03}", if ns < 0 { "-" } else { "" }, ns.abs() / 1000, ns.abs() % 1000);
        let kind = if self.track == KERNELS { "kernel" } else { "range" };
        let (begin, length) = (microseconds(self.begin), microseconds(self.end - self.begin));
        write!(
            file,
            ",\n{{\"name\":{name},\"cat\":\"{kind}\",\"ph\":\"X\",\"ts\":{begin},\"dur\":{length},\
             \"pid\":1,\"tid\":{track},\"args\":{args}}}",
            name = json!(self.name),
            track = self.track,
            args = self.args,
        )
    }
}

#[cfg(test)]
mod tests;
