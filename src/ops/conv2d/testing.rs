//! The cases of `conv2d`, and its oracle in float64.

use super::*;
use crate::ops::cast::{rounded, to_bf16, to_f32, widened};
use crate::ops::testing::*;
use half::bf16;

pub fn cases() -> Vec<Case> {
    // [N,H,W,Cin], Cout, kernel (height, width), stride, pad.
    type Sizes = ([usize; 4], usize, (usize, usize), usize, usize);
    let sizes: &[Sizes] = &[
        ([1, 1, 1, 1], 1, (1, 1), 1, 0),
        ([3, 8, 8, 1], 16, (3, 3), 1, 1),
        ([3, 7, 5, 3], 33, (3, 3), 1, 1),
        ([1, 32, 32, 3], 16, (3, 3), 1, 1),
        ([2, 7, 5, 4], 5, (2, 3), 2, 1),
        ([130, 4, 4, 16], 16, (3, 3), 1, 1),
        ([3, 7, 5, 16], 32, (3, 3), 2, 1),
        ([3, 5, 5, 32], 64, (1, 1), 2, 0),
        ([3, 2, 2, 64], 64, (3, 3), 1, 1),
        ([1, 4, 3, 48], 80, (3, 3), 1, 1),
        ([3, 4, 4, 33], 17, (3, 3), 1, 1),
        ([1, 3, 2, 257], 10, (1, 1), 1, 0),
        ([2, 3, 3, 16], 257, (2, 2), 1, 1),
        ([3, 9, 9, 5], 6, (5, 5), 2, 2),
        ([2, 3, 3, 16], 3, (7, 7), 1, 3),
        ([1, 11, 9, 2], 4, (4, 6), 2, 3),
        ([5, 9, 7, 16], 12, (3, 3), 3, 1),
        ([2, 10, 7, 3], 70, (3, 2), 3, 1),
        ([2, 5, 6, 2], 3, (1, 1), 2, 2),
        ([2, 3, 3, 5], 3, (1, 1), 1, 0),
        // Few input channels, and output channels that end with seven of a vector.
        ([1, 4, 4, 1], 23, (3, 3), 1, 1),
        ([1, 4, 4, 2], 23, (3, 3), 1, 1),
        ([1, 4, 4, 3], 23, (3, 3), 1, 1),
        ([1, 4, 4, 4], 23, (3, 3), 1, 1),
    ];
    let mut cases = Vec::new();
    for &(x, co, (kh, kw), stride, pad) in sizes {
        let w = [co, kh, kw, x[3]];
        let conv = Conv::new(&x, &w, stride, pad).unwrap();
        let inputs = [Input::normal(&x), Input::normal(&w)];
        let name = format!("conv2d x {x:?} w {w:?} stride {stride} pad {pad}");
        // Sums of up to kh kw Cin (forward) and N OH OW (weights) products of normal numbers.
        let op = Case::op(
            name,
            inputs,
            move |tape, v| conv2d(tape, v[0], v[1], stride, pad),
            move |v| oracle(&conv, &v[0], &v[1]),
        );
        cases.push(op.tolerance(1e-4, 1e-5).gradient_tolerance(1e-4, 1e-3));
        // As the first convolution of a bf16 network.
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Rc::new(Filter::new(tape.value(v[1]), Precision::F32));
            to_f32(tape, conv2d_prepared(tape, v[0], v[1], &filter, stride, pad, &Rows::All)?)
        };
        let op = Case::op(
            format!("conv2d to bf16, x {x:?} w {w:?} stride {stride} pad {pad}"),
            [Input::normal(&x), Input::normal(&w)],
            run,
            move |v| oracle(&conv, &v[0], &v[1]),
        );
        cases.push(op.in_bf16().tolerance(1e-4, 1.01 / 256.0));
    }
    let fused = [
        ([3, 5, 7, 16], 32, 1),
        ([130, 4, 4, 16], 16, 2),
        ([2, 3, 3, 3], 33, 1),
        ([1, 6, 6, 32], 80, 1),
        // All rows of a block for each width of a panel, with whole vectors and with seven of the last one.
        ([2, 8, 9, 64], 64, 1),
        ([2, 8, 9, 32], 32, 1),
        ([2, 8, 9, 39], 39, 1),
        ([2, 8, 9, 23], 23, 1),
        ([2, 8, 9, 7], 7, 1),
        // Few output channels: the input gradient's k-tiles reach over taps.
        ([2, 4, 5, 48], 5, 1),
        ([2, 4, 5, 32], 5, 1),
        ([2, 4, 5, 16], 5, 1),
    ];
    for (x, co, stride) in fused {
        let w = [co, 3, 3, x[3]];
        let conv = Conv::new(&x, &w, stride, 1).unwrap();
        let inputs = || {
            [
                Input::normal(&x),
                Input::normal(&w),
                Input::normal(&[co]),
                Input::normal_seeded(&[co], 1),
                Input::normal(&conv.out_shape()),
            ]
        };
        let name = format!("conv2d x {x:?} w {w:?} stride {stride} scaled, shifted, added, ReLU");
        let run = move |device: &Device, t: &[Tensor]| {
            let filter = Filter::scaled(t[1].clone(), t[2].clone(), Precision::F32)?;
            let mut mask = Buffer::<u8>::uninit(device, mask_bytes(conv.out_shape().iter().product()))?;
            let relu_mask = masks_fit(co).then_some(&mut mask);
            let y = forward(
                &conv,
                &t[0],
                &filter,
                Epilogue { shift: Some(&t[3]), residual: Some(&t[4]), relu: true, relu_mask },
                None,
            )?
            .to_vec()?;
            if masks_fit(co) {
                let bits = mask.to_vec()?;
                assert!(
                    y.iter().enumerate().all(|(i, v)| (*v > 0.0) == (bits[i / 8] >> (i % 8) & 1 == 1)),
                    "mask and output disagree"
                );
            }
            Ok(y)
        };
        let want = move |v: &[Vec<f64>]| -> Vec<f64> {
            let plain = oracle(&conv, &v[0], &v[1]).into_iter().zip(&v[4]).enumerate();
            plain.map(|(i, (y, r))| (y * v[2][i % co] + v[3][i % co] + r).max(0.0)).collect()
        };
        cases.push(Case::kernel(name, inputs(), run, want).tolerance(1e-4, 1e-4));

        let run = move |_: &Device, t: &[Tensor]| {
            let filter = Filter::scaled(t[1].clone(), t[2].clone(), Precision::F32)?;
            let residual = rounded(&t[4])?;
            let epilogue =
                Epilogue { shift: Some(&t[3]), residual: Some(&residual), relu: true, relu_mask: None };
            widened(&forward(&conv, &t[0], &filter, epilogue, None)?)?.to_vec()
        };
        let [x0, w0, scale, shift, residual] = inputs();
        let inputs_bf16 = [x0, w0, scale, shift, residual.in_bf16()];
        let name = format!("conv2d to bf16, x {x:?} w {w:?} stride {stride} scaled, shifted, added, ReLU");
        cases.push(Case::kernel(name, inputs_bf16, run, want).tolerance(1e-4, 1.01 / 256.0));

        let name = format!("conv2d x {x:?} w {w:?} stride {stride} input gradient, scaled, added, masked");
        let run = move |device: &Device, t: &[Tensor]| {
            let filter = Filter::scaled(t[1].clone(), t[2].clone(), Precision::F32)?;
            let positive: Vec<u8> = t[0]
                .to_vec()?
                .chunks(8)
                .map(|c| c.iter().rev().fold(0, |bits, v| bits * 2 + (*v > 0.0) as u8))
                .collect();
            let padded: Vec<u8> = positive.into_iter().chain([0]).take(mask_bytes(t[0].len())).collect();
            let mask = masks_fit(x[3]).then(|| Buffer::from_slice(device, &padded)).transpose()?;
            let gradient = |accumulate| {
                let mut into = t[0].buffer().duplicate()?;
                input_grad(&conv, &t[4], &filter, mask.as_ref(), None, &mut into, accumulate)?;
                into.to_vec()
            };
            Ok([gradient(true)?, gradient(false)?].concat())
        };
        let want = move |v: &[Vec<f64>]| {
            let scaled: Vec<f64> = v[1].iter().enumerate().map(|(i, w)| w * v[2][i / (9 * x[3])]).collect();
            let gradient = input_oracle(&conv, &v[4], &scaled);
            let masked = |x0: f64, g: f64| if x0 > 0.0 || !masks_fit(x[3]) { g } else { 0.0 };
            let onto = |share: f64| {
                let each = gradient.iter().zip(&v[0]);
                each.map(|(g, x0)| masked(*x0, g + share * x0)).collect::<Vec<f64>>()
            };
            [onto(1.0), onto(0.0)].concat()
        };
        cases.push(Case::kernel(name, inputs(), run, want).tolerance(1e-4, 1e-4));
    }
    // More pixels than a block lists at a time, for each width of a panel within a tap and across taps.
    for (ci, co) in [64, 32, 16, 33, 20, 5].into_iter().flat_map(|ci| [(ci, 68), (ci, 71)]) {
        let (x, w) = ([1, 17, 18, ci], [co, 1, 1, ci]);
        let conv = Conv::new(&x, &w, 1, 0).unwrap();
        let inputs = [Input::normal(&x), Input::normal(&conv.out_shape()), Input::normal(&w)];
        let run = move |_: &Device, t: &[Tensor]| {
            let mut into = t[2].buffer().duplicate()?;
            weight_grad(&conv, &t[0], &t[1], None, &mut into, true)?;
            into.to_vec()
        };
        let want = move |v: &[Vec<f64>]| weight_oracle(&conv, &v[0], &v[1], &v[2]);
        let name = format!("conv2d x {x:?} w {w:?} weight gradient");
        cases.push(Case::kernel(name, inputs, run, want).tolerance(1e-4, 1e-4));
    }
    // In bf16 and tf32: values of few bits, which both hold, so that sums are exact but for their last
    // rounding.
    let coarse = |shape: &[usize], seed| {
        let mut input = Input::normal_seeded(shape, seed);
        input.values.iter_mut().for_each(|v| *v = (*v * 16.0).round() / 16.0);
        input
    };
    let shapes = [
        ([2, 6, 5, 16], 32, 3, 1),
        ([3, 5, 7, 48], 16, 3, 2),
        ([2, 4, 4, 32], 16, 1, 2),
        ([2, 5, 4, 3], 16, 3, 1),
    ];
    for (x, co, kernel, stride) in shapes {
        let w = [co, kernel, kernel, x[3]];
        let (conv, pad) = (Conv::new(&x, &w, stride, kernel / 2).unwrap(), kernel / 2);
        let inputs = || [coarse(&x, 1), coarse(&w, 2)];
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Rc::new(Filter::new(tape.value(v[1]), Precision::Bf16));
            let maps = to_bf16(tape, v[0])?;
            to_f32(tape, conv2d_prepared(tape, maps, v[1], &filter, stride, pad, &Rows::All)?)
        };
        let want = move |v: &[Vec<f64>]| oracle(&conv, &v[0], &v[1]);
        let name = format!("conv2d bf16 x {x:?} w {w:?} stride {stride}");
        cases.push(Case::op(name, inputs(), run, want).in_bf16());
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Rc::new(Filter::new(tape.value(v[1]), Precision::Tf32));
            conv2d_prepared(tape, v[0], v[1], &filter, stride, pad, &Rows::All)
        };
        let name = format!("conv2d tf32 x {x:?} w {w:?} stride {stride}");
        cases.push(Case::op(name, inputs(), run, want));
    }
    // More taps than tensor cores take.
    for precision in [Precision::Bf16, Precision::Tf32] {
        let (x, w) = ([1, 4, 5, 16], [16, 7, 7, 16]);
        let conv = Conv::new(&x, &w, 1, 3).unwrap();
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Rc::new(Filter::new(tape.value(v[1]), precision));
            conv2d_prepared(tape, v[0], v[1], &filter, 1, 3, &Rows::All)
        };
        let want = move |v: &[Vec<f64>]| oracle(&conv, &v[0], &v[1]);
        let name = format!("conv2d {precision}, 7x7 taps");
        cases.push(Case::op(name, [coarse(&x, 1), coarse(&w, 2).in_bf16()], run, want).tolerance(1e-4, 1e-5));
    }
    for precision in [Precision::Bf16, Precision::Tf32] {
        let (x, w) = ([1, 4, 5, 16], [16, 7, 7, 16]);
        let conv = Conv::new(&x, &w, 1, 3).unwrap();
        let run = move |_: &Device, t: &[Tensor]| {
            let filter = Filter::scaled(t[1].clone(), t[2].clone(), precision)?;
            <f32 as Convolve>::forward(&conv, &t[0], &filter, Epilogue::default(), None)?.to_vec()
        };
        let want = move |v: &[Vec<f64>]| {
            let y = oracle(&conv, &v[0], &v[1]).into_iter().enumerate();
            y.map(|(i, y)| y * v[2][i % 16]).collect()
        };
        let inputs = [coarse(&x, 1), coarse(&w, 2).in_bf16(), Input::filled(&[16], 0.5)];
        let name = format!("conv2d {precision}, 7x7 taps, scaled");
        cases.push(Case::kernel(name, inputs, run, want).tolerance(1e-4, 1e-5));
    }
    // The operands are rounded, and nothing else: the oracle's are, too.
    for precision in [Precision::Bf16, Precision::Tf32] {
        let (x, w) = ([2, 5, 4, 32], [16, 3, 3, 32]);
        let conv = Conv::new(&x, &w, 1, 1).unwrap();
        let nearest = move |v: &f64| match precision {
            Precision::Bf16 => half::bf16::from_f32(*v as f32).to_f64(),
            _ => f64::from(f32::from_bits(((*v as f32).to_bits() + 0x1000) & 0xffff_e000)),
        };
        let run = move |_: &Device, t: &[Tensor]| {
            let filter = Filter::new(t[1].clone(), precision);
            match precision {
                Precision::Bf16 => {
                    widened(&bf16::forward(&conv, &rounded(&t[0])?, &filter, Epilogue::default(), None)?)?
                        .to_vec()
                }
                _ => <f32 as Convolve>::forward(&conv, &t[0], &filter, Epilogue::default(), None)?.to_vec(),
            }
        };
        let want = move |v: &[Vec<f64>]| {
            let [x, w] = [0, 1].map(|i| v[i].iter().map(nearest).collect::<Vec<_>>());
            let y = oracle(&conv, &x, &w);
            if precision == Precision::Bf16 { y.iter().map(nearest).collect() } else { y }
        };
        // A sum that is rounded in float32 first may take the other neighbour in bf16.
        let relative = if precision == Precision::Bf16 { 1.0 / 128.0 } else { 1e-5 };
        let inputs = [Input::normal(&x), Input::normal(&w)];
        let name = format!("conv2d {precision} rounds its operands");
        cases.push(Case::kernel(name, inputs, run, want).tolerance(1e-4, relative));
    }
    cases
}

