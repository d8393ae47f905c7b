//! The cases of `batch_norm`, and its oracle in float64.

use super::*;
use crate::ops::add::add;
use crate::ops::cast::{to_bf16, to_f32};
use crate::ops::testing::*;

type Wide = Vec<Vec<f64>>;

/// x, weight, bias, running mean, running variance to what batch norm gives, and the new running statistics.
pub(in crate::ops) fn oracle(values: &[Vec<f64>], mode: BnMode) -> (Vec<f64>, Wide) {
    let [x, w, b, running_mean, running_var] = values else { panic!("five inputs") };
    let (channels, rows) = (w.len(), x.len() / w.len());
    let column = |c: usize| (0..rows).map(move |r| x[r * channels + c]);
    let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows as f64).collect();
    let squares: Vec<f64> = (0..channels).map(|c| column(c).map(|v| (v - mean[c]).powi(2)).sum()).collect();
    let batch_var: Vec<f64> = squares.iter().map(|s| s / rows as f64).collect();
    let (m, v) = if mode == BnMode::Eval { (running_mean, running_var) } else { (&mean, &batch_var) };
    let y = x.iter().enumerate().map(|(i, x)| {
        (x - m[i % channels]) / (v[i % channels] + EPS as f64).sqrt() * w[i % channels] + b[i % channels]
    });
    let moved = |old: &[f64], new: f64, c: usize| {
        if mode == BnMode::Train { 0.9 * old[c] + 0.1 * new } else { old[c] }
    };
    let new_mean = (0..channels).map(|c| moved(running_mean, mean[c], c)).collect();
    let new_var =
        (0..channels).map(|c| moved(running_var, squares[c] / (rows.max(2) - 1) as f64, c)).collect();
    (y.collect(), vec![new_mean, new_var])
}

