//! Ctrl-C, and the signals with which batch systems (SIGTERM) and lost terminals (SIGHUP) end a program.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::text;

/// A flag that these signals raise; a second Ctrl-C ends the program. `at_once` says what that costs, such as
/// `without a checkpoint`.
pub fn stop_on_interrupt(at_once: &'static str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = listen(&stop, at_once) {
        text::print_note(&format!("note: Ctrl-C stops at once, {at_once}: {error}"));
    }
    stop
}

/// Lets signals raise `stop`. No thread is needed for that, only for the note about a second Ctrl-C, without
/// which a run can do.
fn listen(stop: &Arc<AtomicBool>, at_once: &'static str) -> io::Result<()> {
    // In this order: the first Ctrl-C finds the flag down and raises it. The others do not end the program: a
    // lost terminal sends SIGHUP twice, itself and through the shell.
    flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, stop.clone())?;
    let (mut received, sender) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM].into_iter().chain((!ignores_hangup()).then_some(SIGHUP)) {
        flag::register(signal, stop.clone())?;
        pipe::register(signal, sender.try_clone()?)?;
    }
    let announce = move || {
        if received.read_exact(&mut [0]).is_ok() {
            // Past the ^C that the terminal shows.
            text::print_note("");
            text::print_note(&format!("stopping; Ctrl-C again stops at once, {at_once}"));
        }
    };
    thread::Builder::new().spawn(announce).ok();
    Ok(())
}

/// Whether SIGHUP is ignored, as under `nohup`: such a run is to outlive its terminal.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (SIGHUP - 1) & 1 == 1)
}
