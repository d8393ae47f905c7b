//! Batch normalisation over the last axis, optionally with ReLU in the same pass.
//!
//! The source of the statistics is an argument of every call (`BnMode`): which passes use or move the running
//! statistics is part of a training method, never a state of the network.

use super::prelude::*;
use super::relu::relu;
use super::valid::Rows;
use kernels::batch_norm;

/// Added to the variance.
pub const EPS: f32 = 1e-5;
/// The share of a batch in the running statistics.
pub const MOMENTUM: f32 = 0.1;

/// Which statistics normalise the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BnMode {
    /// The batch's own; the running ones move towards them.
    Train,
    /// The batch's own; the running ones stay.
    Batch,
    /// The running ones.
    Eval,
}

/// The parameters of a batch norm.
pub struct Norm<'a> {
    /// `[C]`.
    pub weight: Var,
    /// `[C]`.
    pub bias: Var,
    /// The running mean `[C]`.
    pub mean: &'a mut Tensor,
    /// The running variance `[C]`.
    pub var: &'a mut Tensor,
    pub mode: BnMode,
    /// Which images the statistics are of.
    pub rows: &'a Rows,
}

/// (x - mean) / sqrt(var + EPS) * weight + bias per channel, for x of shape `[..., C]`, then ReLU if asked:
/// in one pass over memory where the channels fill whole vectors.
///
/// In `Train` mode the running statistics are updated in place with the batch mean and the unbiased batch
/// variance; for a batch of one value per channel, whose variance is 0 and has no unbiased estimate, that is
/// 0. Where images do not exist (`norm.rows`), the result is 0.
pub fn batch_norm(tape: &Tape, x: Var, norm: Norm, activate: bool) -> Result<Var> {
    let whole = tape.value(x).shape().last().is_some_and(|c| c % kernels::VEC.on(tape.device()) == 0);
    let out = normalise(tape, x, norm, activate && whole)?;
    if activate && !whole { relu(tape, out) } else { Ok(out) }
}

/// Running statistics as (scale, shift) of shape `[C]`: batch norm in `Eval` mode is x * scale + shift.
pub fn fold(
    weight: &Tensor,
    bias: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
) -> Result<(Tensor, Tensor)> {
    for other in [bias, running_mean, running_var] {
        same_shape("batch_norm fold", weight, other)?;
    }
    let (device, channels) = (weight.device(), weight.len());
    let (mut scale, mut shift) = (Tensor::uninit(device, &[channels])?, Tensor::uninit(device, &[channels])?);
    let (mean, var, grid) = (running_mean, running_var, elementwise(device, channels));
    batch_norm::fold(device, grid, weight, bias, mean, var, &mut scale, &mut shift, channels, EPS)?;
    Ok((scale, shift))
}

fn normalise(tape: &Tape, x: Var, norm: Norm, relu: bool) -> Result<Var> {
    let Norm { weight, bias, mean, var, mode, rows } = norm;
    let vars = [x, weight, bias];
    let [input, w, b] = vars.map(|v| tape.value(v));
    check(&input, [&w, &b, mean, var])?;
    let plan = Plan::new(&input, rows);
    let stats = match mode {
        BnMode::Train => plan.batch_stats(&input, &w, &b, Some((mean, var)))?,
        BnMode::Batch => plan.batch_stats(&input, &w, &b, None)?,
        BnMode::Eval => plan.running_stats(&w, &b, mean, var)?,
    };
    let keep_mask = relu && vars.iter().any(|v| tape.needs(*v));
    let (out, mask) = plan.apply(&input, &stats, relu, keep_mask)?;
    let saved = Saved { plan, input, stats, mask };
    tape.push(out, &vars, move |grad, sink| {
        let wants = Wants {
            through_stats: mode != BnMode::Eval && sink.wants(x),
            weight: sink.wants(weight),
            bias: sink.wants(bias),
        };
        let sums = saved.sums(grad, wants)?;
        if let Some((into, accumulate)) = sink.slot(x)? {
            saved.input_grad(grad, sums.coefficients.as_ref(), into, accumulate)?;
        }
        for (var, gradient) in [(weight, sums.weight), (bias, sums.bias)] {
            if let Some(gradient) = gradient {
                sink.pass(var, &gradient)?;
            }
        }
        Ok(())
    })
}

fn check(x: &Tensor, per_channel: [&Tensor; 4]) -> Result<()> {
    let wrong = |expected: String, got: &Tensor| {
        Err(Error::Shape { op: "batch_norm", expected, got: got.shape().to_vec() })
    };
    if x.is_empty() {
        return wrong("at least one element".into(), x);
    }
    let channels = x.shape().last().copied().unwrap_or(0);
    match per_channel.into_iter().find(|tensor| tensor.shape() != [channels]) {
        Some(tensor) => wrong(format!("[{channels}] per channel"), tensor),
        None => Ok(()),
    }
}

