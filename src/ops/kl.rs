//! Kullback-Leibler divergence of two tensors of logits.

use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::kl;

/// KL(softmax(p) || softmax(q)) of logits p and q, both `[N,K]`. A side that is a constant is not
/// differentiated.
pub fn kl(tape: &Tape, p: Var, q: Var, reduction: Reduction) -> Result<Var> {
    let (u, v) = (tape.value(p), tape.value(q));
    same_shape("kl", &u, &v)?;
    let (device, [n, k]) = (tape.device(), u.matrix("kl")?);
    let grid = n.div_ceil(kl::ROWS.on(device));
    let mut losses = Tensor::uninit(device, &[n])?;
    kl::forward(device, grid, &u, &v, &mut losses, n, k)?;
    per_row(tape, losses, &[p, q], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let (device, u, v) = (grad_out.device(), &u, &v);
        if let Some((grad_in, accumulate)) = sink.slot(p)? {
            kl::BackwardFirst { grad_out, u, v, grad_in, stride, factor, n, k, accumulate }
                .launch(device, grid)?;
        }
        if let Some((grad_in, accumulate)) = sink.slot(q)? {
            kl::BackwardSecond { grad_out, u, v, grad_in, stride, factor, n, k, accumulate }
                .launch(device, grid)?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::reduce::*;
    use super::testing::*;
    let case = |name: String, p: Input, q: Input, reduction: Reduction| {
        let k = p.shape[1];
        Case::op(
            format!("{name} {reduction:?}"),
            [p, q],
            move |tape, v| kl(tape, v[0], v[1], reduction),
            move |x| {
                let divergence = |(u, v): (&[f64], &[f64])| -> f64 {
                    let (u, v) = (log_softmax_wide(u), log_softmax_wide(v));
                    u.iter().zip(&v).map(|(u, v)| u.exp() * (u - v)).sum()
                };
                reduce_wide(x[0].chunks(k).zip(x[1].chunks(k)).map(divergence).collect(), reduction)
            },
        )
    };
    let mut cases = Vec::new();
    for reduction in [Reduction::Mean, Reduction::PerSample] {
        let pairs = ugly_logits(1).into_iter().zip(ugly_logits(2));
        cases.extend(pairs.map(|((name, p), (_, q))| case(name, p, q, reduction)));
    }
    let logits = |seed| Input::normal_seeded(&[4, 10], seed);
    cases.push(case("first side constant".into(), logits(1).constant(), logits(2), Reduction::Sum));
    cases.push(case("second side constant".into(), logits(1), logits(2).constant(), Reduction::Sum));
    cases.push(case("equal sides".into(), logits(1), logits(1), Reduction::Mean));
    cases.push(Case::op(
        "one variable on both sides",
        [logits(1)],
        |tape, v| kl(tape, v[0], v[0], Reduction::Mean),
        |_| vec![0.0],
    ));
    // A class that cannot occur in p adds nothing.
    let impossible = Input::values(&[1, 3], vec![f32::NEG_INFINITY, 0.0, 0.0]);
    cases.push(Case::kernel(
        "an impossible class",
        [impossible, Input::filled(&[1, 3], 0.0)],
        |device, x| {
            let tape = Tape::new(device);
            let (p, q) = (tape.constant(x[0].clone()), tape.constant(x[1].clone()));
            tape.value(kl(&tape, p, q, Reduction::Sum)?).to_vec()
        },
        |_| vec![1.5f64.ln()],
    ));
    cases
}
