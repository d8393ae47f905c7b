//! Batches from a data set that lies on the device as bytes or floats: images with random crops and flips,
//! and labels.

use super::prelude::*;
use crate::rng::{Key, Purpose};
use kernels::augment;

/// The border of an image that is padded and cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Padding {
    /// Value 0.
    Zero,
    /// The image mirrored at its edge pixels, which are not repeated.
    Reflect,
}

/// The augmentation of images on their way into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// Pixels of padding on each side, of which a random crop of the image's size is taken; 0: no crop.
    pub pad: usize,
    pub padding: Padding,
    /// Mirror half of the images left to right.
    pub flip: bool,
    /// How many differently drawn copies of the batch are made.
    pub views: usize,
    /// The random numbers: crop and flip follow from it, the image's index and the view.
    pub key: Key,
}

impl Augmentation {
    /// Unchanged images.
    pub fn none() -> Augmentation {
        let key = Key::new(0, Purpose::Augment, 0, 0);
        Augmentation { pad: 0, padding: Padding::Zero, flip: false, views: 1, key }
    }

    /// A random crop after zero padding, and a flip in half of the cases.
    pub fn crop_flip(pad: usize, seed: u64, epoch: u32) -> Augmentation {
        Augmentation {
            pad,
            flip: true,
            key: Key::new(seed, Purpose::Augment, epoch, 0),
            ..Augmentation::none()
        }
    }

    /// The same with another padding.
    pub fn padded(self, padding: Padding) -> Augmentation {
        Augmentation { padding, ..self }
    }

    /// The same with several views in one batch.
    pub fn views(self, views: usize) -> Augmentation {
        Augmentation { views, ..self }
    }
}

/// The images of a data set on a device, `[M, H, W, C]`.
pub enum StoredImages {
    Bytes(Buffer<u8>),
    Floats(Buffer<f32>),
}

impl StoredImages {
    /// The number of values of all images.
    fn len(&self) -> usize {
        match self {
            StoredImages::Bytes(bytes) => bytes.len(),
            StoredImages::Floats(floats) => floats.len(),
        }
    }
}

/// Images of a data set, `shape` = `[H, W, C]`, as floats `value * scale[c] + shift[c]`: those at `indices`,
/// view after view, `[views * B, H, W, C]`. An index outside of the data set gives NaN.
pub fn augment(
    images: &StoredImages,
    shape: [usize; 3],
    indices: &Buffer<i32>,
    scale: &Tensor,
    shift: &Tensor,
    how: &Augmentation,
) -> Result<Tensor> {
    let [height, width, channels] = shape;
    let Augmentation { pad, padding, flip, views, key } = *how;
    let (size, samples) = (height * width * channels, views * indices.len());
    if size == 0 || !images.len().is_multiple_of(size) {
        return Err(Error::Shape {
            op: "augment",
            expected: format!("whole images of {shape:?}"),
            got: vec![images.len()],
        });
    }
    if scale.len() != channels || shift.len() != channels {
        return Err(Error::Shape {
            op: "augment",
            expected: format!("{channels} channels"),
            got: vec![scale.len(), shift.len()],
        });
    }
    let reflect = padding == Padding::Reflect;
    if reflect && pad >= height.min(width) {
        return Err(Error::value(
            "crop padding",
            pad,
            format!("reflection needs less than the image's {height} x {width} pixels"),
        ));
    }
    let device = indices.device();
    let mut out = Tensor::uninit(device, &[samples, height, width, channels])?;
    let (out_images, key, known, per_view) = (&mut out, key.bits(), images.len() / size, indices.len());
    macro_rules! launch {
        ($kernel:ident, $data:ident) => {
            augment::$kernel {
                data: $data,
                images: indices,
                scale,
                shift,
                out: out_images,
                key,
                known,
                per_view,
                height,
                width,
                channels,
                pad,
                reflect,
                flip,
            }
            .launch(device, samples)?
        };
    }
    match images {
        StoredImages::Bytes(bytes) => launch!(Images, bytes),
        StoredImages::Floats(floats) => launch!(FloatImages, floats),
    }
    Ok(out)
}

/// The integers (labels, image numbers) at `indices`; -1 for an index past the end.
pub fn gather_i32(values: &Buffer<i32>, indices: &Buffer<i32>) -> Result<Buffer<i32>> {
    let (device, n) = (indices.device(), indices.len());
    let mut out = Buffer::uninit(device, n)?;
    augment::gather_i32(device, n.div_ceil(256), values, indices, &mut out, values.len(), n)?;
    Ok(out)
}