/// How the kernels share the work; it depends on the sizes and the kind of device alone, so that results do
/// not depend on its cores.
struct Plan {
    device: Device,
    /// Which images the statistics are of, and the rows of each.
    images: Rows,
    rows_per_image: usize,
    /// Pixels of all images.
    rows: usize,
    channels: usize,
    /// Vectors of channels.
    groups: usize,
    /// Groups side by side in a block.
    side: usize,
    rows_per_block: usize,
}

impl Plan {
    fn new(x: &Tensor, images: &Rows) -> Plan {
        let (device, channels) = (x.device(), x.shape().last().copied().unwrap_or(1));
        let rows = x.len() / channels;
        let rows_per_image = rows / if x.shape().len() > 1 { x.shape()[0] } else { 1 };
        let groups = channels.div_ceil(kernels::VEC.on(device));
        let (tile, threads) = (batch_norm::TILE.on(device), batch_norm::THREADS.on(device));
        let side = groups.next_power_of_two().min(tile).min(threads);
        // As many rows as a block's threads hold at once are the least; beyond that, enough blocks for a
        // large GPU, or chunks that stay in a core's first-level cache.
        let least = threads / side * batch_norm::BATCH.on(device);
        let rows_per_block = if device.is_host() {
            (8192 / channels).max(rows.div_ceil(1024))
        } else {
            rows.div_ceil(1024usize.div_ceil(groups.div_ceil(tile)))
        };
        Plan {
            device: device.clone(),
            images: images.clone(),
            rows_per_image,
            rows,
            channels,
            groups,
            side,
            rows_per_block: rows_per_block.max(1).next_multiple_of(least),
        }
    }

    /// `[4,C]` of the running statistics.
    fn running_stats(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
    ) -> Result<Buffer<f32>> {
        let mut stats = self.stats()?;
        let (device, grid) = (&self.device, self.groups.div_ceil(32));
        batch_norm::running(device, grid, mean, var, weight, bias, &mut stats, self.channels, EPS)?;
        Ok(stats)
    }

    /// `[4,C]` of the batch; the running mean and variance move towards it.
    fn batch_stats(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        running: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Result<Buffer<f32>> {
        let Plan { rows, channels, side, rows_per_block, .. } = *self;
        let (mut stats, mut partial) = (self.stats()?, self.partial()?);
        let (existing, per_image) = self.images.of_images(self.rows_per_image)?;
        let device = &self.device;
        batch_norm::statistics(
            device,
            self.columns(),
            x,
            &mut partial,
            existing,
            per_image,
            rows,
            channels,
            side,
            rows_per_block,
        )?;
        let (running_mean, running_var) = match running {
            Some((mean, var)) => (Some(mean.make_mut()?), Some(var.make_mut()?)),
            None => (None, None),
        };
        batch_norm::Finish {
            partial: &partial,
            weight,
            bias,
            running_mean,
            running_var,
            stats: &mut stats,
            existing,
            per_image,
            rows,
            channels,
            rows_per_block,
            eps: EPS,
            momentum: MOMENTUM,
        }
        .launch(device, self.groups)?;
        Ok(stats)
    }

    /// x normalised, and the bits of the ReLU where they are to be kept.
    fn apply(
        &self,
        x: &Tensor,
        stats: &Buffer<f32>,
        relu: bool,
        keep_mask: bool,
    ) -> Result<(Tensor, Option<Buffer<u8>>)> {
        let mut y = Tensor::uninit(&self.device, x.shape())?;
        let mut mask =
            keep_mask.then(|| Buffer::<u8>::uninit(&self.device, mask_bytes(x.len()))).transpose()?;
        let (existing, per_image) = self.images.of_images(self.rows_per_image)?;
        let Plan { rows, channels, .. } = *self;
        let to = (&mut y, mask.as_mut());
        batch_norm::Apply { x, stats, y: to.0, mask: to.1, existing, per_image, rows, channels, relu }
            .launch(&self.device, self.elements())?;
        Ok((y, mask))
    }

    /// The grid of a kernel that walks down columns.
    fn columns(&self) -> (usize, usize) {
        (self.chunks(), self.groups.div_ceil(batch_norm::TILE.on(&self.device)))
    }

    /// The grid of a kernel that works on single elements.
    fn elements(&self) -> usize {
        (self.rows * self.groups).div_ceil(batch_norm::PAIRS.on(&self.device))
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_block)
    }

    fn padded(&self) -> usize {
        self.groups * kernels::VEC.on(&self.device)
    }

    fn stats(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, 4 * self.padded())
    }

    fn partial(&self) -> Result<Buffer<f32>> {
        Buffer::uninit(&self.device, self.chunks() * 2 * self.padded())
    }
}

/// Values of the forward pass that the backward pass reads.
struct Saved {
    plan: Plan,
    input: Tensor,
    stats: Buffer<f32>,
    mask: Option<Buffer<u8>>,
}

