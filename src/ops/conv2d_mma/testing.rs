//! The cases of the convolution on tensor cores, for bf16 and tf32. Inputs are numbers of bf16, which both
//! represent exactly: what is left of the rounding is that of the sums, and of what is stored.

use super::*;
use crate::ops::batch_norm::{BnMode, Measured, Norm, batch_norm};
use crate::ops::cast::{to_bf16, to_f32};
use crate::ops::conv2d::{Filter, Precision, conv2d_measured, input_oracle, oracle, weight_oracle};
use crate::ops::testing::*;
use crate::ops::valid::Rows;
use half::bf16;
use std::rc::Rc;

/// A type of maps with its tolerances.
trait Number: Real {
    const NAME: &str;
    /// Relative error of what is stored: half a step of bf16; of float32 the sums' own error is larger.
    const ROUNDING: f64;
    fn of_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    const NAME: &str = "tf32";
    const ROUNDING: f64 = 1e-5;
    fn of_f32(value: f32) -> f32 {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    const NAME: &str = "bf16";
    const ROUNDING: f64 = 1.0 / 256.0;
    fn of_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// What is stored of an exact sum.
fn stored<T: Number>(sum: f64) -> f64 {
    T::of_f32(sum as f32).to_f32() as f64
}

fn map<T: Number>(device: &Device, tensor: &Tensor) -> Result<Buffer<T>> {
    let values: Vec<T> = tensor.to_vec()?.into_iter().map(T::of_f32).collect();
    Buffer::from_slice(device, &values)
}

/// NaN, so that what is not written is seen.
fn poisoned<T: Number>(device: &Device, len: usize) -> Result<Buffer<T>> {
    Buffer::from_slice(device, &vec![T::of_f32(f32::NAN); len])
}

fn values<T: Number>(buffer: &Buffer<T>) -> Result<Vec<f32>> {
    Ok(buffer.to_vec()?.into_iter().map(T::to_f32).collect())
}

/// The values of the inputs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Integers whose sums are exact in float32: results are equal to the oracle's.
    Integers,
    Normal,
}

impl Kind {
    fn input(self, shape: &[usize], seed: u64) -> Input {
        let mut input = Input::normal_seeded(shape, seed);
        for value in &mut input.values {
            *value = match self {
                Kind::Integers => (*value * 1.5).round(),
                Kind::Normal => bf16::from_f32(*value).to_f32(),
            };
        }
        input
    }

    /// The tolerance of sums of `terms` products of numbers around 1, with a share of it for each rounding
    /// of float32; the tensor cores' own order is open.
    fn of<T: Number>(self, case: Case, terms: usize) -> Case {
        match self {
            Kind::Integers => case.tolerance(0.0, 0.0),
            Kind::Normal => case.tolerance(1e-6 * terms as f64, T::ROUNDING),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Integers => "integers",
            Kind::Normal => "normal",
        }
    }
}

fn on_tensor_cores(device: &Device) -> bool {
    device.has_tensor_cores()
}

/// Large cases would take minutes on the host's fibers.
fn on_gpu(device: &Device) -> bool {
    on_tensor_cores(device) && !device.is_host()
}

/// The bits of a mask, 1 where a value is positive.
fn positive_bits(values: &[f32]) -> Vec<u8> {
    let bytes = values.chunks(8).map(|c| c.iter().rev().fold(0, |bits, v| bits * 2 + (*v > 0.0) as u8));
    bytes.chain([0]).take(mask_bytes(values.len())).collect()
}

/// Runs `run` with each tile and with the one that is chosen: all give the same bits, which are returned.
fn with_each_tile(tiles: &[Tile], mut run: impl FnMut(Option<Tile>) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let first = run(None)?;
    for tile in tiles {
        let other = run(Some(*tile))?;
        let same = first.iter().zip(&other).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(same, None, "{tile:?} gives other bits");
    }
    Ok(first)
}

/// The part of a batch that is valid, and the extras of a pass.
#[derive(Clone, Copy)]
struct Setting {
    conv: Conv,
    kind: Kind,
    valid: Option<usize>,
    each_tile: bool,
}

impl Setting {
    fn name<T: Number>(&self, pass: &str) -> String {
        let Conv { kernel_height: kh, kernel_width: kw, stride, pad, .. } = self.conv;
        let (x, co, kind) = (self.conv.in_shape(), self.conv.out_channels, self.kind.name());
        let valid = self.valid.map(|valid| format!(", {valid} valid")).unwrap_or_default();
        format!("{} {pass} x {x:?} to {co}, {kh}x{kw} stride {stride} pad {pad}, {kind}{valid}", T::NAME)
    }

