//! Random points around images, where attacks start.
//!
//! `images` holds the data set index of every row of `x`. When `x` has a multiple of that many rows, it holds
//! several views of the same images, one view after the other, and each view gets noise of its own.

use super::prelude::*;
use crate::rng::Key;
use kernels::random_start;

/// A kind of noise, with its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    /// Uniform in (-eps, eps) for each value: uniform in the Linf ball.
    Linf(f32),
    /// Uniform in the L2 ball of radius eps.
    L2(f32),
    /// Normal with this standard deviation.
    Gaussian(f32),
}

/// x + sigma * N(0, 1), not clipped.
pub fn gaussian(x: &Tensor, sigma: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> {
    noisy(x, Noise::Gaussian(sigma), key, images, false)
}

/// x plus noise; with `clip` moved into `[0, 1]`.
pub fn noisy(x: &Tensor, noise: Noise, key: Key, images: &Buffer<i32>, clip: bool) -> Result<Tensor> {
    let Sizes { samples, per_view, size } = Sizes::of(x, images)?;
    let (device, key, mut out) = (x.device(), key.bits(), Tensor::uninit(x.device(), x.shape())?);
    let runs =
        (samples * size.div_ceil(4 * random_start::QUADS.on(device))).div_ceil(random_start::RUNS.on(device));
    let to = &mut out;
    match noise {
        Noise::Linf(eps) => {
            random_start::Uniform { x, images, out: to, key, eps, clip, samples, per_view, size }
                .launch(device, runs)?
        }
        Noise::Gaussian(sigma) => {
            random_start::Gaussian { x, images, out: to, key, sigma, clip, samples, per_view, size }
                .launch(device, runs)?
        }
        Noise::L2(eps) => random_start::ball(device, samples, x, images, to, key, eps, clip, per_view, size)?,
    }
    Ok(out)
}

/// `clip01(x + eps * t / (|t| + 1e-12))`, a random point of the surface of the ball: t is uniform in (-1, 1)
/// and |t| its largest entry for [`Noise::Linf`], t is normal and |t| its length for [`Noise::L2`]. Every row
/// has an image index and a view of its own.
pub fn surface(
    x: &Tensor,
    noise: Noise,
    key: Key,
    images: &Buffer<i32>,
    views: &Buffer<i32>,
) -> Result<Tensor> {
    let Sizes { samples, per_view, size } = Sizes::of(x, images)?;
    if samples != per_view || views.len() != images.len() {
        let expected = format!("{} images and {} views", images.len(), views.len());
        return Err(Error::Shape { op: "random start", expected, got: x.shape().to_vec() });
    }
    let (eps, l2) = match noise {
        Noise::Linf(eps) => (eps, false),
        Noise::L2(eps) => (eps, true),
        Noise::Gaussian(sigma) => {
            return Err(Error::value("sigma", sigma, "normal noise has no surface to start from"));
        }
    };
    let (device, mut out) = (x.device(), Tensor::uninit(x.device(), x.shape())?);
    random_start::surface(device, images.len(), x, images, views, &mut out, key.bits(), eps, l2, size)?;
    Ok(out)
}

struct Sizes {
    samples: usize,
    per_view: usize,
    size: usize,
}

impl Sizes {
    fn of(x: &Tensor, images: &Buffer<i32>) -> Result<Sizes> {
        let samples = x.shape().first().copied().unwrap_or(0);
        if images.is_empty() != (samples == 0) || samples % images.len().max(1) != 0 {
            let expected = format!("a multiple of {} images", images.len());
            return Err(Error::Shape { op: "random start", expected, got: x.shape().to_vec() });
        }
        Ok(Sizes { samples, per_view: images.len(), size: x.len() / samples.max(1) })
    }
}

#[cfg(test)]
mod oracle {
    use crate::rng::philox;

    /// The kernels' draw for element `at` of an image, in float64.
    pub fn signed(key: u64, at: usize, image: i32, view: usize) -> f64 {
        centred(philox(key, [at as u32 / 4, image as u32, view as u32, 0])[at % 4])
    }

    fn centred(bits: u32) -> f64 {
        ((bits >> 9) as f64 + 0.5) / (1u64 << 22) as f64 - 1.0
    }

    pub fn normal(key: u64, at: usize, image: i32, view: usize) -> f64 {
        let words = philox(key, [at as u32 / 4, image as u32, view as u32, 0]);
        let (a, b) = if at % 4 < 2 { (words[0], words[1]) } else { (words[2], words[3]) };
        // The kernel rounds the word to float32.
        let unit = a as f32 as f64 / (1u64 << 32) as f64 + 1.0 / (1u64 << 33) as f64;
        let (radius, angle) = ((-2.0 * unit.min(1.0).ln()).sqrt(), std::f64::consts::PI * centred(b));
        radius * if at.is_multiple_of(2) { angle.cos() } else { angle.sin() }
    }

    pub fn length(key: u64, image: i32, view: usize, size: usize) -> f64 {
        let bits = philox(key, [0, image as u32, view as u32, 1])[0];
        (((bits >> 9) as f64 + 0.5) / (1u64 << 23) as f64).powf(1.0 / size as f64)
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    use crate::rng::Purpose;
    let key = Key::new(42, Purpose::AttackStart, 3, 5);
    let images = [5, 49_999, 0, 7];
    let shapes: [&[usize]; 8] =
        [&[1, 1], &[2, 6], &[3, 7], &[2, 33], &[3, 7, 5, 3], &[4, 8, 8, 1], &[2, 32, 32, 3], &[8, 3, 1, 257]];
    let mut cases = Vec::new();
    for shape in shapes {
        let per_view = shape[0].min(4);
        for kind in [Noise::Linf as fn(f32) -> Noise, Noise::L2, Noise::Gaussian] {
            for (eps, clip) in [(8.0f32 / 255.0, true), (0.5, false), (0.5, true), (0.0, true)] {
                let size: usize = shape[1..].iter().product();
                let noise = kind(eps);
                let run = move |device: &Device, t: &[Tensor]| {
                    noisy(&t[0], noise, key, &Buffer::from_slice(device, &images[..per_view])?, clip)?
                        .to_vec()
                };
                let drawn = move |sample: usize| -> Vec<f64> {
                    let (image, view) = (images[sample % per_view], sample / per_view);
                    let normals = || {
                        (0..size).map(|i| oracle::normal(key.bits(), i, image, view)).collect::<Vec<f64>>()
                    };
                    match noise {
                        Noise::Linf(_) => {
                            (0..size).map(|i| oracle::signed(key.bits(), i, image, view)).collect()
                        }
                        Noise::Gaussian(_) => normals(),
                        Noise::L2(_) => {
                            let n = normals();
                            let norm = n.iter().map(|v| v * v).sum::<f64>().sqrt();
                            n.iter()
                                .map(|v| v / norm * oracle::length(key.bits(), image, view, size))
                                .collect()
                        }
                    }
                };
                let want = move |v: &[Vec<f64>]| {
                    let all = (0..v[0].len() / size).flat_map(drawn);
                    all.zip(&v[0])
                        .map(|(n, x)| x + eps as f64 * n)
                        .map(|v| if clip { v.clamp(0.0, 1.0) } else { v })
                        .collect()
                };
                cases.push(Case::kernel(
                    format!("{noise:?} {shape:?} clip {clip}"),
                    [Input::uniform(shape, 0.0, 1.0)],
                    run,
                    want,
                ));
            }
        }
    }
    for shape in shapes.into_iter().filter(|shape| shape[0] <= images.len()) {
        for noise in [Noise::Linf(8.0 / 255.0), Noise::L2(0.5), Noise::Linf(0.0)] {
            let (rows, size) = (shape[0], shape[1..].iter().product());
            let views = [3, 0, 9, 2];
            let run = move |device: &Device, t: &[Tensor]| {
                let of = |values: &[i32]| Buffer::from_slice(device, &values[..rows]);
                surface(&t[0], noise, key, &of(&images)?, &of(&views)?)?.to_vec()
            };
            let want = move |v: &[Vec<f64>]| {
                let row = |row: usize| {
                    let draw = |i| match noise {
                        Noise::Linf(_) => oracle::signed(key.bits(), i, images[row], views[row] as usize),
                        _ => oracle::normal(key.bits(), i, images[row], views[row] as usize),
                    };
                    let t: Vec<f64> = (0..size).map(draw).collect();
                    let (eps, norm) = match noise {
                        Noise::L2(eps) => (eps, t.iter().map(|v| v * v).sum::<f64>().sqrt()),
                        Noise::Linf(eps) | Noise::Gaussian(eps) => {
                            (eps, t.iter().fold(0.0, |m: f64, v| m.max(v.abs())))
                        }
                    };
                    t.into_iter().map(move |v| eps as f64 * v / (norm + 1e-12))
                };
                (0..rows).flat_map(row).zip(&v[0]).map(|(d, x)| (x + d).clamp(0.0, 1.0)).collect()
            };
            cases.push(Case::kernel(
                format!("surface {noise:?} {shape:?}"),
                [Input::uniform(shape, 0.0, 1.0)],
                run,
                want,
            ));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn draw(noise: Noise, images: &[i32], size: usize, key: Key) -> Vec<f32> {
        let device = Device::host().unwrap();
        let x = Tensor::zeros(&device, &[images.len(), size]).unwrap();
        noisy(&x, noise, key, &Buffer::from_slice(&device, images).unwrap(), false).unwrap().to_vec().unwrap()
    }

    const KEY: Key = Key { seed: 11, purpose: Purpose::AttackStart, epoch: 0, view: 0 };
    const NEXT: Key = Key { view: 1, ..KEY };

    fn moments(values: &[f32]) -> (f64, f64) {
        let mean = values.iter().map(|v| *v as f64).sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    #[test]
    fn moments_and_ranges() {
        let images: Vec<i32> = (0..100).collect();
        let values = draw(Noise::Linf(1.0), &images, 3072, KEY);
        let (mean, variance) = moments(&values);
        // Five standard errors: 1 / sqrt(3 * 307200) and, for the variance, sqrt(4 / 45 / 307200).
        assert!(mean.abs() < 5.2e-3 && (variance - 1.0 / 3.0).abs() < 2.7e-3, "{mean} {variance}");
        assert!(
            values.iter().all(|v| v.abs() < 1.0)
                && values.iter().any(|v| *v < -0.9999)
                && values.iter().any(|v| *v > 0.9999)
        );
        let values = draw(Noise::Gaussian(1.0), &images, 3072, KEY);
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 9.1e-3 && (variance - 1.0).abs() < 1.3e-2, "{mean} {variance}");
        let beyond_two = values.iter().filter(|v| v.abs() > 2.0).count() as f64 / values.len() as f64;
        assert!((beyond_two - 0.0455).abs() < 2e-3, "{beyond_two}");
    }

    #[test]
    fn ball_is_filled_evenly() {
        // In three dimensions the cube of the radius is uniform, and so is each coordinate's sign.
        let images: Vec<i32> = (0..20_000).collect();
        let values = draw(Noise::L2(1.0), &images, 3, KEY);
        let radii: Vec<f32> = values.chunks(3).map(|p| p.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
        assert!(radii.iter().all(|r| *r <= 1.00001));
        let cubes: Vec<f32> = radii.iter().map(|r| r.powi(3)).collect();
        let (mean, variance) = moments(&cubes);
        assert!((mean - 0.5).abs() < 0.011 && (variance - 1.0 / 12.0).abs() < 0.003, "{mean} {variance}");
        for axis in 0..3 {
            let coordinate: Vec<f32> = values.iter().skip(axis).step_by(3).copied().collect();
            let (mean, variance) = moments(&coordinate);
            assert!(mean.abs() < 0.016 && (variance - 0.2).abs() < 0.01, "{mean} {variance}");
        }
    }

    #[test]
    fn noise_belongs_to_the_image() {
        for noise in [Noise::Linf(1.0), Noise::Gaussian(1.0), Noise::L2(1.0)] {
            let both = draw(noise, &[8, 3], 105, KEY);
            let (swapped, alone) = (draw(noise, &[3, 8], 105, KEY), draw(noise, &[3], 105, KEY));
            assert_eq!(both[105..], swapped[..105]);
            assert_eq!(both[105..], alone);
            assert_ne!(both[..105], both[105..]);
            assert_ne!(alone, draw(noise, &[3], 105, NEXT));
        }
    }

    #[test]
    fn images_views_and_steps_are_uncorrelated() {
        let device = Device::host().unwrap();
        let x = Tensor::zeros(&device, &[4, 30_000]).unwrap();
        let two = Buffer::from_slice(&device, &[0, 1]).unwrap();
        let first = noisy(&x, Noise::Linf(1.0), KEY, &two, false).unwrap().to_vec().unwrap();
        let second = noisy(&x, Noise::Linf(1.0), NEXT, &two, false).unwrap().to_vec().unwrap();
        let rows: Vec<&[f32]> = first.chunks(30_000).chain(second.chunks(30_000)).collect();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[..i] {
                let correlation = 3.0 * a.iter().zip(*b).map(|(a, b)| (a * b) as f64).sum::<f64>() / 30_000.0;
                assert!(correlation.abs() < 5.0 / 30_000f64.sqrt(), "{correlation}");
            }
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let device = Device::host().unwrap();
        let x = Tensor::zeros(&device, &[3, 5]).unwrap();
        for images in [&[][..], &[1, 2], &[1, 2, 3, 4]] {
            let images = Buffer::from_slice(&device, images).unwrap();
            assert!(noisy(&x, Noise::Linf(0.1), KEY, &images, true).is_err());
        }
    }
}
