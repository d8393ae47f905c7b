//! The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for programs, or nothing.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::text;
use crate::error::one_line;
use crate::run::observer::{AttackProgress, AttackSummary, EpochInfo, Observer, Silent, Started, StepInfo};

/// The observer for the flags `--quiet` and `--json` and for this standard error. `log_every` is the number
/// of steps from one step line to the next, 0 for none.
pub fn observer(quiet: bool, json: bool, log_every: usize) -> Box<dyn Observer> {
    match (quiet, json) {
        (true, _) => Box::new(Silent),
        (_, true) => Box::new(Json { log_every }),
        _ => Box::new(Lines { bar: bar("{msg}"), log_every, steps_per_epoch: 0, last_line: Instant::now() }),
    }
}

/// The observer of several runs.
pub fn series_observer(quiet: bool, runs: usize) -> Box<dyn Observer> {
    if quiet {
        return Box::new(Silent);
    }
    let bar = bar("{prefix} {bar:24.cyan/dim} {msg}, {eta} left");
    if let Some(bar) = &bar {
        bar.set_length((runs as f64 * RUN_LENGTH) as u64);
    }
    Box::new(Series { bar, number: 0 })
}

/// A bar, if standard error is a terminal.
fn bar(template: &str) -> Option<ProgressBar> {
    let new =
        || ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(template));
    io::stderr().is_terminal().then(new)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// The job in two lines.
fn introduction(info: &Started) -> [String; 2] {
    let Started { device, model, method, dataset, epochs, steps_per_epoch, .. } = info;
    let [parameters, train, held_out, test] =
        [info.parameters, info.train, info.held_out, info.test].map(|number| HumanCount(number as u64));
    let held_out = match info.held_out {
        0 => String::new(),
        _ => format!(", {held_out} held out to select the best epoch"),
    };
    let out = info.out.as_ref().map(|out| format!(", run directory {}", out.display())).unwrap_or_default();
    [
        format!("{method} with {model} ({parameters} parameters) on {device}{out}"),
        format!(
            "{dataset}: {train} training images{held_out}, {test} test images; {epochs} epochs of \
             {steps_per_epoch} steps"
        ),
    ]
}

/// The speed and the loss of a step.
fn step_line(at: &StepInfo) -> String {
    let (speed, left) = (text::number(at.images_per_s), text::duration(at.seconds_left));
    format!("loss {:.4}  {speed} images/s  {left} left", at.loss)
}

/// An epoch in one line.
fn epoch_line(done: &EpochInfo) -> String {
    let EpochInfo { epoch, epochs, loss, terms, .. } = done;
    let (width, lr) = (epochs.to_string().len(), text::number(done.lr));
    let mut line = format!("epoch {epoch:>width$}/{epochs}  lr {lr:<6}  loss {loss:.4}");
    if terms.len() > 1 {
        let terms: Vec<String> = terms.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        line += &format!(" ({})", terms.join(", "));
    }
    let accuracies = [("train", done.train_acc), ("clean", done.clean_acc), ("robust", done.robust_acc)];
    for (name, accuracy) in accuracies {
        line.extend(accuracy.map(|accuracy| format!("  {name} {accuracy:5.2} %")));
    }
    let best = if done.best { "  best" } else { "" };
    line + &format!("  {} images/s  {}{best}", text::number(done.images_per_s), text::duration(done.seconds))
}

/// The progress of an attack.
fn attack_line(at: &AttackProgress) -> String {
    let AttackProgress { attack, number, of, left, robust_acc, .. } = at;
    let (left, time) = (HumanCount(*left as u64), text::duration(at.seconds_left));
    format!("{attack} ({number} of {of}): {left} points left, robust {robust_acc:.2} %  {time} left")
}

/// The result of an attack in one line.
fn summary_line(done: &AttackSummary) -> String {
    let attacked = HumanCount(done.attacked as u64);
    let (name, time) = (&done.attack, text::duration(done.seconds));
    format!("{name:<10} robust {:5.2} %  {attacked} points attacked  {time}", done.robust_acc)
}

