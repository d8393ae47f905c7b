//! What the environment asks for. Every variable is read once, at the first call.

use crate::codes::Code;
use crate::device::Arch;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub struct Options {
    /// `SOFTGPU_ARCH`: 75, 80, 90 or 121.
    pub arch: Arch,
    /// `SOFTGPU_MEMORY`: the device's memory in bytes.
    pub memory: usize,
    /// `SOFTGPU_CHECKS`: off or on.
    pub checks: bool,
    /// `SOFTGPU_ORDER`: forward, reverse or shuffled:SEED.
    pub order: ptx::Order,
    /// `SOFTGPU_THREADS`: threads that run a kernel's blocks.
    pub threads: usize,
    /// `SOFTGPU_LIMIT`: the most instructions of a block's warps.
    pub limit: u64,
    /// `SOFTGPU_DELAY`: how late work starts that nobody waits for, in microseconds; `None` (wait) for never.
    pub delay: Option<Duration>,
    /// `SOFTGPU_FREE`: at-once instead of wait.
    pub free_at_once: bool,
    /// `SOFTGPU_FAIL`: which calls and kernels fail.
    pub injected: Vec<Injected>,
    /// `SOFTGPU_MUTANT`: a wait that is taken out of a kernel.
    pub mutant: Option<Mutant>,
    /// `SOFTGPU_REPORT`: the file for counts at exit.
    pub report: Option<PathBuf>,
    /// `SOFTGPU_TRACE`: a line for each call.
    pub trace: bool,
}

/// `NAME:N` or `NAME:N+`, with `=CODE`: the Nth call of a function, or the Nth run of a kernel, fails.
#[derive(Debug, PartialEq, Eq)]
pub struct Injected {
    pub name: String,
    pub nth: u64,
    /// All later ones too.
    pub later: bool,
    pub code: Code,
}

impl Injected {
    pub fn hits(&self, name: &str, nth: u64) -> bool {
        self.name == name && (nth == self.nth || self.later && nth > self.nth)
    }
}

impl FromStr for Injected {
    type Err = String;

    fn from_str(text: &str) -> Result<Injected, String> {
        let form =
            || format!("SOFTGPU_FAIL: {text}: write NAME:N or NAME:N+, and =CODE after it if not UNKNOWN");
        let (call, code) = text.split_once('=').unwrap_or((text, "CUDA_ERROR_UNKNOWN"));
        let code =
            Code::parse(code).ok_or_else(|| format!("SOFTGPU_FAIL: {code} is no result of the driver"))?;
        let (name, nth) = call.split_once(':').ok_or_else(form)?;
        let later = nth.ends_with('+');
        let nth = nth.trim_end_matches('+').parse().ok().filter(|nth| *nth > 0).ok_or_else(form)?;
        if name.starts_with("cu") && !crate::api::names().any(|known| known == name) {
            return Err(format!("SOFTGPU_FAIL: there is no {name}; SOFTGPU_FAIL=all lists all functions"));
        }
        Ok(Injected { name: name.into(), nth, later, code })
    }
}

/// `KERNEL:N`: a kernel without its Nth instruction that waits.
#[derive(Debug, PartialEq, Eq)]
pub struct Mutant {
    pub kernel: String,
    pub nth: usize,
}

impl FromStr for Mutant {
    type Err = String;

    fn from_str(text: &str) -> Result<Mutant, String> {
        let parts = text.split_once(':').and_then(|(kernel, nth)| Some((kernel, nth.parse().ok()?)));
        match parts {
            Some((kernel, nth)) if nth > 0 => Ok(Mutant { kernel: kernel.into(), nth }),
            _ => Err(format!("SOFTGPU_MUTANT={text}: write KERNEL:N, N from 1")),
        }
    }
}

const MEMORY: usize = 8 << 30;
const DELAY: Duration = Duration::from_millis(1);

impl Options {
    /// Errors: a variable has a value that it cannot have; the text is one line.
    pub fn of_environment() -> Result<Options, String> {
        let number = |name, default| parsed(name, default, "write a number");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let injected = variable("SOFTGPU_FAIL").unwrap_or_default();
        if injected == "all" {
            crate::api::names().for_each(|name| eprintln!("{name}"));
        }
        let injected = injected.split(',').filter(|item| !item.is_empty() && *item != "all");
        Ok(Options {
            arch: parsed("SOFTGPU_ARCH", Arch::DEFAULT, "write 75, 80, 90 or 121")?,
            memory: number("SOFTGPU_MEMORY", MEMORY)?,
            checks: choice("SOFTGPU_CHECKS", "on", "off")?,
            order: order(variable("SOFTGPU_ORDER").as_deref().unwrap_or("forward"))?,
            threads: number("SOFTGPU_THREADS", cores)?.max(1),
            limit: parsed("SOFTGPU_LIMIT", ptx::Options::default().limit, "write a number")?,
            delay: match variable("SOFTGPU_DELAY") {
                Some(text) if text == "wait" => None,
                Some(text) => Some(Duration::from_micros(
                    text.parse().map_err(|_| format!("SOFTGPU_DELAY={text}: write microseconds or wait"))?,
                )),
                None => Some(DELAY),
            },
            free_at_once: !choice("SOFTGPU_FREE", "wait", "at-once")?,
            injected: injected.map(str::parse).collect::<Result<_, _>>()?,
            mutant: variable("SOFTGPU_MUTANT").map(|text| text.parse()).transpose()?,
            report: variable("SOFTGPU_REPORT").map(PathBuf::from),
            trace: !choice("SOFTGPU_TRACE", "off", "on")?,
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn parsed<T: FromStr>(name: &str, default: T, remedy: &str) -> Result<T, String> {
    match variable(name) {
        Some(text) => text.parse().map_err(|_| format!("{name}={text}: {remedy}")),
        None => Ok(default),
    }
}

/// Whether a variable has its first, default value rather than the second.
fn choice(name: &str, first: &str, second: &str) -> Result<bool, String> {
    match variable(name) {
        Some(text) if text == second => Ok(false),
        Some(text) if text != first => Err(format!("{name}={text}: write {first} or {second}")),
        _ => Ok(true),
    }
}

fn order(text: &str) -> Result<ptx::Order, String> {
    let wrong = || format!("SOFTGPU_ORDER={text}: write forward, reverse or shuffled:SEED");
    match text {
        "forward" => Ok(ptx::Order::Forward),
        "reverse" => Ok(ptx::Order::Reverse),
        _ => text
            .strip_prefix("shuffled:")
            .and_then(|seed| seed.parse().ok())
            .map(ptx::Order::Shuffled)
            .ok_or_else(wrong),
    }
}