    fn tiles(&self) -> &'static [Tile] {
        if self.each_tile { &Tile::ALL } else { &[] }
    }

    fn weight_shape(&self) -> [usize; 4] {
        let Conv { out_channels, kernel_height, kernel_width, in_channels, .. } = self.conv;
        [out_channels, kernel_height, kernel_width, in_channels]
    }

    fn num_valid(&self, device: &Device) -> Result<Option<Buffer<i32>>> {
        self.valid.map(|valid| Buffer::from_slice(device, &[valid as i32])).transpose()
    }

    /// Values of a map of `size` values an image, with zeros past the valid images.
    fn masked(&self, mut values: Vec<f64>) -> Vec<f64> {
        let size = values.len() / self.conv.images;
        if let Some(valid) = self.valid {
            values[valid * size..].fill(0.0);
        }
        values
    }

    /// y = conv(x, w), and with shift, residual and ReLU.
    fn forward<T: Number>(self) -> Case {
        let conv = self.conv;
        let (out, co) = (conv.out_shape(), conv.out_channels);
        let inputs = [
            self.kind.input(&conv.in_shape(), 1),
            self.kind.input(&self.weight_shape(), 2),
            self.kind.input(&[co], 3),
            self.kind.input(&out, 4),
        ];
        let run = move |device: &Device, t: &[Tensor]| {
            let x = map::<T>(device, &t[0])?;
            let weights = Packed::new(&t[1], None, Passes::Forward)?;
            let residual = Tensor::new(map::<T>(device, &t[3])?, &out)?;
            let num_valid = self.num_valid(device)?;
            let len = out.iter().product();
            with_each_tile(self.tiles(), |tile| {
                let mut plain = poisoned::<T>(device, len)?;
                let none = Epilogue::default();
                forward(&conv, &x, &weights, none, num_valid.as_ref(), &mut plain, tile)?;
                let (mut y, mut mask) =
                    (poisoned::<T>(device, len)?, Buffer::uninit(device, mask_bytes(len))?);
                let all = Epilogue {
                    shift: Some(&t[2]),
                    residual: Some(&residual),
                    relu: true,
                    relu_mask: Some(&mut mask),
                };
                forward(&conv, &x, &weights, all, num_valid.as_ref(), &mut y, tile)?;
                let y = values(&y)?;
                assert_eq!(
                    positive_bits(&y)[..len / 8],
                    mask.to_vec()?[..len / 8],
                    "mask and output disagree"
                );
                Ok([values(&plain)?, y].concat())
            })
        };
        let want = move |v: &[Vec<f64>]| {
            let plain = self.masked(oracle(&conv, &v[0], &v[1]));
            let finish = |(i, sum): (usize, &f64)| (sum + v[2][i % co] + v[3][i]).max(0.0);
            let finished: Vec<f64> = plain.iter().enumerate().map(finish).collect();
            plain.iter().chain(&finished).map(|sum| self.stored::<T>(*sum)).collect()
        };
        let terms = conv.kernel_height * conv.kernel_width * conv.in_channels;
        let case = Case::kernel(self.name::<T>("forward"), inputs, run, want).only_on(on_tensor_cores);
        self.kind.of::<T>(case, terms)
    }

