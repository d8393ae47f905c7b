//! The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for programs, or nothing.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::lines::{attack_line, epoch_line, fitted, introduction, step_line, summary_line};
use super::text;
use crate::error::one_line;
use crate::run::observer::{AttackProgress, AttackSummary, EpochInfo, Observer, Silent, Started, StepInfo};

/// The observer for the flags `--quiet` and `--json` and for this standard error. `log_every` is the number
/// of steps from one step line to the next, 0 for none.
pub fn observer(quiet: bool, json: bool, log_every: usize) -> Box<dyn Observer> {
    match (quiet, json) {
        (true, _) => Box::new(Silent),
        (_, true) => Box::new(Json { log_every }),
        _ => {
            let bar = bar("{msg}");
            let width = width(bar.is_some());
            Box::new(Lines { bar, width, log_every, steps_per_epoch: 0, last_line: Instant::now() })
        }
    }
}

/// The observer of several runs.
pub fn series_observer(quiet: bool, runs: usize) -> Box<dyn Observer> {
    if quiet {
        return Box::new(Silent);
    }
    let bar = bar("{msg} {wide_bar:.cyan/dim}");
    if let Some(bar) = &bar {
        bar.set_length((runs as f64 * RUN_LENGTH) as u64);
    }
    let width = width(bar.is_some());
    Box::new(Series { bar, width, number: 0, what: String::new() })
}

/// A bar, if standard error is a terminal.
fn bar(template: &str) -> Option<ProgressBar> {
    let new =
        || ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(template));
    io::stderr().is_terminal().then(new)
}

/// The columns that a line may fill: those of standard error but one, or any number in a log.
fn width(is_terminal: bool) -> usize {
    if is_terminal { usize::from(Term::stderr().size().1).saturating_sub(1) } else { usize::MAX }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// The longest silence of an evaluation without a bar.
const SILENCE: Duration = Duration::from_secs(30);

/// A line on standard error for each epoch and attack. On a terminal a bar over the whole run is below them;
/// elsewhere long evaluations print a line from time to time.
struct Lines {
    bar: Option<ProgressBar>,
    /// Columns of the terminal.
    width: usize,
    log_every: usize,
    steps_per_epoch: usize,
    last_line: Instant,
}

impl Lines {
    fn print(&mut self, line: &str) {
        self.last_line = Instant::now();
        match &self.bar {
            Some(bar) => bar.println(one_line(line)),
            None => text::print_note(line),
        }
    }

    /// Shows a line in the bar, or prints it if none was printed for a while.
    fn show(&mut self, line: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => bar.set_message(line()),
            None if self.last_line.elapsed() >= SILENCE => self.print(&line()),
            None => {}
        }
    }
}

/// The number of steps up to and with this one, over all epochs.
fn steps_done(at: &StepInfo) -> usize {
    at.epoch.saturating_sub(1) * at.steps + at.step
}

/// Whether a step gets a line.
fn is_logged(log_every: usize, at: &StepInfo) -> bool {
    log_every > 0 && steps_done(at).is_multiple_of(log_every)
}

impl Observer for Lines {
    fn started(&mut self, info: &Started) {
        introduction(info)
            .iter()
            .for_each(|line| self.print(text::wrapped(line, "", "    ", self.width).trim_end()));
        self.steps_per_epoch = info.steps_per_epoch;
        if let Some(bar) = &self.bar {
            bar.set_length((info.epochs * info.steps_per_epoch) as u64);
            bar.set_style(style("{msg} {wide_bar:.cyan/dim}"));
            // The first step may take minutes.
            bar.set_message(fitted(vec![(0, format!("epoch 1/{}  first step", info.epochs))], self.width));
            bar.tick();
        }
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            bar.set_position(steps_done(at) as u64);
            bar.set_message(step_line(at, format!("epoch {}/{}", at.epoch, at.epochs), self.width));
            return;
        }
        // Silence starts when training ends.
        self.last_line = Instant::now();
        if is_logged(self.log_every, at) {
            let StepInfo { epoch, epochs, step, steps, .. } = at;
            self.print(&step_line(at, format!("epoch {epoch}/{epochs}  step {step}/{steps}"), self.width));
        }
    }

    fn epoch(&mut self, done: &EpochInfo) {
        self.print(&epoch_line(done, self.width));
        if let Some(bar) = &self.bar {
            bar.set_position((done.epoch * self.steps_per_epoch) as u64);
        }
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        let width = self.width;
        self.show(|| fitted(vec![(0, format!("evaluating {what}: {done} of {of} images"))], width));
    }

    fn attacking(&mut self, at: &AttackProgress) {
        let width = self.width;
        self.show(|| attack_line(at, width));
    }

    fn attacked(&mut self, done: &AttackSummary) {
        self.print(&summary_line(done));
    }

    fn note(&mut self, line: &str) {
        self.print(line);
    }

    fn finished(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // So that an error message starts on a clean line.
        self.finished();
    }
}

