//! MIM, the momentum iterative method (Dong et al.: Boosting Adversarial Attacks with Momentum, arXiv
//! 1710.06081): from the clean image, with mu = 1 and alpha = eps / T if nothing else is said,
//!
//! ```text
//! repeat T times:  m <- mu m + g / |g|_1;  x' <- the step of length alpha along m, as in PGD
//! ```

use super::iterated::{Iterated, ball};
use super::objective::Objective;
use super::{Entry, Pgd, Start};

pub(super) const MIM: Entry = Entry {
    name: "mimK",
    about: "K steps of length eps/K along the accumulated gradient, momentum 1.0; 10 steps if no number is given",
    paper: "Dong et al., arXiv 1710.06081",
    build: |settings| {
        let steps = settings.steps.unwrap_or(10);
        let step = settings.step.unwrap_or(settings.eps / steps as f32);
        // It draws nothing: a restart would be the same.
        Box::new(Iterated {
            name: format!("mim{steps}"),
            pgd: Pgd { steps, step, start: Start::Clean, ..ball(settings) },
            objective: Objective::CrossEntropy,
            momentum: Some(settings.momentum),
            restarts: 1,
            seed: settings.seed,
            stream: 0,
        })
    },
};