    /// Mean and variance of each channel of y, by each tile.
    fn statistics<T: Number>(self) -> Case {
        let (conv, co) = (self.conv, self.conv.out_channels);
        let inputs = [self.kind.input(&conv.in_shape(), 1), self.kind.input(&self.weight_shape(), 2)];
        let rows = self.valid.unwrap_or(conv.images) * conv.out_height * conv.out_width;
        let run = move |device: &Device, t: &[Tensor]| {
            let x = map::<T>(device, &t[0])?;
            let weights = Packed::new(&t[1], None, Passes::Forward)?;
            let num_valid = self.num_valid(device)?;
            let poisoned = || poisoned::<T>(device, conv.out_shape().iter().product());
            let mut plain = poisoned()?;
            forward(&conv, &x, &weights, Epilogue::default(), num_valid.as_ref(), &mut plain, None)?;
            let mut results = Vec::new();
            for tile in Tile::ALL {
                let (mut y, num_valid) = (poisoned()?, num_valid.as_ref());
                let statistics = forward_with_statistics(&conv, &x, &weights, num_valid, &mut y, Some(tile))?;
                let values = values(&y)?;
                assert_eq!(values, self::values(&plain)?, "{tile:?} with statistics gives other values");
                let (partial, chunk) = (statistics.partial.to_vec()?, statistics.rows_per_chunk);
                // Of every chunk of valid rows: which ones they are is the kernel's affair.
                let part = |i: usize| chunk.min(rows - i * chunk) as f64;
                let at = |i: usize, which: usize, c: usize| partial[(2 * i + which) * co + c] as f64;
                let chunks = 0..rows.div_ceil(chunk);
                for c in 0..if rows == 0 { 0 } else { co } {
                    let sum: f64 = chunks.clone().map(|i| part(i) * at(i, 0, c)).sum();
                    let mean = sum / rows as f64;
                    let squares =
                        chunks.clone().map(|i| at(i, 1, c) + part(i) * (at(i, 0, c) - mean).powi(2));
                    let variance = squares.sum::<f64>() / rows as f64;
                    // They are of the numbers in memory.
                    let column: Vec<f64> = values.chunks(co).take(rows).map(|row| row[c] as f64).collect();
                    let (want, squares) = mean_and_variance(&column);
                    let scale = column.iter().fold(0.0f64, |most, v| most.max(v.abs()));
                    assert!((mean - want).abs() <= 1e-6 * scale, "{tile:?}: mean {mean}, in memory {want}");
                    assert!(
                        (variance - squares).abs() <= 1e-5 * squares + 1e-12 * scale * scale,
                        "{tile:?}: variance {variance}, in memory {squares}"
                    );
                    results.extend([mean as f32, variance as f32]);
                }
            }
            Ok(results)
        };
        let want = move |v: &[Vec<f64>]| {
            let y: Vec<f64> = oracle(&conv, &v[0], &v[1]).into_iter().map(|y| self.stored::<T>(y)).collect();
            let of_channel = |c: usize| {
                let column: Vec<f64> = y.chunks(co).take(rows).map(|row| row[c]).collect();
                <[f64; 2]>::from(mean_and_variance(&column))
            };
            (0..if rows == 0 { 0 } else { co })
                .flat_map(of_channel)
                .collect::<Vec<f64>>()
                .repeat(Tile::ALL.len())
        };
        let terms = conv.kernel_height * conv.kernel_width * conv.in_channels;
        let case = Case::kernel(self.name::<T>("statistics"), inputs, run, want).only_on(on_tensor_cores);
        match self.kind {
            Kind::Integers => case.tolerance(1e-5, 1e-5),
            // Of numbers of about sqrt(terms), each with its rounding.
            Kind::Normal => case.tolerance(T::ROUNDING * (terms as f64).sqrt(), 2.0 * T::ROUNDING),
        }
    }

    /// Integers are compared exactly, with what is stored of them.
    fn stored<T: Number>(self, sum: f64) -> f64 {
        if self.kind == Kind::Integers { stored::<T>(sum) } else { sum }
    }

    /// dx = the input gradient; the same added to what was there and masked.
    fn input_grad<T: Number>(self) -> Case {
        let conv = self.conv;
        let inputs = [
            self.kind.input(&conv.in_shape(), 5),
            self.kind.input(&self.weight_shape(), 6),
            self.kind.input(&conv.out_shape(), 7),
            self.kind.input(&conv.in_shape(), 8),
        ];
        let run = move |device: &Device, t: &[Tensor]| {
            let grad_out = map::<T>(device, &t[2])?;
            let weights = Packed::new(&t[1], None, Passes::InputGrad)?;
            let mask = Buffer::from_slice(device, &positive_bits(&t[0].to_vec()?))?;
            let num_valid = self.num_valid(device)?;
            with_each_tile(self.tiles(), |tile| {
                let mut plain = poisoned::<T>(device, t[0].len())?;
                input_grad(&conv, &grad_out, &weights, None, num_valid.as_ref(), &mut plain, false, tile)?;
                let (mut sum, mask) = (map::<T>(device, &t[3])?, Some(&mask));
                input_grad(&conv, &grad_out, &weights, mask, num_valid.as_ref(), &mut sum, true, tile)?;
                Ok([values(&plain)?, values(&sum)?].concat())
            })
        };
        let want = move |v: &[Vec<f64>]| {
            let plain = self.masked(input_oracle(&conv, &v[2], &v[1]));
            let finish = |(i, sum): (usize, &f64)| if v[0][i] > 0.0 { sum + v[3][i] } else { 0.0 };
            let finished: Vec<f64> = plain.iter().enumerate().map(finish).collect();
            plain.iter().chain(&finished).map(|sum| self.stored::<T>(*sum)).collect()
        };
        let terms = conv.kernel_height * conv.kernel_width * conv.out_channels;
        let case = Case::kernel(self.name::<T>("input gradient"), inputs, run, want).only_on(on_tensor_cores);
        self.kind.of::<T>(case, terms)
    }

