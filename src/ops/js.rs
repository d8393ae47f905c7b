//! Jensen-Shannon divergence of two tensors of logits at a temperature.

use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::js;

/// The mixture's logarithm is taken of at least this (Consistency-AT's definition).
pub(super) const MIXTURE_FLOOR: f32 = 1e-8;

/// JS(softmax(u/T), softmax(v/T)) of logits u and v, both `[N,K]`, with the temperature T > 0.
pub fn js(tape: &Tape, u: Var, v: Var, temperature: f32, reduction: Reduction) -> Result<Var> {
    let (a, b) = (tape.value(u), tape.value(v));
    same_shape("js", &a, &b)?;
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(Error::value("temperature", temperature, "must be above 0"));
    }
    let (device, [n, k]) = (tape.device(), a.matrix("js")?);
    let (grid, inv_temp, floor) = (n.div_ceil(js::ROWS.on(device)), 1.0 / temperature, MIXTURE_FLOOR);
    let mut losses = Tensor::uninit(device, &[n])?;
    js::forward(device, grid, &a, &b, &mut losses, inv_temp, floor, n, k)?;
    per_row(tape, losses, &[u, v], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        for (side, own, other) in [(u, &a, &b), (v, &b, &a)] {
            let Some((grad_in, accumulate)) = sink.slot(side)? else { continue };
            js::Backward { grad_out, own, other, grad_in, inv_temp, floor, stride, factor, n, k, accumulate }
                .launch(grad_out.device(), grid)?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::reduce::*;
    use super::testing::*;
    let case = |name: String, u: Input, v: Input, temperature: f32, reduction: Reduction| {
        let k = u.shape[1];
        Case::op(
            format!("{name} T = {temperature} {reduction:?}"),
            [u, v],
            move |tape, x| js(tape, x[0], x[1], temperature, reduction),
            move |x| {
                let log_softmax = |row: &[f64]| {
                    log_softmax_wide(&row.iter().map(|z| z / temperature as f64).collect::<Vec<_>>())
                };
                let divergence = |(u, v): (&[f64], &[f64])| -> f64 {
                    let term = |(u, v): (&f64, &f64)| {
                        let m = ((u.exp() + v.exp()) / 2.0).max(MIXTURE_FLOOR as f64).ln();
                        0.5 * (u.exp() * (u - m) + v.exp() * (v - m))
                    };
                    log_softmax(u).iter().zip(&log_softmax(v)).map(term).sum()
                };
                reduce_wide(x[0].chunks(k).zip(x[1].chunks(k)).map(divergence).collect(), reduction)
            },
        )
    };
    let mut cases = Vec::new();
    for (temperature, reduction) in [(0.5, Reduction::Mean), (1.0, Reduction::PerSample)] {
        let pairs = ugly_logits(1).into_iter().zip(ugly_logits(2));
        cases.extend(pairs.map(|((name, u), (_, v))| case(name, u, v, temperature, reduction)));
    }
    let logits = |seed| Input::normal_seeded(&[4, 10], seed).scaled(3.0);
    cases.push(case("steep".into(), logits(1).scaled(5.0), logits(2).scaled(5.0), 0.5, Reduction::Sum));
    cases.push(case("first side constant".into(), logits(1).constant(), logits(2), 0.5, Reduction::Mean));
    cases.push(case("second side constant".into(), logits(1), logits(2).constant(), 0.5, Reduction::Mean));
    cases.push(case("equal sides".into(), logits(1), logits(1), 0.5, Reduction::Mean));
    cases
}
