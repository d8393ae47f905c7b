//! The loss of Carlini and Wagner (Towards Evaluating the Robustness of Neural Networks, arXiv 1608.04644)
//! with PGD's steps: the attack descends max(z_y - max over k != y of z_k, -kappa).

use super::Entry;
use super::iterated::{Iterated, ball};
use super::objective::Objective;
use crate::attack::Pgd;

pub(super) const CW: Entry = Entry {
    name: "cwK",
    about: "K projected gradient steps on the margin, confidence kappa = 50; 100 steps if no number is given",
    paper: "Carlini and Wagner, arXiv 1608.04644",
    build: |settings| {
        let steps = settings.steps.unwrap_or(100);
        Box::new(Iterated {
            name: format!("cw{steps}"),
            pgd: Pgd { steps, ..ball(settings) },
            objective: Objective::Margin { kappa: settings.kappa },
            momentum: None,
            restarts: settings.restarts,
            seed: settings.seed,
            stream: 1,
        })
    },
};