    /// dw, and dw added to what was there.
    fn weight_grad<T: Number>(self) -> Case {
        let conv = self.conv;
        let inputs = [
            self.kind.input(&conv.in_shape(), 9),
            self.kind.input(&conv.out_shape(), 10),
            self.kind.input(&self.weight_shape(), 11),
        ];
        let run = move |device: &Device, t: &[Tensor]| {
            let (x, grad_out) = (map::<T>(device, &t[0])?, map::<T>(device, &t[1])?);
            let num_valid = self.num_valid(device)?;
            let both = |tile| {
                let mut plain = poisoned::<f32>(device, t[2].len())?;
                weight_grad(&conv, &x, &grad_out, num_valid.as_ref(), &mut plain, false, tile)?;
                let mut sum = t[2].buffer().duplicate()?;
                weight_grad(&conv, &x, &grad_out, num_valid.as_ref(), &mut sum, true, tile)?;
                Ok([plain.to_vec()?, sum.to_vec()?].concat())
            };
            with_each_tile(if self.each_tile { &Tile::OF_WEIGHTS } else { &[] }, both)
        };
        let want = move |v: &[Vec<f64>]| {
            let valid = Conv { images: self.valid.unwrap_or(conv.images), ..conv };
            let zeros = vec![0.0; v[2].len()];
            [weight_oracle(&valid, &v[0], &v[1], &zeros), weight_oracle(&valid, &v[0], &v[1], &v[2])].concat()
        };
        let terms = conv.images * conv.out_height * conv.out_width;
        let name = self.name::<T>("weight gradient");
        let case = Case::kernel(name, inputs, run, want).only_on(on_tensor_cores);
        match self.kind {
            Kind::Integers => case.tolerance(0.0, 0.0),
            Kind::Normal => case.tolerance(1e-6 * terms as f64 + 1e-5, 1e-5),
        }
    }

    /// Each combination of what an epilogue may do, in both passes.
    fn epilogues<T: Number>(self) -> Case {
        let conv = self.conv;
        let (out, co) = (conv.out_shape(), conv.out_channels);
        let inputs = [
            self.kind.input(&conv.in_shape(), 1),
            self.kind.input(&self.weight_shape(), 2),
            self.kind.input(&[co], 3),
            self.kind.input(&out, 4),
        ];
        // Shift, residual, ReLU, its mask; and of the input gradient mask and accumulation.
        let forwards: Vec<[bool; 4]> = (0..16).map(|i| [0, 1, 2, 3].map(|bit| i >> bit & 1 == 1)).collect();
        let forwards: Vec<[bool; 4]> = forwards.into_iter().filter(|f| f[2] || !f[3]).collect();
        let backwards = [[false, true], [true, false]];
        let settings = forwards.clone();
        let run = move |device: &Device, t: &[Tensor]| {
            let (x, residual) = (map::<T>(device, &t[0])?, Tensor::new(map::<T>(device, &t[3])?, &out)?);
            let weights = Packed::new(&t[1], None, Passes::Both)?;
            let positive = Buffer::from_slice(device, &positive_bits(&t[0].to_vec()?))?;
            with_each_tile(self.tiles(), |tile| {
                let mut results = Vec::new();
                for [shift, add, relu, with_mask] in settings.iter().copied() {
                    let mut y = poisoned::<T>(device, residual.len())?;
                    let mut mask = Buffer::uninit(device, mask_bytes(y.len()))?;
                    let epilogue = Epilogue {
                        shift: shift.then_some(&t[2]),
                        residual: add.then_some(&residual),
                        relu,
                        relu_mask: with_mask.then_some(&mut mask),
                    };
                    forward(&conv, &x, &weights, epilogue, None, &mut y, tile)?;
                    results.extend(values(&y)?);
                }
                for [masked, accumulate] in backwards {
                    let mask = masked.then_some(&positive);
                    let mut dx =
                        if accumulate { map::<T>(device, &t[0])? } else { poisoned(device, x.len())? };
                    input_grad(&conv, residual.buffer(), &weights, mask, None, &mut dx, accumulate, tile)?;
                    results.extend(values(&dx)?);
                }
                Ok(results)
            })
        };
        let want = move |v: &[Vec<f64>]| {
            let mut results = Vec::new();
            let sums = oracle(&conv, &v[0], &v[1]);
            for [shift, add, relu, _] in &forwards {
                results.extend(sums.iter().enumerate().map(|(i, sum)| {
                    let shifted = if *shift { v[2][i % co] } else { 0.0 };
                    let y = sum + shifted + if *add { v[3][i] } else { 0.0 };
                    self.stored::<T>(if *relu { y.max(0.0) } else { y })
                }));
            }
            let sums = input_oracle(&conv, &v[3], &v[1]);
            for [masked, accumulate] in backwards {
                results.extend(sums.iter().zip(&v[0]).map(|(sum, x)| {
                    let dx = sum + if accumulate { *x } else { 0.0 };
                    self.stored::<T>(if masked && *x <= 0.0 { 0.0 } else { dx })
                }));
            }
            results
        };
        let case = Case::kernel(self.name::<T>("epilogues"), inputs, run, want).only_on(on_tensor_cores);
        case.tolerance(0.0, 0.0)
    }

