//! The lines of a run's progress, which fit narrow terminals.

use indicatif::HumanCount;

use super::text;
use crate::run::observer::{AttackProgress, AttackSummary, EpochInfo, Started, StepInfo};

/// Parts of a line two spaces apart, on as few lines of at most `width` columns as hold them; further lines
/// are indented, and no part is broken.
fn in_lines(parts: &[String], width: usize) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let length = part.chars().count();
        let (gap, start) = match used {
            0 => ("", 0),
            _ if used + 2 + length <= width => ("  ", used + 2),
            _ => ("\n    ", 4),
        };
        lines += gap;
        lines += part;
        used = start + length;
    }
    lines
}

/// As many of the parts, two spaces apart, as fit into `width` columns, the most important ones first in
/// `parts` with their place in the line.
pub fn fitted(mut parts: Vec<(usize, String)>, width: usize) -> String {
    let length = |parts: &[(usize, String)]| {
        parts.iter().map(|(_, part)| part.chars().count() + 2).sum::<usize>().saturating_sub(2)
    };
    while parts.len() > 1 && length(&parts) > width {
        parts.pop();
    }
    parts.sort_by_key(|(place, _)| *place);
    let line = parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join("  ");
    line.chars().take(width).collect()
}

/// The job in two lines.
pub fn introduction(info: &Started) -> [String; 2] {
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

/// The place, the speed and the loss of a step, or the most important of them.
pub fn step_line(at: &StepInfo, place: String, width: usize) -> String {
    let (speed, left) = (text::number(at.images_per_s), text::duration(at.seconds_left));
    let parts = vec![
        (0, place),
        (3, format!("{left} left")),
        (1, format!("loss {:.4}", at.loss)),
        (2, format!("{speed} images/s")),
    ];
    fitted(parts, width)
}

/// An epoch in one line, or in more where a terminal is narrow.
pub fn epoch_line(done: &EpochInfo, columns: usize) -> String {
    let EpochInfo { epoch, epochs, loss, terms, .. } = done;
    let (width, lr) = (epochs.to_string().len(), text::number(done.lr));
    let mut parts =
        vec![format!("epoch {epoch:>width$}/{epochs}"), format!("lr {lr:<6}"), format!("loss {loss:.4}")];
    if terms.len() > 1 {
        let terms: Vec<String> = terms.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        parts[2] += &format!(" ({})", terms.join(", "));
    }
    let accuracies = [("train", done.train_acc), ("clean", done.clean_acc), ("robust", done.robust_acc)];
    let accuracies = accuracies.into_iter().filter_map(|(name, accuracy)| Some((name, accuracy?)));
    parts.extend(accuracies.map(|(name, accuracy)| format!("{name} {accuracy:5.2} %")));
    parts.push(format!("{} images/s", text::number(done.images_per_s)));
    parts.push(text::duration(done.seconds));
    parts.extend(done.best.then(|| "best".to_owned()));
    in_lines(&parts, columns)
}

/// The progress of an attack, or the most important of it.
pub fn attack_line(at: &AttackProgress, width: usize) -> String {
    let AttackProgress { attack, number, of, left, robust_acc, .. } = at;
    let (left, time) = (HumanCount(*left as u64), text::duration(at.seconds_left));
    let parts = vec![
        (0, format!("{attack} ({number} of {of})")),
        (3, format!("{time} left")),
        (2, format!("robust {robust_acc:.2} %")),
        (1, format!("{left} points left")),
    ];
    fitted(parts, width)
}

/// The result of an attack in one line.
pub fn summary_line(done: &AttackSummary) -> String {
    let attacked = HumanCount(done.attacked as u64);
    let (name, time) = (&done.attack, text::duration(done.seconds));
    format!("{name:<10} robust {:5.2} %  {attacked} points attacked  {time}", done.robust_acc)
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
        assert_eq!(
            epoch_line(&done, usize::MAX),
            "epoch  3/20  lr 0.0976  loss 1.5000  3,512 images/s  0.4 s"
        );
        done.terms = vec![("ce".into(), 1.0), ("kl".into(), 0.5)];
        (done.clean_acc, done.robust_acc, done.best) = (Some(97.5), Some(8.25), true);
        let line = "epoch  3/20  lr 0.0976  loss 1.5000 (ce 1.0000, kl 0.5000)  clean 97.50 %  \
                    robust  8.25 %  3,512 images/s  0.4 s  best";
        assert_eq!(epoch_line(&done, usize::MAX), line);
    }

    #[test]
    fn lines_fit_narrow_terminals() {
        let done = EpochInfo {
            epoch: 3,
            epochs: 110,
            terms: vec![("ce".into(), 1.0), ("kl".into(), 0.5)],
            train_acc: Some(40.0),
            clean_acc: Some(97.5),
            robust_acc: Some(8.25),
            best: true,
            seconds: 4000.0,
            ..EpochInfo::default()
        };
        let long = StepInfo {
            epoch: 1,
            epochs: 110,
            loss: 2.25,
            images_per_s: 12.3,
            seconds_left: 545_520.0,
            ..StepInfo::default()
        };
        let attack = AttackProgress { attack: "autoattack".into(), number: 1, of: 4, ..Default::default() };
        for width in [46, 80, 100] {
            let lines = epoch_line(&done, width);
            assert!(lines.lines().all(|line| line.chars().count() <= width), "{width}:\n{lines}");
            let whole: Vec<&str> = lines.split_whitespace().collect();
            let one = epoch_line(&done, usize::MAX);
            assert_eq!(whole, one.split_whitespace().collect::<Vec<_>>(), "nothing is lost or broken");
            let step = step_line(&long, "epoch 1/110".into(), width);
            assert!(step.starts_with("epoch 1/110  ") && step.ends_with("151 h 32 min left"), "{step}");
            for line in [step, attack_line(&attack, width)] {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        assert_eq!(step_line(&long, "epoch 1/110".into(), 46), "epoch 1/110  loss 2.2500  151 h 32 min left");
        assert_eq!(fitted(vec![(0, "a long word".into())], 6), "a long");
        assert_eq!(in_lines(&["one".into(), "two".into(), "three".into()], 9), "one  two\n    three");
    }
}