/// The sums over rows that are wanted.
struct Wants {
    /// The gradient of x through the batch's statistics.
    through_stats: bool,
    weight: bool,
    bias: bool,
}

struct Sums {
    /// `[2,C]`: the mean of the gradient, and its covariance with the normalised x.
    coefficients: Option<Buffer<f32>>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Saved {
    fn sums(&self, grad_out: &Tensor, wants: Wants) -> Result<Sums> {
        let Saved { plan, input: x, stats, mask } = self;
        let Plan { device, rows, channels, side, rows_per_block, .. } = plan;
        let coefficients = || Buffer::uninit(device, 2 * plan.padded());
        let gradient = |wanted: bool| wanted.then(|| Tensor::uninit(device, &[*channels])).transpose();
        let mut sums = Sums {
            coefficients: wants.through_stats.then(coefficients).transpose()?,
            weight: gradient(wants.weight)?,
            bias: gradient(wants.bias)?,
        };
        if !(wants.through_stats || wants.weight || wants.bias) {
            return Ok(sums);
        }
        let (mask, mut partial) = (mask.as_ref(), plan.partial()?);
        let (existing, per_image) = plan.images.of_images(plan.rows_per_image)?;
        let (rows, channels, side, rows_per_block) = (*rows, *channels, *side, *rows_per_block);
        batch_norm::Sums {
            grad_out,
            mask,
            x,
            stats,
            partial: &mut partial,
            existing,
            per_image,
            rows,
            channels,
            side,
            rows_per_block,
        }
        .launch(device, plan.columns())?;
        batch_norm::SumsFinish {
            partial: &partial,
            stats,
            grad_weight: sums.weight.as_mut().map(Tensor::make_mut).transpose()?,
            grad_bias: sums.bias.as_mut().map(Tensor::make_mut).transpose()?,
            coefficients: sums.coefficients.as_mut(),
            existing,
            per_image,
            rows,
            channels,
            rows_per_block,
        }
        .launch(device, plan.groups)?;
        Ok(sums)
    }

    fn input_grad(
        &self,
        grad_out: &Tensor,
        coefficients: Option<&Buffer<f32>>,
        grad_in: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        let Saved { plan, input: x, stats, mask } = self;
        let Plan { rows, channels, .. } = *plan;
        let (existing, per_image) = plan.images.of_images(plan.rows_per_image)?;
        batch_norm::Backward {
            grad_out,
            mask: mask.as_ref(),
            x,
            stats,
            coefficients,
            grad_in,
            existing,
            per_image,
            rows,
            channels,
            accumulate,
        }
        .launch(&plan.device, plan.elements())
    }
}

#[cfg(test)]
type Wide = Vec<Vec<f64>>;

/// x, weight, bias, running mean, running variance to what batch norm gives, and the new running statistics.
#[cfg(test)]
pub(super) fn oracle(values: &[Vec<f64>], mode: BnMode) -> (Vec<f64>, Wide) {
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

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let op = |name: &str, x: Input, mode: BnMode, fused: bool, wanted: [bool; 3]| {
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
            batch_norm(
                tape,
                v[0],
                Norm { weight: v[1], bias: v[2], mean, var, mode, rows: &Rows::All },
                fused,
            )
        };
        let want = move |v: &[Vec<f64>]| {
            let (y, _) = oracle(&[v.to_vec(), running.clone()].concat(), mode);
            y.into_iter().map(|y| if fused { y.max(0.0) } else { y }).collect()
        };
        Case::op(label, inputs, run, want)
    };
    // With this seed no value lies so near to the kink of ReLU that central differences step over it.
    const FUSED_SEED: u64 = 11;
    let shapes: [&[usize]; 11] = [
        &[1, 1, 1, 1],
        &[5, 1],
        &[3, 7, 5, 3],
        &[2, 33],
        &[2, 3, 1, 257],
        &[2, 4, 4, 16],
        &[3, 3, 3, 40],
        &[1, 1, 1, 64],
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
    cases.push(
        op("many chunks", Input::normal(&[1, 1, 20000, 64]), BnMode::Train, true, [false; 3])
            .tolerance(2e-5, 2e-5),
    );
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
    let of = |seed| Input::normal_seeded(&[37], seed);
    let run = |_: &Device, t: &[Tensor]| {
        let (scale, shift) = fold(&t[0], &t[1], &t[2], &t[3])?;
        Ok([scale.to_vec()?, shift.to_vec()?].concat())
    };
    cases.push(Case::kernel("fold", [of(1), of(2), of(3), Input::uniform(&[37], 0.0, 2.0)], run, |v| {
        let scale: Vec<f64> = v[0].iter().zip(&v[3]).map(|(w, var)| w / (var + EPS as f64).sqrt()).collect();
        let shift = (0..37).map(|c| v[1][c] - v[2][c] * scale[c]).collect();
        [scale, shift].concat()
    }));
    cases
}

#[cfg(test)]
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