    fn cases<T: Number>(self) -> [Case; 3] {
        [self.forward::<T>(), self.input_grad::<T>(), self.weight_grad::<T>()]
    }
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

/// A batch norm of a convolution's output, by its statistics: values, and running statistics, which are those
/// of a batch norm that reads the output.
fn before_batch_norm(x: [usize; 4], co: usize, stride: usize, rows: fn(Rc<Buffer<i32>>) -> Rows) -> Case {
    let (w, count) = ([co, 3, 3, x[3]], x[0] - 1);
    let of = |seed| Input::normal_seeded(&[co], seed);
    let inputs = [
        Input::normal(&x).in_bf16(),
        Input::normal(&w).in_bf16(),
        of(1),
        of(2),
        of(3),
        Input::uniform(&[co], 0.5, 2.0),
    ];
    let set =
        move |device: &Device| Ok::<_, Error>(rows(Rc::new(Buffer::from_slice(device, &[count as i32])?)));
    let run = move |device: &Device, t: &[Tensor]| {
        let (tape, rows) = (Tape::new(device), set(device)?);
        let filter = Rc::new(Filter::new(t[1].clone(), Precision::Bf16));
        let maps = to_bf16(&tape, tape.constant(t[0].clone()))?;
        let [w, weight, bias] = [1, 2, 3].map(|i| tape.constant(t[i].clone()));
        let norm = |y: Measured<bf16>| {
            let (mut mean, mut var) = (t[4].clone(), t[5].clone());
            let mode = BnMode::Train;
            let norm = Norm { weight, bias, mean: &mut mean, var: &mut var, mode, rows: &rows };
            let y = batch_norm(&tape, y, norm, true)?;
            let y = tape.value(to_f32(&tape, y)?).to_vec()?;
            Ok::<_, Error>((y, [mean.to_vec()?, var.to_vec()?].concat()))
        };
        let y = conv2d_measured::<bf16, bf16>(&tape, maps, w, &filter, stride, 1, &rows)?;
        assert!(y.statistics.is_some(), "no statistics");
        let (_, of_memory) = norm(y.x.into())?;
        let (y, running) = norm(y)?;
        for (by_kernel, of_memory) in running.iter().zip(&of_memory) {
            assert!((by_kernel - of_memory).abs() <= 2e-6 * of_memory.abs().max(1.0), "{running:?}");
        }
        Ok([y, running].concat())
    };
    let want = move |v: &[Vec<f64>]| {
        let images = if matches!(set(&Device::host().unwrap()), Ok(Rows::First(_))) { count } else { x[0] };
        let whole = Conv::new(&x, &w, stride, 1).unwrap();
        let conv = Conv { images, ..whole };
        let y = oracle(&conv, &v[0][..conv.in_shape().iter().product()], &v[1]);
        let y = y.into_iter().map(stored::<bf16>).collect();
        let (mut y, running) =
            crate::ops::batch_norm::oracle(&[vec![y], v[2..].to_vec()].concat(), BnMode::Train);
        y.iter_mut().for_each(|y| *y = y.max(0.0));
        y.resize(whole.out_shape().iter().product(), 0.0);
        [y, running.concat()].concat()
    };
    let name = format!("bf16 statistics for batch norm, x {x:?} to {co}, stride {stride}, {count} counted");
    // A number at the edge of a step of bf16 goes to the other side in one of the two.
    Case::kernel(name, inputs, run, want).only_on(on_tensor_cores).tolerance(3e-2, 1.0 / 128.0)
}

/// w times scale, packed, as the kernels read it: found by their products with single ones.
fn packing<T: Number>(co: usize, taps: (usize, usize), ci: usize) -> Case {
    let shape = [co, taps.0, taps.1, ci];
    let run = move |device: &Device, t: &[Tensor]| {
        let scaled: Packed<T> = Packed::new(&t[0], Some(&t[1]), Passes::Both)?;
        let plain: Packed<T> = Packed::new(&t[0], None, Passes::Both)?;
        let both = |packed: &Packed<T>| {
            let (forward, transposed) = (packed.forward.as_ref(), packed.transposed.as_ref());
            Ok([values(forward.unwrap())?, values(transposed.unwrap())?].concat())
        };
        // Filters of other shapes in the same launch change nothing.
        let filters = [(&t[2], None), (&t[0], Some(&t[1])), (&t[2], None), (&t[0], None)];
        let together = Packed::<T>::all(device, &filters, Passes::Both)?;
        for (alone, among) in [(&scaled, &together[1]), (&plain, &together[3])] {
            assert_eq!(both(alone)?, both(among)?);
        }
        assert_eq!(both(&together[0])?, both(&together[2])?);
        // One layout alone, with and without the scale: the same numbers.
        for (scale, whole) in [(None, &plain), (Some(&t[1]), &scaled)] {
            for passes in [Passes::Forward, Passes::InputGrad] {
                let part: Packed<T> = Packed::new(&t[0], scale, passes)?;
                for (one, both) in [(&part.forward, &whole.forward), (&part.transposed, &whole.transposed)] {
                    let (Some(one), Some(both)) = (one, both) else { continue };
                    assert_eq!(values(one)?, values(both)?, "{passes:?}");
                }
            }
        }
        Ok([both(&scaled)?, both(&plain)?].concat())
    };
    let want = move |v: &[Vec<f64>]| {
        let taps = taps.0 * taps.1;
        let at = |o: usize, tap: usize, i: usize| (o * taps + tap) * ci + i;
        let mut packed = Vec::new();
        for scale in [&v[1], &vec![1.0; co]] {
            for (tap, o, i) in (0..taps * co * ci).map(|n| (n / ci / co, n / ci % co, n % ci)) {
                packed.push(v[0][at(o, tap, i)] * scale[o]);
            }
            for (tap, i, o) in (0..taps * co * ci).map(|n| (n / co / ci, n / co % ci, n % co)) {
                packed.push(v[0][at(o, tap, i)] * scale[o]);
            }
        }
        packed
    };
    // Half a step of bf16, or of tf32.
    let rounding = if T::NAME == "bf16" { 1.0 / 256.0 } else { 1.0 / 2048.0 };
    let inputs = [Input::normal(&shape), Input::normal(&[co]), Input::normal(&[48, 3, 1, 80])];
    Case::kernel(format!("{} packing {shape:?}", T::NAME), inputs, run, want).tolerance(0.0, rounding)
}

/// tf32 rounds its operands to 11 bits: numbers with more bits are within 2^-11 each.
fn full_numbers() -> Case {
    let (x, w) = ([2, 5, 6, 32], [48, 3, 3, 32]);
    let conv = Conv::new(&x, &w, 1, 1).unwrap();
    let run = move |device: &Device, t: &[Tensor]| {
        let x = map::<f32>(device, &t[0])?;
        let weights = Packed::new(&t[1], None, Passes::Forward)?;
        let mut y = poisoned::<f32>(device, conv.out_shape().iter().product())?;
        forward(&conv, &x, &weights, Epilogue::default(), None, &mut y, None)?;
        y.to_vec()
    };
    let inputs = [Input::normal(&x), Input::normal(&w)];
    let want = move |v: &[Vec<f64>]| oracle(&conv, &v[0], &v[1]);
    // 288 products of two errors of at most 2^-12 of numbers around 1, of random signs.
    let case = Case::kernel("tf32 forward of full numbers", inputs, run, want);
    case.tolerance(6.0 * 288f64.sqrt() / 4096.0, 0.0).only_on(on_tensor_cores)
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![full_numbers()];
    for (co, taps, ci) in [(48, (3, 3), 16), (16, (1, 1), 80)] {
        cases.extend([packing::<bf16>(co, taps, ci), packing::<f32>(co, taps, ci)]);
    }
    // x [N,H,W,Cin], Cout, kernel (height, width), stride, pad, valid images.
    type Sizes = ([usize; 4], usize, (usize, usize), usize, usize, Option<usize>);
    let sizes: &[Sizes] = &[
        ([1, 1, 1, 16], 16, (1, 1), 1, 0, None),
        ([3, 7, 5, 16], 32, (3, 3), 1, 1, None),
        ([2, 7, 5, 48], 80, (3, 3), 2, 1, None),
        ([1, 6, 8, 80], 48, (3, 3), 2, 1, None),
        ([3, 5, 5, 64], 128, (1, 1), 2, 0, None),
        ([70, 3, 2, 16], 16, (3, 3), 1, 1, Some(66)),
        ([5, 5, 7, 16], 144, (3, 3), 2, 1, Some(2)),
        ([2, 3, 3, 16], 16, (3, 3), 1, 1, Some(0)),
        ([1, 9, 8, 64], 16, (5, 5), 2, 2, None),
        ([2, 8, 9, 32], 16, (2, 3), 3, 1, None),
        ([1, 24, 23, 16], 16, (3, 3), 1, 1, None),
        ([9, 8, 8, 16], 16, (1, 1), 1, 0, Some(7)),
    ];
    for &(x, co, kernel, stride, pad, valid) in sizes {
        let conv = Conv::new(&x, &[co, kernel.0, kernel.1, x[3]], stride, pad).unwrap();
        for kind in [Kind::Integers, Kind::Normal] {
            let setting = Setting { conv, kind, valid, each_tile: true };
            cases.extend(setting.cases::<bf16>());
            cases.extend(setting.cases::<f32>());
            cases.extend([setting.statistics::<bf16>(), setting.statistics::<f32>()]);
        }
    }
    let conv = Conv::new(&[5, 6, 5, 16], &[144, 1, 1, 16], 1, 0).unwrap();
    let setting = Setting { conv, kind: Kind::Integers, valid: None, each_tile: true };
    cases.extend([setting.epilogues::<bf16>(), setting.epilogues::<f32>()]);
    for (x, co, stride) in [([5, 7, 5, 16], 48, 1), ([9, 6, 9, 32], 144, 2)] {
        cases.extend([Rows::First, Rows::AllIf].map(|rows| before_batch_norm(x, co, stride, rows)));
    }
    cases.extend(resnet18());
    cases
}

/// The layers of ResNet-18 for 32x32 pixels.
fn resnet18() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, ci, co, taps, stride) in [
        (32, 64, 64, 3, 1),
        (32, 64, 128, 3, 2),
        (32, 64, 128, 1, 2),
        (16, 128, 128, 3, 1),
        (16, 128, 256, 3, 2),
        (16, 128, 256, 1, 2),
        (8, 256, 256, 3, 1),
        (8, 256, 512, 3, 2),
        (8, 256, 512, 1, 2),
        (4, 512, 512, 3, 1),
    ] {
        for images in [1, 3, 8] {
            // The large ones at batch 1.
            if images > 1 && (size > 8 || (images > 3 && size > 4)) {
                continue;
            }
            let conv = Conv::new(&[images, size, size, ci], &[co, taps, taps, ci], stride, taps / 2).unwrap();
            let setting = Setting { conv, kind: Kind::Integers, valid: None, each_tile: false };
            let mut each = Vec::from(setting.cases::<bf16>());
            // tf32 shares the loops: one layer for each number of channels.
            if images == 1 && stride == 1 {
                each.extend(setting.cases::<f32>());
            }
            cases.extend(each.into_iter().map(|case| case.only_on(on_gpu)));
        }
    }
    cases
}