/// Calls f(output pixel, tap, input pixel) for every product of pixels in a convolution; pixels count images
/// too.
fn each_product(conv: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    for out in 0..conv.images * conv.out_height * conv.out_width {
        let (image, oy, ox) = (
            out / conv.out_width / conv.out_height,
            out / conv.out_width % conv.out_height,
            out % conv.out_width,
        );
        for tap in 0..conv.kernel_height * conv.kernel_width {
            let iy = (oy * conv.stride + tap / conv.kernel_width).wrapping_sub(conv.pad);
            let ix = (ox * conv.stride + tap % conv.kernel_width).wrapping_sub(conv.pad);
            if iy < conv.height && ix < conv.width {
                f(out, tap, (image * conv.height + iy) * conv.width + ix);
            }
        }
    }
}

pub(in crate::ops) fn oracle(conv: &Conv, x: &[f64], w: &[f64]) -> Vec<f64> {
    let (ci, co, taps) = (conv.in_channels, conv.out_channels, conv.kernel_height * conv.kernel_width);
    let mut y = vec![0.0; conv.out_shape().iter().product()];
    each_product(conv, |out, tap, input| {
        for o in 0..co {
            let row = &w[(o * taps + tap) * ci..][..ci];
            y[out * co + o] += x[input * ci..][..ci].iter().zip(row).map(|(a, b)| a * b).sum::<f64>();
        }
    });
    y
}

/// `into` plus the gradient of w.
pub(in crate::ops) fn weight_oracle(conv: &Conv, x: &[f64], dy: &[f64], into: &[f64]) -> Vec<f64> {
    let (ci, co, taps) = (conv.in_channels, conv.out_channels, conv.kernel_height * conv.kernel_width);
    let mut dw = into.to_vec();
    each_product(conv, |out, tap, input| {
        for o in 0..co {
            for i in 0..ci {
                dw[(o * taps + tap) * ci + i] += dy[out * co + o] * x[input * ci + i];
            }
        }
    });
    dw
}

pub(in crate::ops) fn input_oracle(conv: &Conv, dy: &[f64], w: &[f64]) -> Vec<f64> {
    let (ci, co, taps) = (conv.in_channels, conv.out_channels, conv.kernel_height * conv.kernel_width);
    let mut dx = vec![0.0; conv.in_shape().iter().product()];
    each_product(conv, |out, tap, input| {
        for o in 0..co {
            for i in 0..ci {
                dx[input * ci + i] += dy[out * co + o] * w[(o * taps + tap) * ci + i];
            }
        }
    });
    dx
}
