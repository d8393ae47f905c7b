//! Learning-rate schedules: the rate as a function of the fractional epoch.

use std::f64::consts::PI;

use crate::config::{Config, ScheduleKind};

/// The learning rate at `time`: epochs since the start of training, so that step `i` of `n` in epoch `e`
/// (both from 0) is at `e + i/n`.
///
/// multistep: `lr * gamma^k`, where `k` milestones have begun (milestone `m`, counted from 1, begins at
/// time `m - 1`); cosine: `lr/2 * (1 + cos(pi * time/epochs))`; linear: `lr * (1 - time/epochs)`; cyclic:
/// 0 at the start, `lr` at `peak * epochs`, 0 at the end, straight lines between. Times outside the run
/// count as its ends. After `pretraining` epochs the schedule begins anew, over the rest of the run.
pub fn lr(config: &Config, pretraining: usize, time: f64) -> f64 {
    let (run, before) = (config.epochs as f64, pretraining as f64);
    let (time, epochs) =
        if time < before || before >= run { (time, run.min(before)) } else { (time - before, run - before) };
    let part = (time / epochs).clamp(0.0, 1.0);
    let factor = match config.schedule {
        ScheduleKind::Multistep => {
            let begun = config.milestones.iter().filter(|&&milestone| time + 1.0 >= milestone as f64).count();
            config.lr_gamma.powi(begun as i32)
        }
        ScheduleKind::Cosine => 0.5 * (1.0 + (PI * part).cos()),
        ScheduleKind::Linear => 1.0 - part,
        ScheduleKind::Cyclic if part < config.cyclic_peak => part / config.cyclic_peak,
        ScheduleKind::Cyclic => (1.0 - part) / (1.0 - config.cyclic_peak),
        ScheduleKind::Constant => 1.0,
    };
    config.lr * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &[(&str, &str)], points: &[(f64, f64)]) {
        let mut config = Config::default();
        config.apply(settings).unwrap();
        for &(time, want) in points {
            let got = lr(&config, 0, time);
            assert!((got - want).abs() <= 1e-12, "{settings:?} at {time}: got {got}, expected {want}");
        }
    }

    #[test]
    fn multistep_lowers_the_rate_when_a_milestone_begins() {
        let points =
            [(0.0, 0.1), (99.99, 0.1), (100.0, 0.01), (104.999, 0.01), (105.0, 0.001), (110.0, 0.001)];
        check(&[], &points);
        check(&[("milestones", "1,2"), ("lr_gamma", "0.5")], &[(0.0, 0.05), (1.0, 0.025)]);
    }

    #[test]
    fn pretraining_has_a_schedule_of_its_own() {
        let mut config = Config::default();
        config.apply(&[("schedule", "cosine"), ("epochs", "30"), ("lr", "0.2")]).unwrap();
        let rate = |time| lr(&config, 20, time);
        for (time, want) in [(0.0, 0.2), (10.0, 0.1), (20.0, 0.2), (25.0, 0.1), (30.0, 0.0)] {
            assert!((rate(time) - want).abs() < 1e-12, "{time}: {}", rate(time));
        }
    }

    #[test]
    fn a_run_may_be_pretraining_to_its_end() {
        let mut config = Config::default();
        config.apply(&[("schedule", "cosine"), ("epochs", "20"), ("lr", "0.2")]).unwrap();
        let rate = |time| lr(&config, 20, time);
        for (time, want) in [(0.0, 0.2), (10.0, 0.1), (20.0, 0.0)] {
            assert!((rate(time) - want).abs() < 1e-12, "{time}: {}", rate(time));
        }
    }

    #[test]
    fn the_other_schedules() {
        let run = |kind| [("schedule", kind), ("epochs", "20"), ("lr", "0.2")];
        check(
            &run("cosine"),
            &[(0.0, 0.2), (5.0, 0.1 * (1.0 + 0.5f64.sqrt())), (10.0, 0.1), (20.0, 0.0), (25.0, 0.0)],
        );
        check(&run("linear"), &[(0.0, 0.2), (5.0, 0.15), (19.5, 0.005), (20.0, 0.0)]);
        check(&run("cyclic"), &[(0.0, 0.0), (4.0, 0.1), (8.0, 0.2), (14.0, 0.1), (20.0, 0.0)]);
        check(&run("constant"), &[(0.0, 0.2), (19.9, 0.2)]);
    }
}
