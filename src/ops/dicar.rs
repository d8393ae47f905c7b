//! DICAR, the regulariser of RAAT: what a network says of the mixed images against the mixture of what it
//! says of the two views.

use super::js::MIXTURE_FLOOR;
use super::prelude::*;
use super::split::Variant;
use super::subset::{RowsFrom, Subset, row_size};
use kernels::dicar;

/// The mean over S of the Jensen-Shannon divergence at temperature T > 0; 0 when S is empty; shape `[1]`.
///
/// Row j of the logits u `[B,K]` belongs to the member S_j, whose views are the rows S_j of z1 and of z2,
/// each a part of a value `[R,K]`; both may be parts of one value. `Code`: JS(softmax(u / T), softmax(v / T))
/// with v = r z1 + (1 - r) z2, as [`super::js::js`] computes it; `Paper`: on the second side the
/// probabilities r softmax(z1 / T) + (1 - r) softmax(z2 / T). r `[1]` is in 0..=1. The gradient flows
/// through u, z1 and z2.
#[allow(clippy::too_many_arguments)]
pub fn dicar(
    tape: &Tape,
    u: Var,
    z1: RowsFrom<Var>,
    z2: RowsFrom<Var>,
    subset: &Subset,
    r: &Tensor,
    temperature: f32,
    variant: Variant,
) -> Result<Var> {
    let [mixed, first, second] = [u, z1.of, z2.of].map(|var| tape.value(var));
    let (device, [n, k]) = (tape.device(), mixed.matrix("dicar")?);
    if n != subset.images() {
        return Err(Error::Shape {
            op: "dicar",
            expected: format!("[{},K]", subset.images()),
            got: vec![n, k],
        });
    }
    let (offset1, offset2) = (z1.first, z2.first);
    for view in [RowsFrom { of: &first, first: offset1 }, RowsFrom { of: &second, first: offset2 }] {
        view.of.matrix("dicar")?;
        row_size("dicar", view, n, Some(k))?;
    }
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(Error::value("temperature", temperature, "must be above 0"));
    }
    if r.len() != 1 {
        return Err(Error::Shape { op: "dicar", expected: "one r".into(), got: r.shape().to_vec() });
    }
    let (inv_temp, floor) = (1.0 / temperature, MIXTURE_FLOOR);
    let mix_probabilities = variant == Variant::Paper;
    let blocks = |device: &Device, rows: usize| rows.div_ceil(dicar::ROWS.on(device));
    let mut losses = Buffer::uninit(device, n)?;
    dicar::Forward {
        u: &mixed,
        z1: &first,
        offset1,
        z2: &second,
        offset2,
        members: &subset.count,
        index: &subset.index,
        loss: &mut losses,
        mix: r,
        inv_temp,
        floor,
        mix_probabilities,
        n,
        k,
    }
    .launch(device, blocks(device, n))?;
    let (set, r) = (subset.clone(), r.clone());
    tape.push(super::reduce::total(&losses, 1.0)?, &[u, z1.of, z2.of], move |grad_out, sink| {
        let device = grad_out.device();
        if let Some((grad_in, accumulate)) = sink.slot(u)? {
            dicar::BackwardMixed {
                grad_out,
                u: &mixed,
                z1: &first,
                offset1,
                z2: &second,
                offset2,
                members: &set.count,
                index: &set.index,
                grad_in,
                mix: &r,
                inv_temp,
                floor,
                mix_probabilities,
                n,
                k,
                accumulate,
            }
            .launch(device, blocks(device, n))?;
        }
        // One value that holds both views gets both gradients at once; bit 0 stands for view 1, bit 1 for
        // view 2.
        let targets = if z1.of == z2.of { vec![(z1.of, 3)] } else { vec![(z1.of, 1), (z2.of, 2)] };
        for (var, views) in targets {
            let Some((grad_in, accumulate)) = sink.slot(var)? else { continue };
            let rows = grad_in.len() / k.max(1);
            dicar::BackwardViews {
                grad_out,
                u: &mixed,
                z1: &first,
                offset1,
                z2: &second,
                offset2,
                members: &set.count,
                position: &set.position,
                grad_in,
                mix: &r,
                inv_temp,
                floor,
                mix_probabilities,
                views,
                images: n,
                n: rows,
                k,
                accumulate,
            }
            .launch(device, blocks(device, rows))?;
        }
        Ok(())
    })
}

