//! FGSM (Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, arXiv 1412.6572): x' =
//! clip01(x + eps sign(g)); in L2 x' = clip01(x + eps g / |g|).

use super::iterated::Iterated;
use super::objective::Objective;
use super::{Entry, Norm, Pgd, Start};

pub(super) const FGSM: Entry = Entry {
    name: "fgsm",
    about: "one signed (L2: normalised) gradient step of length eps from the clean image",
    paper: "Goodfellow et al., arXiv 1412.6572",
    build: |settings| {
        let (name, pgd) = ("fgsm".into(), fgsm(settings.norm, settings.eps));
        // It draws nothing: a restart would be the same.
        Box::new(Iterated {
            name,
            pgd,
            objective: Objective::CrossEntropy,
            momentum: None,
            restarts: 1,
            seed: settings.seed,
            stream: 0,
        })
    },
};

/// One step of length eps from the clean image: PGD with K = 1.
pub fn fgsm(norm: Norm, eps: f32) -> Pgd {
    Pgd { norm, eps, step: eps, steps: 1, start: Start::Clean, ..Pgd::default() }
}
