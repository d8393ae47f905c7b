//! The two losses of MART (Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified
//! Examples", ICLR 2020).

use super::cross_entropy::labelled;
use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::mart;

/// Added to 1 - p of the strongest rival: `1.0001 - p + 1e-12`, as the authors' code has it.
const RIVAL_MARGIN: f32 = 1e-4 + 1e-12;
/// Added to 1 - p of the label: `1.0000001 - p`.
const LABEL_MARGIN: f32 = 1e-7;
/// Added to the adversarial probabilities before their logarithm.
const PROBABILITY_FLOOR: f32 = 1e-12;

/// The boosted cross entropy `CE(z', y) - log(1.0001 - max over k != y of p_k + 1e-12)`, p = softmax(z'), of
/// adversarial logits `[N,K]`, K >= 2. Among tied rivals the first gets the gradient. A label outside 0..K
/// gives NaN.
pub fn boosted_ce(tape: &Tape, z_adv: Var, labels: &Buffer<i32>, reduction: Reduction) -> Result<Var> {
    let z = tape.value(z_adv);
    let (device, [n, k]) = (tape.device(), z.matrix("boosted_ce")?);
    if k < 2 {
        return Err(Error::Shape {
            op: "boosted_ce",
            expected: "at least two classes".into(),
            got: vec![n, k],
        });
    }
    labelled("boosted_ce", labels, n)?;
    let (grid, margin) = (n.div_ceil(mart::ROWS.on(device)), RIVAL_MARGIN);
    let mut losses = Tensor::uninit(device, &[n])?;
    mart::boosted_ce_forward(device, grid, &z, labels, &mut losses, margin, n, k)?;
    let saved = tape.needs(z_adv).then(|| labels.duplicate()).transpose()?;
    per_row(tape, losses, &[z_adv], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let (Some(labels), Some((grad_in, accumulate))) = (&saved, sink.slot(z_adv)?) else { return Ok(()) };
        let logits = &z;
        mart::BoostedCeBackward {
            grad_out,
            logits,
            labels,
            grad_in,
            margin,
            stride,
            factor,
            n,
            k,
            accumulate,
        }
        .launch(grad_out.device(), grid)
    })
}