/// The length of a run in the bar of a series.
const RUN_LENGTH: f64 = 1000.0;

/// The progress of several runs: a bar on a terminal, a line per run elsewhere.
struct Series {
    bar: Option<ProgressBar>,
    /// Columns of the terminal.
    width: usize,
    /// The current run, counted from 1, and its name.
    number: usize,
    what: String,
}

impl Series {
    /// Shows what the current run does, and the time left for all.
    fn show(&self, doing: String) {
        let Some(bar) = &self.bar else { return };
        let left = text::duration(bar.eta().as_secs_f64());
        let parts = vec![(0, self.what.clone()), (2, format!("{left} left")), (1, doing)];
        bar.set_message(fitted(parts, self.width));
    }
}

impl Observer for Series {
    fn begins(&mut self, number: usize, of: usize, what: &str) {
        self.number = number;
        self.what = format!("run {number}/{of}: {what}");
        let Some(bar) = &self.bar else { return text::print_note(&self.what) };
        bar.set_position(((number - 1) as f64 * RUN_LENGTH) as u64);
        self.show("begins".into());
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            let part = steps_done(at) as f64 / (at.epochs * at.steps).max(1) as f64;
            bar.set_position(((self.number.saturating_sub(1) as f64 + part) * RUN_LENGTH) as u64);
        }
        self.show(format!("epoch {}/{}", at.epoch, at.epochs));
    }

    fn evaluating(&mut self, what: &str, _: usize, _: usize) {
        self.show(format!("evaluating {what}"));
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// A JSON object per event, one per line, on standard output.
struct Json {
    log_every: usize,
}

impl Json {
    /// Prints `fields` after the name of the event. A closed standard output does not stop the run.
    fn event(&self, name: &str, fields: &impl Serialize) {
        let mut object = serde_json::Map::new();
        object.insert("event".into(), Value::from(name));
        if let Ok(Value::Object(fields)) = serde_json::to_value(fields) {
            object.extend(fields);
        }
        text::print_json_line(&Value::Object(object)).ok();
    }
}

impl Observer for Json {
    fn started(&mut self, info: &Started) {
        self.event("started", info);
    }

    fn step(&mut self, at: &StepInfo) {
        if is_logged(self.log_every, at) {
            self.event("step", at);
        }
    }

    fn epoch(&mut self, done: &EpochInfo) {
        let mut fields = serde_json::to_value(done).unwrap_or_default();
        fields["terms"] = done.terms.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        self.event("epoch", &fields);
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.event("evaluating", &json!({"what": what, "done": done, "of": of}));
    }

    fn attacking(&mut self, at: &AttackProgress) {
        self.event("judging", at);
    }

    fn attacked(&mut self, done: &AttackSummary) {
        self.event("judged", done);
    }

    fn note(&mut self, line: &str) {
        self.event("note", &json!({"line": line}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_over_epochs() {
        let at = |epoch, step| StepInfo { epoch, step, steps: 11, ..StepInfo::default() };
        let logged: Vec<_> =
            (1..=22).filter(|i| is_logged(5, &at(1 + (i - 1) / 11, 1 + (i - 1) % 11))).collect();
        assert_eq!(logged, [5, 10, 15, 20]);
        assert!(!is_logged(0, &at(1, 1)));
    }
}
