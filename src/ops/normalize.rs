//! Normalisation of images with the mean and standard deviation of a data set, per channel.

use super::prelude::*;
use kernels::normalize;
use std::sync::Arc;

/// The numbers of a normalisation, on a device. A clone shares them.
#[derive(Clone)]
pub struct Normalize(Arc<Numbers>);

struct Numbers {
    channels: usize,
    /// Both repeat with the channels as the period; see the kernel.
    mean: Buffer<f32>,
    factor: Arc<Buffer<f32>>,
}

impl Normalize {
    /// For images of `channels` channels. Errors: other lengths, no channel, or a standard deviation that is
    /// not a positive number.
    pub fn new(device: &Device, mean: &[f32], std: &[f32], channels: usize) -> Result<Normalize> {
        if channels == 0 || mean.len() != channels || std.len() != channels {
            let (expected, got) = (
                format!("means and standard deviations of {channels} channels"),
                vec![mean.len(), std.len()],
            );
            return Err(Error::Shape { op: "normalize", expected, got });
        }
        if let Some(bad) = std.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(Error::value("std", bad, "a standard deviation must be a positive number"));
        }
        let length = channels + kernels::VEC.on(device);
        let repeat = |values: Vec<f32>| {
            Buffer::from_slice(device, &values.iter().copied().cycle().take(length).collect::<Vec<f32>>())
        };
        let factor = std.iter().map(|s| 1.0 / s).collect();
        let (mean, factor) = (repeat(mean.to_vec())?, Arc::new(repeat(factor)?));
        Ok(Normalize(Arc::new(Numbers { channels, mean, factor })))
    }

    /// (x - mean) / std per channel, for x of shape `[..., C]`.
    pub fn forward(&self, tape: &Tape, x: Var) -> Result<Var> {
        let input = tape.value(x);
        let (device, n, numbers) = (tape.device(), input.len(), self.0.clone());
        if input.shape().last() != Some(&numbers.channels) {
            let expected = format!("{} channels", numbers.channels);
            return Err(Error::Shape { op: "normalize", expected, got: input.shape().to_vec() });
        }
        let (grid, channels) = (elementwise(device, n), numbers.channels);
        let mut out = Tensor::uninit(device, input.shape())?;
        normalize::forward(device, grid, &input, &numbers.mean, &numbers.factor, &mut out, channels, n)?;
        let factor = numbers.factor.clone();
        let normalized = tape.push(out, &[x], move |grad, sink| {
            let Some((into, accumulate)) = sink.slot(x)? else { return Ok(()) };
            let (device, factor) = (grad.device(), &numbers.factor);
            normalize::backward(device, grid, grad, factor, into, channels, n, accumulate)
        })?;
        tape.note_scaled(normalized, x, &factor);
        Ok(normalized)
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let numbers = |channels: usize| -> [Vec<f32>; 2] {
        let [mean, std] = [Input::normal(&[channels]), Input::uniform(&[channels], 0.2, 2.0)];
        [mean.values, std.values]
    };
    let case = |shape: &Vec<usize>| {
        let channels = shape[shape.len() - 1];
        let [mean, std] = numbers(channels);
        let wide = [&mean, &std].map(|v| v.iter().map(|v| *v as f64).collect::<Vec<f64>>());
        let run = move |tape: &Tape, v: &[Var]| {
            Normalize::new(tape.device(), &mean, &std, channels)?.forward(tape, v[0])
        };
        Case::op(format!("normalize {shape:?}"), [Input::normal(shape)], run, move |v| {
            let [mean, std] = &wide;
            v[0].iter().enumerate().map(|(i, x)| (x - mean[i % mean.len()]) / std[i % std.len()]).collect()
        })
    };
    ugly_shapes().iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_numbers_are_errors() {
        let device = Device::host().unwrap();
        for (mean, std) in [
            (&[][..], &[][..]),
            (&[0.5], &[]),
            (&[0.5], &[0.0]),
            (&[0.5], &[f32::NAN]),
            (&[0.5; 3], &[1.0; 3]),
        ] {
            assert!(Normalize::new(&device, mean, std, mean.len().min(2)).is_err());
        }
        let tape = Tape::new(&device);
        let x = tape.constant(Tensor::zeros(&device, &[2, 3]).unwrap());
        assert!(Normalize::new(&device, &[0.5; 2], &[1.0; 2], 2).unwrap().forward(&tape, x).is_err());
    }
}