pub fn cases() -> Vec<Case> {
    let op_in = |bf16: bool, name: &str, x: Input, mode: BnMode, fused: bool, wanted: [bool; 3]| {
        let channels = *x.shape.last().unwrap();
        let [mean, var] = [Input::normal_seeded(&[channels], 4), Input::uniform(&[channels], 0.01, 3.0)];
        let (mean_wide, var_wide) =
            (mean.values.iter().map(|v| *v as f64).collect(), var.values.iter().map(|v| *v as f64).collect());
        let running: Wide = vec![mean_wide, var_wide];
        let keep = |input: Input, wanted: bool| if wanted { input } else { input.constant() };
        let label = format!("{name} {mode:?}{} {:?} {wanted:?}", if fused { " relu" } else { "" }, x.shape);
        let weight = keep(Input::normal_seeded(&[channels], 2), wanted[1]);
        let inputs = [keep(x, wanted[0]), weight, keep(Input::normal_seeded(&[channels], 3), wanted[2])];
        let run = move |tape: &Tape, v: &[Var]| {
            let running = |input: &Input| Tensor::from_slice(tape.device(), &input.shape, &input.values);
            let (mean, var) = (&mut running(&mean)?, &mut running(&var)?);
            let norm = Norm { weight: v[1], bias: v[2], mean, var, mode, rows: &Rows::All };
            if !bf16 {
                return batch_norm(tape, v[0], norm, fused);
            }
            // Twice, so that gradients are added in bf16.
            let x = to_bf16(tape, v[0])?;
            let once = batch_norm(tape, x, norm, fused)?;
            let norm = Norm { weight: v[1], bias: v[2], mean, var, mode, rows: &Rows::All };
            to_f32(tape, add(tape, once, batch_norm(tape, x, norm, fused)?)?)
        };
        let want = move |v: &[Vec<f64>]| {
            let (y, _) = oracle(&[v.to_vec(), running.clone()].concat(), mode);
            let times = if bf16 { 2.0 } else { 1.0 };
            y.into_iter().map(|y| times * if fused { y.max(0.0) } else { y }).collect()
        };
        Case::op(label, inputs, run, want)
    };
    let op = |name: &str, x: Input, mode: BnMode, fused: bool, wanted: [bool; 3]| {
        op_in(false, name, x, mode, fused, wanted)
    };
    // With this seed no value lies so near to the kink of ReLU that central differences step over it.
    const FUSED_SEED: u64 = 11;
    let shapes: [&[usize]; 12] = [
        &[1, 1, 1, 1],
        &[5, 1],
        &[3, 7, 5, 3],
        &[2, 33],
        &[2, 3, 1, 257],
        &[2, 4, 4, 16],
        &[3, 3, 3, 40],
        &[1, 1, 1, 64],
        &[9, 15],
        &[9, 144],
        &[40, 5, 7, 12],
        &[5, 9, 9, 64],
    ];
    let mut cases = Vec::new();
    for mode in [BnMode::Train, BnMode::Batch, BnMode::Eval] {
        for shape in shapes {
            cases.push(op("normal", Input::normal(shape), mode, false, [true; 3]).tolerance(2e-5, 2e-5));
            cases.push(
                op("normal", Input::normal_seeded(shape, FUSED_SEED), mode, true, [true; 3])
                    .tolerance(2e-5, 2e-5),
            );
        }
        for wanted in [[true, false, false], [false, true, false], [false, false, true], [false; 3]] {
            cases.push(op("some gradients", Input::normal(&[3, 4, 5, 32]), mode, true, wanted));
        }
    }
    for (shape, mode, fused) in [
        (&[3, 7, 5, 3][..], BnMode::Train, false),
        (&[5, 9, 9, 64], BnMode::Train, true),
        (&[3, 3, 3, 40], BnMode::Batch, true),
        (&[2, 4, 4, 16], BnMode::Eval, true),
        (&[2, 33], BnMode::Eval, false),
        (&[9, 15], BnMode::Train, false),
        (&[40, 5, 7, 15], BnMode::Train, false),
    ] {
        let x = Input::normal_seeded(shape, FUSED_SEED).in_bf16();
        cases.push(op_in(true, "bf16", x, mode, fused, [true; 3]).in_bf16());
    }
    cases.push(many_chunks());
    // A mean that is large against the deviation: the input's own rounding is 4e-6 of the deviation.
    let mut far = Input::normal(&[16, 5, 5, 24]);
    far.values.iter_mut().for_each(|v| *v += 64.0);
    cases.push(op("far mean", far, BnMode::Train, false, [true; 3]).tolerance(1e-4, 1e-4));
    // A first value far from all others.
    let mut outlier = Input::normal(&[32, 5, 5, 16]);
    outlier.values[0] = 1e4;
    cases.push(op("outlier", outlier, BnMode::Train, false, [true; 3]).tolerance(1e-4, 1e-4));
    cases.push(op(
        "constant",
        Input::filled(&[7, 3, 3, 17], 300.1),
        BnMode::Train,
        false,
        [false, false, true],
    ));
    cases.push(op("small", Input::normal(&[7, 3, 3, 17]).scaled(1e-3), BnMode::Batch, false, [true; 3]));
    for (shape, offset) in
        [(&[1, 1, 1, 3][..], 0.0), (&[2, 33], 0.0), (&[40, 13, 17, 12], 5.0), (&[33, 9, 9, 64], -20.0)]
    {
        for mode in [BnMode::Train, BnMode::Batch, BnMode::Eval] {
            let channels = shape[shape.len() - 1];
            let mut x = Input::normal_seeded(shape, 6);
            x.values.iter_mut().for_each(|v| *v += offset);
            let of = |seed| Input::normal_seeded(&[channels], seed);
            let inputs = [x, of(1), of(2), of(3), Input::uniform(&[channels], 0.1, 2.0)];
            let run = move |device: &Device, t: &[Tensor]| {
                let tape = Tape::new(device);
                let [x, weight, bias] = [0, 1, 2].map(|i| tape.constant(t[i].clone()));
                let (mut mean, mut var) = (t[3].clone(), t[4].clone());
                batch_norm(
                    &tape,
                    x,
                    Norm { weight, bias, mean: &mut mean, var: &mut var, mode, rows: &Rows::All },
                    false,
                )?;
                Ok([mean.to_vec()?, var.to_vec()?].concat())
            };
            cases.push(Case::kernel(
                format!("running statistics {mode:?} {shape:?}"),
                inputs,
                run,
                move |v| oracle(v, mode).1.concat(),
            ));
        }
    }
    // Several batch norms in one launch, one of more than a block.
    const WIDTHS: [usize; 3] = [39, 1, 5000];
    let of = |width, seed| Input::normal_seeded(&[width], seed);
    let inputs = WIDTHS.map(|c| [of(c, 1), of(c, 2), of(c, 3), Input::uniform(&[c], 0.0, 2.0)]);
    let run = |device: &Device, t: &[Tensor]| {
        let norms: Vec<Running> = t
            .chunks(4)
            .map(|t| {
                let [weight, bias, mean, var] = [0, 1, 2, 3].map(|at| t[at].clone());
                Running { weight, bias, mean, var }
            })
            .collect();
        let folded = fold(device, &norms)?.into_iter().flat_map(|(scale, shift)| [scale, shift]);
        folded.map(|t| t.to_vec()).collect::<Result<Vec<_>>>().map(|t| t.concat())
    };
    cases.push(Case::kernel("fold", inputs.into_iter().flatten(), run, |v| {
        let folded = v.chunks(4).flat_map(|v| {
            let scale: Vec<f64> =
                v[0].iter().zip(&v[3]).map(|(w, var)| w / (var + EPS as f64).sqrt()).collect();
            let shift = (0..scale.len()).map(|c| v[1][c] - v[2][c] * scale[c]).collect();
            [scale, shift]
        });
        folded.collect::<Vec<_>>().concat()
    }));
    cases
}

