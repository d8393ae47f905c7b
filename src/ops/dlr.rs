//! The difference of logits ratio (Croce and Hein: Reliable evaluation of adversarial robustness with an
//! ensemble of diverse parameter-free attacks, arXiv 2003.01690), a loss that does not change when logits are
//! scaled or shifted.
//!
//! With the logits in falling order `z_(1) >= z_(2) >= ...`, of equal ones the first first:
//!
//! ```text
//! DLR   = -(z_y - max_{i != y} z_i) / (z_(1) - z_(3) + 1e-12)
//! DLR-T = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)
//! ```
//! The gradient flows through the denominators. Where logits tie, it goes to those that a stable sort puts
//! into the places named.

use super::cross_entropy::labelled;
use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::dlr;

/// DLR of the logits `[N,K]`, K >= 3, and the labels `[N]`. A label outside 0..K gives NaN.
pub fn dlr(tape: &Tape, logits: Var, labels: &Buffer<i32>, reduction: Reduction) -> Result<Var> {
    ratio(tape, logits, labels, None, reduction)
}

/// DLR-T of the logits `[N,K]`, K >= 4, the labels `[N]` and the targets `[N]`. A label or a target outside
/// 0..K gives NaN.
pub fn dlr_targeted(
    tape: &Tape,
    logits: Var,
    labels: &Buffer<i32>,
    targets: &Buffer<i32>,
    reduction: Reduction,
) -> Result<Var> {
    ratio(tape, logits, labels, Some(targets), reduction)
}