/// The longest silence of an evaluation without a bar.
const SILENCE: Duration = Duration::from_secs(30);

/// A line on standard error for each epoch and attack. On a terminal a bar over the whole run is below them;
/// elsewhere long evaluations print a line from time to time.
struct Lines {
    bar: Option<ProgressBar>,
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
        introduction(info).iter().for_each(|line| self.print(line));
        self.steps_per_epoch = info.steps_per_epoch;
        if let Some(bar) = &self.bar {
            bar.set_length((info.epochs * info.steps_per_epoch) as u64);
            bar.set_style(style("{prefix} {bar:24.cyan/dim} {msg}"));
        }
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("epoch {}/{}", at.epoch, at.epochs));
            bar.set_position(steps_done(at) as u64);
            bar.set_message(step_line(at));
            return;
        }
        // Silence starts when training ends.
        self.last_line = Instant::now();
        if is_logged(self.log_every, at) {
            let StepInfo { epoch, epochs, step, steps, .. } = at;
            self.print(&format!("epoch {epoch}/{epochs}  step {step}/{steps}  {}", step_line(at)));
        }
    }

    fn epoch(&mut self, done: &EpochInfo) {
        self.print(&epoch_line(done));
        if let Some(bar) = &self.bar {
            bar.set_position((done.epoch * self.steps_per_epoch) as u64);
        }
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.show(|| format!("evaluating {what}: {done} of {of} images"));
    }

    fn attacking(&mut self, at: &AttackProgress) {
        self.show(|| attack_line(at));
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
    /// The current run, counted from 1.
    number: usize,
}

impl Observer for Series {
    fn begins(&mut self, number: usize, of: usize, what: &str) {
        self.number = number;
        let line = format!("run {number}/{of}: {what}");
        let Some(bar) = &self.bar else { return text::print_note(&line) };
        bar.set_prefix(line);
        bar.set_position(((number - 1) as f64 * RUN_LENGTH) as u64);
        bar.set_message("");
    }

    fn step(&mut self, at: &StepInfo) {
        if let Some(bar) = &self.bar {
            let part = steps_done(at) as f64 / (at.epochs * at.steps).max(1) as f64;
            bar.set_position(((self.number.saturating_sub(1) as f64 + part) * RUN_LENGTH) as u64);
            bar.set_message(format!("epoch {}/{}", at.epoch, at.epochs));
        }
    }

    fn evaluating(&mut self, what: &str, _: usize, _: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("evaluating {what}"));
        }
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
    fn an_epoch_is_one_line() {
        let mut done = EpochInfo {
            epoch: 3,
            epochs: 20,
            lr: 0.09756,
            loss: 1.5,
            images_per_s: 3512.3,
            seconds: 0.4,
            ..EpochInfo::default()
        };
        assert_eq!(epoch_line(&done), "epoch  3/20  lr 0.0976  loss 1.5000  3,512 images/s  0.4 s");
        done.terms = vec![("ce".into(), 1.0), ("kl".into(), 0.5)];
        (done.clean_acc, done.robust_acc, done.best) = (Some(97.5), Some(8.25), true);
        let line = "epoch  3/20  lr 0.0976  loss 1.5000 (ce 1.0000, kl 0.5000)  clean 97.50 %  \
                    robust  8.25 %  3,512 images/s  0.4 s  best";
        assert_eq!(epoch_line(&done), line);
    }

    #[test]
    fn steps_are_counted_over_epochs() {
        let at = |epoch, step| StepInfo { epoch, step, steps: 11, ..StepInfo::default() };
        let logged: Vec<_> =
            (1..=22).filter(|i| is_logged(5, &at(1 + (i - 1) / 11, 1 + (i - 1) % 11))).collect();
        assert_eq!(logged, [5, 10, 15, 20]);
        assert!(!is_logged(0, &at(1, 1)));
    }
}