/// On CUDA more than three chunks for each of the threads that merge them.
fn many_chunks() -> Case {
    let shape = [50_000, 33];
    let inputs = [
        Input::normal(&shape),
        Input::uniform(&[33], 0.5, 1.5),
        Input::normal_seeded(&[33], 3),
        Input::filled(&[33], 0.0),
        Input::filled(&[33], 1.0),
        Input::normal_seeded(&shape, 1),
    ];
    let run = |device: &Device, t: &[Tensor]| {
        let tape = Tape::new(device);
        let (x, weight, bias) =
            (tape.constant(t[0].clone()), tape.leaf(t[1].clone()), tape.leaf(t[2].clone()));
        let (mean, var) = (&mut t[3].clone(), &mut t[4].clone());
        let norm = Norm { weight, bias, mean, var, mode: BnMode::Train, rows: &Rows::All };
        let y = batch_norm(&tape, x, norm, false)?;
        let gradients = tape.backward(y, Some(t[5].clone()))?;
        let of = |var| gradients.get(var).map_or(Ok(vec![]), Tensor::to_vec);
        Ok([tape.value(y).to_vec()?, of(weight)?, of(bias)?].concat())
    };
    let want = |v: &[Vec<f64>]| {
        let (y, _) = oracle(&v[..5], BnMode::Train);
        let (mut by_weight, mut by_bias) = (vec![0.0; 33], vec![0.0; 33]);
        for (i, (y, upstream)) in y.iter().zip(&v[5]).enumerate() {
            by_weight[i % 33] += upstream * (y - v[2][i % 33]) / v[1][i % 33];
            by_bias[i % 33] += upstream;
        }
        [y, by_weight, by_bias].concat()
    };
    // Gradients of about 200.
    Case::kernel("many chunks", inputs, run, want).tolerance(1e-3, 2e-5)
}

mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_errors() {
        let device = Device::host().unwrap();
        let tape = Tape::new(&device);
        let var = |shape: &[usize]| tape.constant(Tensor::zeros(&device, shape).unwrap());
        let running = || Tensor::zeros(&device, &[4]).unwrap();
        let (weight, bias, mode) = (var(&[4]), var(&[4]), BnMode::Train);
        for shape in [&[2, 5][..], &[0, 4], &[]] {
            let norm =
                Norm { weight, bias, mean: &mut running(), var: &mut running(), mode, rows: &Rows::All };
            assert!(batch_norm(&tape, var(shape), norm, false).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn nan_in_one_channel_stays_there() {
        let device = Device::host().unwrap();
        let tape = Tape::new(&device);
        let mut values = vec![1.0; 6 * 20];
        values[23] = f32::NAN;
        let x = tape.constant(Tensor::from_slice(&device, &[6, 20], &values).unwrap());
        let ones = || Tensor::from_slice(&device, &[20], &[1.0; 20]).unwrap();
        let (weight, bias, mode) = (tape.constant(ones()), tape.constant(ones()), BnMode::Train);
        let norm = Norm { weight, bias, mean: &mut ones(), var: &mut ones(), mode, rows: &Rows::All };
        let out = batch_norm(&tape, x, norm, true).unwrap();
        for (i, v) in tape.value(out).to_vec().unwrap().iter().enumerate() {
            assert_eq!(v.is_nan(), i % 20 == 3, "{i}: {v}");
        }
    }
}