/// dy, dx and flip of an image, as the kernel draws them.
#[cfg(test)]
fn drawn(how: &Augmentation, image: i32, view: usize) -> (i64, i64, bool) {
    let words = crate::rng::philox(how.key.bits(), [0, image as u32, view as u32, 0]);
    let offset = |word: u32| ((word as u64 * (2 * how.pad as u64 + 1)) >> 32) as i64 - how.pad as i64;
    (offset(words[0]), offset(words[1]), how.flip && words[2] >> 31 == 1)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let random = |pad| Augmentation::crop_flip(pad, 9, 2);
    let ways = [
        Augmentation::none(),
        random(0),
        random(4),
        random(1).padded(Padding::Reflect),
        Augmentation { flip: false, ..random(4).padded(Padding::Reflect) },
        Augmentation { flip: false, ..random(9) },
    ];
    let mut cases = Vec::new();
    for shape in [[1, 1, 1], [8, 8, 1], [7, 5, 3], [32, 32, 3], [6, 9, 4], [3, 4, 7]] {
        let [h, w, c] = shape;
        let (known, indices): (usize, Vec<i32>) = (10, vec![3, 9, 0, 3, 7, -1, 10]);
        let values = Input::uniform(&[known, h, w, c], 0.0, 256.0).values;
        for how in ways.into_iter().filter(|how| how.padding == Padding::Zero || how.pad < h.min(w)) {
            for (views, as_bytes) in [(1, true), (2, true), (1, false), (2, false)] {
                let stored: Vec<f32> = values.iter().map(|v| if as_bytes { v.floor() } else { *v }).collect();
                let how = how.views(views);
                let scale: Vec<f32> = (0..c).map(|c| (c + 1) as f32 / 255.0).collect();
                let shift: Vec<f32> = (0..c).map(|c| c as f32 * 0.5).collect();
                let numbers = [Input::values(&[c], scale.clone()), Input::values(&[c], shift.clone())];
                let (stored_of_run, indices_of_run) = (stored.clone(), indices.clone());
                let run = move |device: &Device, t: &[Tensor]| {
                    let bytes: Vec<u8> = stored_of_run.iter().map(|value| *value as u8).collect();
                    let images = match as_bytes {
                        true => StoredImages::Bytes(Buffer::from_slice(device, &bytes)?),
                        false => StoredImages::Floats(Buffer::from_slice(device, &stored_of_run)?),
                    };
                    let indices = Buffer::from_slice(device, &indices_of_run)?;
                    augment(&images, shape, &indices, &t[0], &t[1], &how)?.to_vec()
                };
                let indices = indices.clone();
                let place = move |at: i64, size: usize| -> Option<usize> {
                    let mirrored = if at < 0 { -at } else { 2 * size as i64 - 2 - at };
                    match (0..size as i64).contains(&at) {
                        true => Some(at as usize),
                        false => (how.padding == Padding::Reflect).then_some(mirrored as usize),
                    }
                };
                let want = move |_: &[Vec<f64>]| {
                    let value = |at: usize| {
                        let (channel, x, y, sample) =
                            (at % c, at / c % w, at / (c * w) % h, at / (c * w * h));
                        let (image, view) = (indices[sample % indices.len()], sample / indices.len());
                        if !(0..known as i32).contains(&image) {
                            return f64::NAN;
                        }
                        let (dy, dx, flip) = drawn(&how, image, view);
                        let x = if flip { w - 1 - x } else { x } as i64 + dx;
                        let from = place(y as i64 + dy, h).zip(place(x, w));
                        let of = |(y, x)| stored[((image as usize * h + y) * w + x) * c + channel];
                        let value = from.map_or(0.0, of);
                        value as f64 * scale[channel] as f64 + shift[channel] as f64
                    };
                    (0..views * indices.len() * h * w * c).map(value).collect()
                };
                let kind = if as_bytes { "bytes" } else { "floats" };
                cases.push(Case::kernel(format!("augment {kind} {shape:?} {how:?}"), numbers, run, want));
            }
        }
    }
    let labels = |device: &Device, _: &[Tensor]| {
        let of = |values: &[i32]| Buffer::from_slice(device, values);
        let gathered = gather_i32(&of(&[7, 8, 9])?, &of(&[2, 0, 0, 1, 3, -1])?)?;
        Ok(gathered.to_vec()?.iter().map(|v| *v as f32).collect())
    };
    cases.push(Case::kernel("labels", [], labels, |_| vec![9.0, 7.0, 7.0, 8.0, -1.0, -1.0]));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_views_differ() {
        let how = Augmentation::crop_flip(4, 1, 0);
        let mut counts = [[0; 2]; 9];
        let mut equal = 0;
        for image in 0..9000 {
            let (dy, dx, flip) = drawn(&how, image, 0);
            counts[(dx + 4) as usize][flip as usize] += 1;
            equal += ((dy, dx, flip) == drawn(&how, image, 1)) as usize;
        }
        // Counts of mean 500, and 9000 / 162 chance agreements of the views: six standard deviations.
        assert!(counts.as_flattened().iter().all(|n| (370..630).contains(n)), "{counts:?}");
        assert!((10..100).contains(&equal), "{equal}");
    }

    #[test]
    fn unknown_images_are_nan_and_bad_sizes_errors() {
        let device = Device::host().unwrap();
        let images = StoredImages::Bytes(Buffer::from_slice(&device, &[255u8; 12]).unwrap());
        let indices = Buffer::from_slice(&device, &[2, 3, -1]).unwrap();
        let [scale, shift] = [1.0 / 255.0, 0.0].map(|v| Tensor::from_slice(&device, &[1], &[v]).unwrap());
        let batch = |shape, how| augment(&images, shape, &indices, &scale, &shift, &how);
        let out = batch([2, 2, 1], Augmentation::none()).unwrap().to_vec().unwrap();
        assert!(out[..4].iter().all(|v| *v == 1.0) && out[4..].iter().all(|v| v.is_nan()), "{out:?}");
        for shape in [[5, 1, 1], [0, 1, 1], [2, 1, 2]] {
            assert!(batch(shape, Augmentation::none()).is_err(), "{shape:?}");
        }
        assert!(batch([2, 2, 1], Augmentation::crop_flip(4, 1, 0).padded(Padding::Reflect)).is_err());
    }
}
