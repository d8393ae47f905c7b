//! Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::text;

/// A flag that the first Ctrl-C raises; the second ends the program. `at_once` says what a second one costs,
/// such as `without a checkpoint`.
pub fn stop_on_interrupt(at_once: &'static str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        // Past the ^C that the terminal shows.
        text::print_note("");
        text::print_note(&format!("stopping; Ctrl-C again stops at once, {at_once}"));
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        text::print_note(&format!("note: Ctrl-C stops at once, {at_once}: {error}"));
    }
    stop
}