fn ratio(
    tape: &Tape,
    logits: Var,
    labels: &Buffer<i32>,
    targets: Option<&Buffer<i32>>,
    reduction: Reduction,
) -> Result<Var> {
    let z = tape.value(logits);
    let (op, least) = if targets.is_some() { ("targeted DLR", 4) } else { ("DLR", 3) };
    let (device, [n, k]) = (tape.device(), z.matrix(op)?);
    if k < least {
        return Err(Error::Shape {
            op,
            expected: format!("logits of at least {least} classes"),
            got: vec![n, k],
        });
    }
    labelled(op, labels, n)?;
    targets.map(|t| labelled(op, t, n)).transpose()?;
    let grid = n.div_ceil(dlr::ROWS.on(device));
    let mut losses = Tensor::uninit(device, &[n])?;
    dlr::forward(device, grid, &z, labels, targets, &mut losses, n, k)?;
    let copy = || -> Result<_> { Ok((labels.duplicate()?, targets.map(Buffer::duplicate).transpose()?)) };
    let saved = tape.needs(logits).then(copy).transpose()?;
    per_row(tape, losses, &[logits], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let (Some((labels, targets)), Some((grad_in, accumulate))) = (&saved, sink.slot(logits)?) else {
            return Ok(());
        };
        let (logits, targets) = (&z, targets.as_ref());
        dlr::Backward { grad_out, logits, labels, targets, grad_in, stride, factor, n, k, accumulate }
            .launch(grad_out.device(), grid)
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::*;
    use super::testing::*;
    /// A class that is not the label.
    fn test_targets(n: usize, k: usize) -> Vec<i32> {
        test_labels(n, k).iter().enumerate().map(|(i, y)| (y + 1 + (i % (k - 1)) as i32) % k as i32).collect()
    }
    let oracle = |row: &[f64], y: usize, target: Option<usize>| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let place = |i: usize| row[order[i - 1]];
        match target {
            None => {
                -(row[y] - if order[0] == y { place(2) } else { place(1) }) / (place(1) - place(3) + 1e-12)
            }
            Some(t) => -(row[y] - row[t]) / (place(1) - 0.5 * (place(3) + place(4)) + 1e-12),
        }
    };
    let case = |name: String, logits: Input, targeted: bool, reduction: Reduction| {
        let (n, k) = (logits.shape[0], logits.shape[1]);
        Case::op(
            format!("{name} targeted {targeted} {reduction:?}"),
            [logits],
            move |tape, v| {
                let of = |classes: Vec<i32>| Buffer::from_slice(tape.device(), &classes);
                let y = of(test_labels(n, k))?;
                if targeted {
                    dlr_targeted(tape, v[0], &y, &of(test_targets(n, k))?, reduction)
                } else {
                    dlr(tape, v[0], &y, reduction)
                }
            },
            move |x| {
                let target = |t: i32| targeted.then_some(t as usize);
                let rows = x[0].chunks(k).zip(test_labels(n, k)).zip(test_targets(n, k));
                reduce_wide(rows.map(|((row, y), t)| oracle(row, y as usize, target(t))).collect(), reduction)
            },
        )
    };
    // Where logits tie there is no derivative to compare with; where all do, the loss is 0 over 1e-12.
    let kink = |name: &str| ["zeros", "constant -300", "ties"].contains(&name);
    let mut cases = Vec::new();
    for (targeted, reduction) in [
        (false, Reduction::Mean),
        (false, Reduction::PerSample),
        (true, Reduction::Sum),
        (true, Reduction::PerSample),
    ] {
        let wide_enough = |input: &Input| input.shape[1] >= if targeted { 4 } else { 3 };
        for (name, logits) in ugly_logits(1).into_iter().filter(|(_, input)| wide_enough(input)) {
            // Ties among the first three make the denominator 1e-12, which float32 and float64 round
            // differently: zeros alone agree.
            if name == "ties" {
                continue;
            }
            let logits = if kink(&name) { logits.constant() } else { logits };
            cases.push(case(name, logits, targeted, reduction).tolerance(1e-5, 1e-4));
        }
    }
    // By hand: labels in every place of the order, ties, a NaN, classes that do not exist.
    let rows: [[f32; 5]; 7] = [
        [3.0, 1.0, 2.0, 0.0, -1.0],
        [3.0, 1.0, 2.0, 0.0, -1.0],
        [3.0, 3.0, 1.0, 1.0, 0.0],
        [3.0, 3.0, 1.0, 1.0, 0.0],
        [1.0, 2.0, 2.0, 3.0, 3.0],
        [0.0, f32::NAN, 1.0, 2.0, 3.0],
        [0.0, 1.0, 2.0, 3.0, 4.0],
    ];
    for targeted in [false, true] {
        let run = move |device: &Device, x: &[Tensor]| {
            let tape = Tape::new(device);
            let z = tape.leaf(x[0].clone());
            let (y, t) = (
                Buffer::from_slice(device, &[0, 1, 1, 2, 1, 0, 5])?,
                Buffer::from_slice(device, &[1, 0, 3, 1, 3, 3, 0])?,
            );
            let loss = if targeted {
                dlr_targeted(&tape, z, &y, &t, Reduction::PerSample)?
            } else {
                dlr(&tape, z, &y, Reduction::PerSample)?
            };
            let grads = tape.backward(loss, Some(super::fill::full(device, &[7], 1.0)?))?;
            let mut values = tape.value(loss).to_vec()?;
            values.extend(grads.get(z).map(Tensor::to_vec).transpose()?.unwrap_or_default());
            Ok(values)
        };
        cases.push(Case::kernel(
            format!("by hand, targeted {targeted}"),
            [Input::values(&[7, 5], rows.concat())],
            run,
            move |_| {
                let nan = f64::NAN;
                let (losses, gradients): ([f64; 7], [[f64; 5]; 5]) = if targeted {
                    // (z_y - z_t, D): (2, 2.5), (-2, 2.5), (2, 2), (-2, 2), (-1, 1).
                    (
                        [-0.8, 0.8, -1.0, 1.0, 1.0, nan, nan],
                        [
                            [-0.4 + 0.32, 0.4 - 0.16, 0.0, -0.16, 0.0],
                            [0.4 - 0.32, -0.4 + 0.16, 0.0, 0.16, 0.0],
                            [0.5, -0.5, -0.25, 0.5 - 0.25, 0.0],
                            [-0.5, 0.5, -0.5 + 0.25, 0.25, 0.0],
                            [0.0, -0.5, 0.5, 0.0, 0.0],
                        ],
                    )
                } else {
                    // (z_y - z_o, D): (1, 2), (-2, 2), (0, 2), (-2, 2), (-1, 1).
                    (
                        [-0.5, 1.0, 0.0, 1.0, 1.0, nan, nan],
                        [
                            [-0.5 + 0.25, -0.25, 0.5, 0.0, 0.0],
                            [0.0; 5],
                            [0.5, -0.5, 0.0, 0.0, 0.0],
                            [0.0; 5],
                            [0.0; 5],
                        ],
                    )
                };
                losses.into_iter().chain(gradients.as_flattened().to_vec()).chain([nan; 10]).collect()
            },
        ));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_classes_are_named() {
        let device = Device::host().unwrap();
        let tape = Tape::new(&device);
        let y = Buffer::from_slice(&device, &[0, 1]).unwrap();
        let z = |k: usize| tape.constant(Tensor::zeros(&device, &[2, k]).unwrap());
        let text = |result: Result<Var>| result.unwrap_err().to_string();
        assert_eq!(
            text(dlr(&tape, z(2), &y, Reduction::Sum)),
            "DLR: expected logits of at least 3 classes, got shape [2, 2]"
        );
        let targeted = text(dlr_targeted(&tape, z(3), &y, &y, Reduction::Sum));
        assert_eq!(targeted, "targeted DLR: expected logits of at least 4 classes, got shape [2, 3]");
        assert!(
            dlr(&tape, z(3), &y, Reduction::Sum).is_ok()
                && dlr_targeted(&tape, z(4), &y, &y, Reduction::Sum).is_ok()
        );
    }
}