/// `KL(p || q + 1e-12) * (1.0000001 - p_y)` of p = softmax(z) and q = softmax(z'), both `[N,K]`: the less
/// sure the network is of a clean image, the more its prediction has to be stable. The gradient goes through
/// both sides, the weight included. A label outside 0..K gives NaN.
pub fn weighted_kl(
    tape: &Tape,
    z: Var,
    z_adv: Var,
    labels: &Buffer<i32>,
    reduction: Reduction,
) -> Result<Var> {
    let (u, v) = (tape.value(z), tape.value(z_adv));
    same_shape("weighted_kl", &u, &v)?;
    let (device, [n, k]) = (tape.device(), u.matrix("weighted_kl")?);
    labelled("weighted_kl", labels, n)?;
    let (grid, margin, floor) = (n.div_ceil(mart::ROWS.on(device)), LABEL_MARGIN, PROBABILITY_FLOOR);
    let mut losses = Tensor::uninit(device, &[n])?;
    mart::kl_forward(device, grid, &u, &v, labels, &mut losses, margin, floor, n, k)?;
    let saved = (tape.needs(z) || tape.needs(z_adv)).then(|| labels.duplicate()).transpose()?;
    per_row(tape, losses, &[z, z_adv], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let (Some(labels), device) = (&saved, grad_out.device()) else { return Ok(()) };
        if let Some((grad_in, accumulate)) = sink.slot(z)? {
            mart::KlBackwardClean {
                grad_out,
                z: &u,
                z_adv: &v,
                labels,
                grad_in,
                margin,
                floor,
                stride,
                factor,
                n,
                k,
                accumulate,
            }
            .launch(device, grid)?;
        }
        if let Some((grad_in, accumulate)) = sink.slot(z_adv)? {
            mart::KlBackwardAdv {
                grad_out,
                z: &u,
                z_adv: &v,
                labels,
                grad_in,
                margin,
                floor,
                stride,
                factor,
                n,
                k,
                accumulate,
            }
            .launch(device, grid)?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::*;
    use super::testing::*;
    // 1 - p_k is a sum here too: the float64 difference would have lost the digits that a margin of 1e-7 asks
    // for.
    let rest = |log_p: &[f64], k: usize| {
        log_p.iter().enumerate().filter(|(i, _)| *i != k).map(|(_, l)| l.exp()).sum::<f64>()
    };
    let boosted = move |row: &[f64], y: usize| -> f64 {
        let log_q = log_softmax_wide(row);
        let wrong = (0..row.len()).filter(|i| *i != y);
        let rival =
            wrong.fold(usize::MAX, |best, i| if best == usize::MAX || row[i] > row[best] { i } else { best });
        -log_q[y] - (rest(&log_q, rival) + 1e-4 + 1e-12).ln()
    };
    let weighted = move |z: &[f64], z_adv: &[f64], y: usize| -> f64 {
        let (log_p, log_q) = (log_softmax_wide(z), log_softmax_wide(z_adv));
        let divergence: f64 =
            log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - (q.exp() + 1e-12).ln())).sum();
        divergence * (rest(&log_p, y) + 1e-7)
    };
    let boosted_ce_case = |name: String, logits: Input, reduction: Reduction| {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        Case::op(
            format!("boosted CE {name} {reduction:?}"),
            [logits],
            move |tape, v| {
                boosted_ce(tape, v[0], &Buffer::from_slice(tape.device(), &test_labels(n, k))?, reduction)
            },
            move |x| {
                reduce_wide(
                    x[0].chunks(k).zip(test_labels(n, k)).map(|(z, y)| boosted(z, y as usize)).collect(),
                    reduction,
                )
            },
        )
    };
    let kl_case = |name: String, z: Input, z_adv: Input, reduction: Reduction| {
        let (n, k) = (z.shape[0], z.shape[1]);
        Case::op(
            format!("weighted_kl {name} {reduction:?}"),
            [z, z_adv],
            move |tape, v| {
                let labels = Buffer::from_slice(tape.device(), &test_labels(n, k))?;
                weighted_kl(tape, v[0], v[1], &labels, reduction)
            },
            move |x| {
                let rows = x[0].chunks(k).zip(x[1].chunks(k)).zip(test_labels(n, k));
                reduce_wide(rows.map(|((z, z_adv), y)| weighted(z, z_adv, y as usize)).collect(), reduction)
            },
        )
    };
    // Where rivals tie there is no derivative to compare with: boosted_ce is checked forward only.
    let kink = |name: &str| ["zeros", "constant -300", "ties"].contains(&name);
    let mut cases = Vec::new();
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::PerSample] {
        let pairs = ugly_logits(1).into_iter().zip(ugly_logits(2));
        cases.extend(pairs.map(|((name, z), (_, z_adv))| kl_case(name, z, z_adv, reduction)));
        let alone = ugly_logits(3).into_iter();
        cases.extend(alone.map(|(name, z)| {
            if kink(&name) {
                boosted_ce_case(name, z.constant(), reduction)
            } else {
                boosted_ce_case(name, z, reduction)
            }
        }));
    }
    let logits = |seed| Input::normal_seeded(&[4, 10], seed).scaled(2.0);
    cases.push(kl_case("clean side constant".into(), logits(1).constant(), logits(2), Reduction::Mean));
    cases.push(kl_case("adversarial side constant".into(), logits(1), logits(2).constant(), Reduction::Mean));
    cases.push(kl_case("equal sides".into(), logits(1), logits(1), Reduction::Mean));
    // Sure of the label (7 i + i / 10 + 1 mod 10) and sure of a rival, where 1 - p is far below the rounding
    // error of p.
    let sure = |size: f32, shift: i32| {
        let hot = |(i, y): (usize, i32)| {
            (0..10).map(
                move |k| if k == (y + shift) % 10 { size } else { 0.1 * ((k as usize * 3 + i) % 7) as f32 },
            )
        };
        Input::values(&[4, 10], test_labels(4, 10).into_iter().enumerate().flat_map(hot).collect())
    };
    for (size, shift) in [(12.0, 0), (20.0, 0), (12.0, 1), (20.0, 1), (40.0, 1)] {
        cases.push(boosted_ce_case(format!("sure {size} {shift}"), sure(size, shift), Reduction::PerSample));
        cases.push(kl_case(
            format!("sure {size} {shift}"),
            sure(size, shift),
            logits(2),
            Reduction::PerSample,
        ));
        cases.push(kl_case(
            format!("surely other {size} {shift}"),
            logits(2),
            sure(size, shift),
            Reduction::PerSample,
        ));
    }
    cases.push(Case::kernel(
        "gradients at ties, a NaN and a label outside",
        [Input::values(&[4, 3], vec![1.0, 1.0, 1.0, 5.0, 2.0, 5.0, 0.0, f32::NAN, 1.0, 0.0, 0.0, 0.0])],
        |device, x| {
            let tape = Tape::new(device);
            let (z, labels) = (tape.leaf(x[0].clone()), Buffer::from_slice(device, &[0, 1, 0, 3])?);
            let mut values = Vec::new();
            for loss in [
                boosted_ce(&tape, z, &labels, Reduction::PerSample)?,
                weighted_kl(&tape, z, z, &labels, Reduction::PerSample)?,
            ] {
                let gradients = tape.backward(loss, Some(super::fill::full(device, &[4], 1.0)?))?;
                values.extend(tape.value(loss).to_vec()?);
                values.extend(gradients.get(z).map(Tensor::to_vec).transpose()?.unwrap_or_default());
            }
            Ok(values)
        },
        |_| {
            let third = 1f64 / 3.0;
            // The second row is (a, b, a) with the label in the middle: the first of both rivals is pushed
            // down.
            let (a, b) = (1.0 / (2.0 + (-3f64).exp()), 1.0 / (2.0 * 3f64.exp() + 1.0));
            let (near, far) = (third / (2.0 * third + 1e-4 + 1e-12), a / (1.0 - a + 1e-4 + 1e-12));
            let mut want =
                vec![-third.ln() - (third / near).ln(), -b.ln() - (a / far).ln(), f64::NAN, f64::NAN];
            want.extend([third - 1.0 - near * third, third + near * (1.0 - third), third - near * third]);
            want.extend([a + far * (1.0 - a), b - 1.0 - far * b, a - far * a]);
            want.extend([f64::NAN; 6]);
            // Equal sides: the divergence is that of p from p + 1e-12, and so is its gradient.
            want.extend([0.0, 0.0, f64::NAN, f64::NAN]);
            want.extend([0.0; 6]);
            want.extend([f64::NAN; 6]);
            want
        },
    ));
    cases
}
