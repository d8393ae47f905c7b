//! The loss of Carlini and Wagner (Towards Evaluating the Robustness of Neural Networks, arXiv 1608.04644) with PGD's steps: the attack descends
//! max(z_y - max over k != y of z_k, -kappa).

use super::Entry;
use super::iterated::{Iterated, ball};
use super::objective::Objective;
use crate::attack::Pgd;

/// The confidence that reports on adversarial training use: a margin so far below 0 that the attack does not stop when it has succeeded.
const KAPPA: f32 = 50.0;

pub(super) const CW: Entry = Entry {
    name: "cwK",
    about: "K projected gradient steps on the margin, confidence 50; 100 steps if no number is given",
    paper: "Carlini and Wagner, arXiv 1608.04644",
    build: |settings| {
        let steps = settings.steps.unwrap_or(100);
        Box::new(Iterated {
            name: format!("cw{steps}"),
            pgd: Pgd { steps, ..ball(settings) },
            objective: Objective::Margin { kappa: KAPPA },
            momentum: None,
            restarts: settings.restarts,
            seed: settings.seed,
            stream: 1,
        })
    },
};