/// The loss of logits u, z1 and z2 in float64; offsets count rows.
#[cfg(test)]
fn oracle(
    u: &[f64],
    z1: &[f64],
    z2: &[f64],
    [k, o1, o2]: [usize; 3],
    members: &[usize],
    settings: (f64, f64, Variant),
) -> Vec<f64> {
    use super::reduce::log_softmax_wide;
    let (r, temperature, variant) = settings;
    let log_softmax =
        |row: &[f64]| log_softmax_wide(&row.iter().map(|z| z / temperature).collect::<Vec<_>>());
    let mix = |a: &[f64], b: &[f64], f: fn(f64) -> f64| -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| r * f(*a) + (1.0 - r) * f(*b)).collect()
    };
    let divergence = |(j, member): (usize, &usize)| -> f64 {
        let (a, b) = (&z1[(member + o1) * k..][..k], &z2[(member + o2) * k..][..k]);
        let target = match variant {
            Variant::Code => log_softmax(&mix(a, b, |z| z)),
            Variant::Paper => {
                mix(&log_softmax(a), &log_softmax(b), f64::exp).into_iter().map(f64::ln).collect()
            }
        };
        let term = |(p, q): (&f64, &f64)| {
            let m = ((p.exp() + q.exp()) / 2.0).max(MIXTURE_FLOOR as f64).ln();
            0.5 * (p.exp() * (p - m) + q.exp() * (q - m))
        };
        log_softmax(&u[j * k..][..k]).iter().zip(&target).map(term).sum()
    };
    vec![members.iter().enumerate().map(divergence).sum::<f64>() / members.len().max(1) as f64]
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::subset::{number, of};
    use super::testing::*;
    let sets: [(usize, &'static [usize]); 7] = [
        (1, &[]),
        (1, &[0]),
        (5, &[]),
        (5, &[3]),
        (5, &[0, 2, 3]),
        (5, &[0, 1, 2, 3, 4]),
        (37, &[1, 2, 5, 8, 13, 20, 33, 36]),
    ];
    let settings = |r: f32, temperature: f32, variant| (r as f64, temperature as f64, variant);
    let logits = |shape: [usize; 2], seed: u64, scale: f32| Input::normal_seeded(&shape, seed).scaled(scale);
    let mut cases = Vec::new();
    for variant in [Variant::Code, Variant::Paper] {
        // Both views in one value.
        let mut both = |b: usize, k: usize, members: &'static [usize], r: f32, t: f32, scale: f32| {
            let name = format!(
                "{variant:?} {} of {b}, {k} classes, r = {r}, T = {t}, logits x {scale}",
                members.len()
            );
            let inputs = [logits([b, k], 1, scale), logits([2 * b, k], 2, scale)];
            let run = move |tape: &Tape, x: &[Var]| {
                dicar(
                    tape,
                    x[0],
                    RowsFrom::all(x[1]),
                    RowsFrom::new(x[1], b),
                    &of(tape.device(), members, b)?,
                    &number(tape.device(), r)?,
                    t,
                    variant,
                )
            };
            let want = move |x: &[Vec<f64>]| {
                oracle(&x[0], &x[1], &x[1], [k, 0, b], members, settings(r, t, variant))
            };
            cases.push(Case::op(name, inputs, run, want));
        };
        for (b, members) in sets {
            both(b, 10, members, 0.75, 0.5, 2.0);
        }
        for k in [2, 33, 100, 257] {
            both(5, k, sets[4].1, 0.6, 0.5, 1.0);
        }
        for (r, t, scale) in
            [(0.5, 1.0, 3.0), (1.0, 0.5, 3.0), (0.0, 0.5, 3.0), (0.9, 0.5, 20.0), (0.7, 0.1, 3.0)]
        {
            both(5, 10, sets[4].1, r, t, scale);
        }
        // Views in two values, the first at an offset; rows without a member, and those of u past the
        // last, hold NaN.
        for wanted in [[true; 3], [true, false, false], [false, true, false], [false, false, true]] {
            let (k, members) = (10, sets[4].1);
            let used = [vec![0, 1, 2], vec![2, 4, 5], vec![0, 2, 3]];
            let mut inputs = [logits([5, k], 3, 2.0), logits([8, k], 4, 2.0), logits([5, k], 5, 2.0)];
            for ((input, used), wanted) in inputs.iter_mut().zip(used).zip(wanted) {
                input.differentiable = wanted;
                input
                    .values
                    .iter_mut()
                    .enumerate()
                    .filter(|(at, _)| !used.contains(&(at / k)))
                    .for_each(|(_, v)| *v = f32::NAN);
            }
            let run = move |tape: &Tape, x: &[Var]| {
                dicar(
                    tape,
                    x[0],
                    RowsFrom::new(x[1], 2),
                    RowsFrom::all(x[2]),
                    &of(tape.device(), members, 5)?,
                    &number(tape.device(), 0.8)?,
                    0.5,
                    variant,
                )
            };
            let want = move |x: &[Vec<f64>]| {
                oracle(&x[0], &x[1], &x[2], [k, 2, 0], members, settings(0.8, 0.5, variant))
            };
            cases.push(Case::op(
                format!("{variant:?} two values, NaN elsewhere, gradients {wanted:?}"),
                inputs,
                run,
                want,
            ));
        }
        // A row that is view 1 of one image and view 2 of another.
        let run = move |tape: &Tape, x: &[Var]| {
            dicar(
                tape,
                x[0],
                RowsFrom::all(x[1]),
                RowsFrom::new(x[1], 1),
                &of(tape.device(), &[0, 1, 3], 4)?,
                &number(tape.device(), 0.7)?,
                0.5,
                variant,
            )
        };
        let want = move |x: &[Vec<f64>]| {
            oracle(&x[0], &x[1], &x[1], [10, 0, 1], &[0, 1, 3], settings(0.7, 0.5, variant))
        };
        cases.push(Case::op(
            format!("{variant:?} overlapping views"),
            [logits([4, 10], 6, 2.0), logits([5, 10], 7, 2.0)],
            run,
            want,
        ));
    }
    // With everything in S, u against the mixture of the logits is the divergence of js.rs.
    let run = |tape: &Tape, x: &[Var]| {
        let all = of(tape.device(), &[0, 1, 2, 3, 4, 5], 6)?;
        let (first, second, r) = (RowsFrom::all(x[1]), RowsFrom::all(x[2]), number(tape.device(), 0.75)?);
        let fused = dicar(tape, x[0], first, second, &all, &r, 0.5, Variant::Code)?;
        let v = super::axpby::axpby(tape, x[1], 0.75, x[2], 0.25)?;
        let plain = super::js::js(tape, x[0], v, 0.5, super::reduce::Reduction::Mean)?;
        let difference = super::fill::scale(tape, plain, -1.0)?;
        super::add::add(tape, fused, difference)
    };
    let three = [1, 2, 3].map(|seed| logits([6, 10], seed, 2.0));
    cases.push(
        Case::op("the same as js", three, run, |_| vec![0.0])
            .tolerance(1e-6, 0.0)
            .gradient_tolerance(1e-6, 0.0),
    );
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_and_shapes_are_errors() {
        let device = Device::host().unwrap();
        let tape = Tape::new(&device);
        let var = |shape: &[usize]| tape.constant(Tensor::zeros(&device, shape).unwrap());
        let set = super::super::subset::of(&device, &[1], 3).unwrap();
        let loss = |u: &[usize], z: &[usize], offset: usize, numbers: usize, temperature: f32| {
            let (z, r) = (var(z), Tensor::zeros(&device, &[numbers]).unwrap());
            dicar(
                &tape,
                var(u),
                RowsFrom::all(z),
                RowsFrom::new(z, offset),
                &set,
                &r,
                temperature,
                Variant::Code,
            )
        };
        assert!(loss(&[3, 4], &[6, 4], 3, 1, 0.5).is_ok());
        for temperature in [0.0, -1.0, f32::NAN] {
            assert!(
                loss(&[3, 4], &[6, 4], 3, 1, temperature).unwrap_err().to_string().contains("temperature")
            );
        }
        assert!(loss(&[3, 4], &[6, 4], 3, 2, 0.5).is_err());
        assert!(loss(&[3, 4], &[6, 4], 4, 1, 0.5).is_err());
        assert!(loss(&[3, 4], &[6, 5], 3, 1, 0.5).is_err());
        assert!(loss(&[2, 4], &[6, 4], 3, 1, 0.5).is_err());
    }
}
