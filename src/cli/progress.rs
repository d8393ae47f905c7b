//! The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for programs, or nothing.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::text;
use crate::run::observer::{AttackProgress, AttackSummary, EpochInfo, Observer, Silent, Started, StepInfo};

/// The observer for the flags `--quiet` and `--json` and for this standard error. `log_every` is the number
/// of steps from one step line to the next, 0 for none.
pub fn observer(quiet: bool, json: bool, log_every: usize) -> Box<dyn Observer> {
    match (quiet, json) {
        (true, _) => Box::new(Silent),
        (_, true) => Box::new(Json { log_every }),
        _ if io::stderr().is_terminal() => Box::new(Bar::new()),
        _ => Box::new(Plain { log_every, steps_per_epoch: 0, last_line: Instant::now() }),
    }
}

/// The job in two lines.
fn introduction(info: &Started) -> [String; 2] {
    let count = |number: usize| HumanCount(number as u64);
    let held_out = if info.held_out > 0 {
        format!(", {} held out to select the best epoch", count(info.held_out))
    } else {
        String::new()
    };
    let out = info.out.as_ref().map(|out| format!(", run directory {}", out.display())).unwrap_or_default();
    [
        format!(
            "{} with {} ({} parameters) on {}{out}",
            info.method,
            info.model,
            count(info.parameters),
            info.device
        ),
        format!(
            "{}: {} training images{held_out}, {} test images; {} epochs of {} steps",
            info.dataset,
            count(info.train),
            count(info.test),
            info.epochs,
            info.steps_per_epoch
        ),
    ]
}

/// An epoch in one line.
fn epoch_line(done: &EpochInfo) -> String {
    let width = done.epochs.to_string().len();
    let mut line = format!(
        "epoch {:>width$}/{}  lr {:<6}  loss {:.4}",
        done.epoch,
        done.epochs,
        text::number(done.lr),
        done.loss
    );
    if done.terms.len() > 1 {
        let terms: Vec<String> =
            done.terms.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        line += &format!(" ({})", terms.join(", "));
    }
    for (name, accuracy) in
        [("train", done.train_acc), ("clean", done.clean_acc), ("robust", done.robust_acc)]
    {
        if let Some(accuracy) = accuracy {
            line += &format!("  {name} {accuracy:5.2} %");
        }
    }
    let best = if done.best { "  best" } else { "" };
    line + &format!("  {} images/s  {}{best}", text::number(done.images_per_s), text::duration(done.seconds))
}

fn evaluating_line(what: &str, done: usize, of: usize) -> String {
    format!("evaluating {what}: {done} of {of} images")
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

/// A bar over the whole run, with a line above it for each epoch.
struct Bar {
    bar: ProgressBar,
    steps_per_epoch: usize,
}

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{msg}"));
        Bar { bar, steps_per_epoch: 0 }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

impl Observer for Bar {
    fn started(&mut self, info: &Started) {
        introduction(info).iter().for_each(|line| self.bar.println(line));
        self.steps_per_epoch = info.steps_per_epoch;
        self.bar.set_length((info.epochs * info.steps_per_epoch) as u64);
        self.bar.set_style(style("{prefix} {bar:24.cyan/dim} {msg}"));
    }

    fn step(&mut self, at: &StepInfo) {
        self.bar.set_prefix(format!("epoch {}/{}", at.epoch, at.epochs));
        self.bar.set_position((at.epoch.saturating_sub(1) * at.steps + at.step) as u64);
        let (speed, left) = (text::number(at.images_per_s), text::duration(at.seconds_left));
        self.bar.set_message(format!("loss {:.4}  {speed} images/s  {left} left", at.loss));
    }

    fn epoch(&mut self, done: &EpochInfo) {
        self.bar.println(epoch_line(done));
        self.bar.set_position((done.epoch * self.steps_per_epoch) as u64);
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.bar.set_message(evaluating_line(what, done, of));
    }

    fn attacking(&mut self, at: &AttackProgress) {
        self.bar.set_message(attack_line(at));
    }

    fn attacked(&mut self, done: &AttackSummary) {
        self.bar.println(summary_line(done));
    }

    fn note(&mut self, line: &str) {
        self.bar.println(line);
    }

    fn finished(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // So that an error message starts on a clean line.
        self.bar.finish_and_clear();
    }
}

/// The longest silence of an evaluation without a bar.
const SILENCE: Duration = Duration::from_secs(30);

/// A line on standard error for each epoch, and one from time to time in long evaluations.
struct Plain {
    log_every: usize,
    steps_per_epoch: usize,
    last_line: Instant,
}

impl Plain {
    /// Prints a line if none was printed for a while.
    fn print_after_silence(&mut self, line: impl FnOnce() -> String) {
        if self.last_line.elapsed() >= SILENCE {
            self.print(&line());
        }
    }

    fn print(&mut self, line: &str) {
        self.last_line = Instant::now();
        text::print_note(line);
    }
}

/// Whether a step gets a line.
fn is_logged(log_every: usize, at: &StepInfo) -> bool {
    log_every > 0 && (at.epoch.saturating_sub(1) * at.steps + at.step).is_multiple_of(log_every)
}

impl Observer for Plain {
    fn started(&mut self, info: &Started) {
        self.steps_per_epoch = info.steps_per_epoch;
        introduction(info).iter().for_each(|line| self.print(line));
    }

    fn step(&mut self, at: &StepInfo) {
        // Silence starts when training ends.
        self.last_line = Instant::now();
        if is_logged(self.log_every, at) {
            let (speed, left) = (text::number(at.images_per_s), text::duration(at.seconds_left));
            self.print(&format!(
                "epoch {}/{}  step {}/{}  loss {:.4}  {speed} images/s  {left} left",
                at.epoch, at.epochs, at.step, at.steps, at.loss
            ));
        }
    }

    fn epoch(&mut self, done: &EpochInfo) {
        self.print(&epoch_line(done));
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.print_after_silence(|| evaluating_line(what, done, of));
    }

    fn attacking(&mut self, at: &AttackProgress) {
        self.print_after_silence(|| attack_line(at));
    }

    fn attacked(&mut self, done: &AttackSummary) {
        self.print(&summary_line(done));
    }

    fn note(&mut self, line: &str) {
        self.print(line);
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
