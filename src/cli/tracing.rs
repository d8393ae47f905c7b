//! The flags for traces and profilers, which every command has.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::HumanCount;

use super::text;
use crate::device::trace::{Steps, listen_to_all, profile_steps};
use crate::error::{Error, Result};
use crate::files::check_writable;
use crate::profile::trace_file::{TraceFile, Written};

const GROUP: &str = "Tracing";

/// The flags.
#[derive(clap::Args)]
pub struct TracingFlags {
    /// Write every launch with its layer, sizes and times to FILE, for ui.perfetto.dev
    #[arg(long, value_name = "FILE", global = true, help_heading = GROUP)]
    trace: Option<PathBuf>,
    /// --trace: of these training steps only, counted over the run from 1
    #[arg(long, value_name = "FIRST..LAST", global = true, help_heading = GROUP)]
    trace_steps: Option<String>,
    /// Start a profiler of CUDA (nsys, ncu) before the first of these training steps, stop it after the last
    #[arg(long, value_name = "FIRST..LAST", global = true, help_heading = GROUP)]
    profile_steps: Option<String>,
}

impl TracingFlags {
    /// Runs `command`, and traces it if that is wanted. A trace is written also where the command fails.
    pub fn around(&self, line: &str, command: impl FnOnce() -> Result<()>) -> Result<()> {
        let steps = |flag: &str, text: &Option<String>| -> Result<Option<Steps>> {
            let parsed = |text: &str| text.parse().map_err(|problem| Error::value(flag, text, problem));
            text.as_deref().map(parsed).transpose()
        };
        let traced = steps("--trace-steps", &self.trace_steps)?;
        profile_steps(steps("--profile-steps", &self.profile_steps)?);
        let Some(path) = &self.trace else {
            return match traced {
                Some(steps) => Err(Error::value("--trace-steps", steps, "needs --trace FILE, too")),
                None => command(),
            };
        };
        check_writable(path)?;
        let trace = Arc::new(Mutex::new(Some(TraceFile::create(path, traced, line)?)));
        listen_to_all(Some(trace.clone()));
        let outcome = command();
        listen_to_all(None);
        let trace = trace.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A command that failed before it launched anything leaves no file.
        let trace = trace.filter(|trace| outcome.is_ok() || trace.launches() > 0);
        if let Some(written) = trace.map(TraceFile::finish).transpose()? {
            text::print_note(&about(&written));
        }
        outcome
    }
}

fn about(Written { path, launches, left_out }: &Written) -> String {
    let path = path.display();
    let more = match left_out {
        0 => String::new(),
        more => format!("; {} more were left out, choose with --trace-steps", HumanCount(*more)),
    };
    format!("note: trace of {} launches in {path}, for ui.perfetto.dev{more}", HumanCount(*launches))
}
