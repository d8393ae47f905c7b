//! Standard training: the cross entropy of clean images, loss = CE(z(x)`[train]`, y).

use super::{AdversarialLoss, Method, pgd_at};

pub const METHOD: Method = Method {
    name: "standard",
    about: "cross entropy on clean images, without any attack",
    prepare: |step| Ok(AdversarialLoss::on(step.x.clone(), pgd_at::loss)),
    ..Method::BASE
};
