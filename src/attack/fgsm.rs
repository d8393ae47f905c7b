//! FGSM (Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, arXiv 1412.6572): x' = clip01(x + eps sign(g)).

use super::{Norm, Pgd, Start};

/// One step of length eps from the clean image: PGD with K = 1.
pub fn fgsm(norm: Norm, eps: f32) -> Pgd {
    Pgd { norm, eps, step: eps, steps: 1, start: Start::Clean, ..Pgd::default() }
}
