//! Any other images: a safetensors or `.npz` file with images and labels.
//!
//! Images are `uint8` `[N, H, W, C]`, or `float32` or `float64` `[N, C, H, W]` in `[0, 1]`; labels are
//! integers `[N]`. The tensors are `x_train`, `y_train`, `x_test` and `y_test`; or `x` and `y`, of which the
//! first 5/6 train and the rest, in the file's order, is the test part; or `x_adv` and `y`, the adversarial
//! images that `saddle attack` and `saddle eval --save-adv` write, which are all for tests.

use std::path::Path;

use super::{Dataset, ImageShape, Pixels, Source, Split, numbered_names, required_path};
use crate::error::{Error, Result, ensure};
use crate::files::safetensors::{Dtype, TensorView, floats, integers};
use crate::files::tensors::Tensors;
use crate::files::transposed;

/// The registry's entry.
pub(super) const FILE: Source = Source {
    name: "file",
    aliases: &["safetensors", "npz"],
    about: "any images: --data X.safetensors or X.npz with x_train, y_train, x_test, y_test, or x, y, or \
            x_adv, y (for tests only): uint8 [N,H,W,C] or floats [N,C,H,W]",
    sizes: None,
    load,
};

const PARTS: [&str; 4] = ["x_train", "y_train", "x_test", "y_test"];
const TENSORS: [&str; 7] = ["x_train", "y_train", "x_test", "y_test", "x", "y", "x_adv"];
const WANTED: &str = "x_train, y_train, x_test and y_test, or x and y, or x_adv and y";
/// Floats that are bytes divided by 255, but for the rounding of float32, are stored as bytes.
const ROUNDING: f32 = 1e-6;

fn load(path: Option<&Path>) -> Result<Split> {
    let path =
        required_path(path, FILE.name, &format!("a file: --data X.safetensors or X.npz with {WANTED}"))?;
    divided(Tensors::read(path, &TENSORS)?).map_err(|problem| Error::file(path, problem))
}

fn divided(mut file: Tensors) -> Result<Split, String> {
    if PARTS.iter().all(|name| file.has(name)) {
        let train = images(&mut file, "x_train", "y_train")?;
        let test = images(&mut file, "x_test", "y_test")?;
        ensure(train.shape == test.shape, || {
            format!("x_train has images of {:?}, x_test of {:?}", train.shape, test.shape)
        })?;
        let classes = train.classes.max(test.classes);
        let part = |part| Dataset { classes, class_names: numbered_names(classes), ..part };
        return Ok(Split { train: part(train), test: part(test), own_parts: true });
    }
    let x = ["x", "x_adv"].into_iter().find(|name| file.has(name));
    let x = x.filter(|_| file.has("y") && !PARTS.iter().any(|name| file.has(name)));
    let x = x.ok_or_else(|| format!("expected the tensors {WANTED}, found {}", file.names.join(", ")))?;
    let all = images(&mut file, x, "y")?;
    if x == "x_adv" {
        return Ok(all.split(0, true));
    }
    let train = all.len() * 5 / 6;
    ensure(train > 0, || format!("expected at least 2 images to split, found {}", all.len()))?;
    Ok(all.split(train, false))
}

/// The images of tensor `x` with the labels of tensor `y`, which may lack the highest classes.
fn images(file: &mut Tensors, x: &str, y: &str) -> Result<Dataset, String> {
    let missing = |name: &str| format!("{name}: missing");
    let pixels = file.take(x, pixels).ok_or_else(|| missing(x))?;
    let (shape, pixels) = pixels.map_err(|problem| format!("{x}: {problem}"))?;
    let found = pixels.len() / shape.bytes();
    let read = |tensor: &TensorView| {
        // Labels take eight times as much memory as their bytes in a file.
        let expected = label_count(tensor).map_err(|problem| format!("{y}: {problem}"))?;
        ensure(found == expected && found > 0, || {
            format!("{x} has {found} images, {y} {expected} labels; expected equal numbers, at least one")
        })?;
        labels(tensor).map_err(|problem| format!("{y}: {problem}"))
    };
    let labels = file.take(y, read).ok_or_else(|| missing(y))??;
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let set = Dataset::new(FILE.name, shape, pixels, labels, numbered_names(classes));
    Ok(Dataset { all_classes: false, ..set })
}

/// The pixels of images, `[N, H, W, C]`.
fn pixels(x: &TensorView) -> Result<(ImageShape, Pixels), String> {
    let expected = || {
        let found = format!("{:?} {:?}", x.dtype(), x.shape());
        format!("expected uint8 [N,H,W,C] or float [N,C,H,W] with 1 or 3 channels, found {found}")
    };
    let &[_, a, b, c] = x.shape() else { return Err(expected()) };
    let bytes = x.dtype() == Dtype::U8;
    let (height, width, channels) = if bytes { (a, b, c) } else { (b, c, a) };
    let shape = ImageShape { height, width, channels };
    ensure(
        matches!(channels, 1 | 3) && [height, width].iter().all(|size| (1..=65536).contains(size)),
        expected,
    )?;
    let planes: Vec<f32> = match x.dtype() {
        Dtype::U8 => return Ok((shape, Pixels::Bytes(x.data().to_vec()))),
        Dtype::F32 | Dtype::F64 => floats(x, |value| value as f32).ok_or_else(expected)?,
        _ => return Err(expected()),
    };
    if let Some(place) = planes.iter().position(|value| !(0.0..=1.0).contains(value)) {
        return Err(format!("element {place} is {}, expected a number in [0, 1]", planes[place]));
    }
    let floats = transposed(&planes, channels, height * width);
    let byte = |value: &f32| {
        let byte = (value * 255.0).round();
        ((value - byte / 255.0).abs() <= ROUNDING).then_some(byte as u8)
    };
    let bytes: Option<Vec<u8>> = floats.iter().map(byte).collect();
    Ok((shape, bytes.map_or(Pixels::Floats(floats), Pixels::Bytes)))
}

/// The number of labels in a tensor of integers.
fn label_count(y: &TensorView) -> Result<usize, String> {
    match (y.shape(), y.dtype()) {
        (&[count], Dtype::U8 | Dtype::I32 | Dtype::I64) => Ok(count),
        (shape, dtype) => Err(format!("expected uint8, int32 or int64 [N], found {dtype:?} {shape:?}")),
    }
}

/// Labels of any integer type.
fn labels(y: &TensorView) -> Result<Vec<i32>, String> {
    let values = integers(y).unwrap_or_default();
    let label = |(index, value): (usize, i64)| match u16::try_from(value) {
        Ok(label) => Ok(label.into()),
        Err(_) => Err(format!("label {index} is {value}, expected a class, counted from 0")),
    };
    values.into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file of these bytes.
    fn read(bytes: &[u8]) -> Result<Split, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = |error: Error| error.to_string().split_once("x.safetensors: ").unwrap().1.to_owned();
        crate::data::load("file", Some(&path)).map_err(error)
    }

    /// A file of tensors given as name, type, shape and bytes.
    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let views =
            tensors.iter().map(|(name, dtype, shape, bytes)| (*name, view(*dtype, shape, bytes.as_slice())));
        ::safetensors::serialize(views, None).unwrap()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn integers(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn one_pair_is_split_five_to_one() {
        let bytes: Vec<u8> = (0..42).collect();
        let labels = integers(&[0, 1, 2, 0, 1, 2, 4]);
        let file = file(&[("x", Dtype::U8, &[7, 1, 2, 3], bytes.clone()), ("y", Dtype::I64, &[7], labels)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, file).unwrap();
        let Split { train, test, own_parts } = crate::data::load("file", Some(&path)).unwrap();
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), (&[0, 1, 2, 0, 1][..], &[2, 4][..]));
        assert_eq!([train.images.as_bytes(), test.images.as_bytes()].concat(), bytes);
        assert!(!own_parts);
        assert_eq!((train.classes, test.classes, train.class_names.len()), (5, 5, 5));
        assert_eq!(
            (test.shape, test.byte_scale),
            (ImageShape { height: 1, width: 2, channels: 3 }, 1.0 / 255.0)
        );
    }

    #[test]
    fn floats_of_bytes_become_bytes_and_planes_pixels() {
        let train: Vec<f32> =
            [1u8, 2, 3, 4, 5, 255].iter().map(|&byte| f32::from(byte) * (1.0 / 255.0)).collect();
        let test: Vec<u8> =
            [0.0f64, 1.0, 0.2, 0.4, 0.6, 0.8].iter().flat_map(|value| value.to_le_bytes()).collect();
        let split = read(&file(&[
            ("x_train", Dtype::F32, &[1, 3, 1, 2], floats(&train)),
            ("y_train", Dtype::U8, &[1], vec![1]),
            ("x_test", Dtype::F64, &[1, 3, 1, 2], test),
            ("y_test", Dtype::I32, &[1], 3i32.to_le_bytes().to_vec()),
        ]))
        .unwrap();
        assert_eq!(split.train.images, Pixels::Bytes(vec![1, 3, 5, 2, 4, 255]));
        assert_eq!(split.test.images, Pixels::Bytes(vec![0, 51, 153, 255, 102, 204]));
        assert_eq!((split.train.labels[0], split.test.labels[0], split.train.classes), (1, 3, 4));
    }

    #[test]
    fn other_floats_stay_as_they_are() {
        let values = [0.0f32, 0.25, 0.0025, 1.0, 1.0 / 255.0, 0.5];
        let y = || ("y", Dtype::I64, &[2usize][..], integers(&[1, 0]));
        let split = read(&file(&[("x", Dtype::F32, &[2, 3, 1, 1], floats(&values)), y()])).unwrap();
        assert_eq!(split.train.images, Pixels::Floats(values[..3].to_vec()));
        assert_eq!((split.train.byte_scale, split.test.image(0)), (1.0, Some(values[3..].to_vec())));
        // Adversarial images are for tests only; the clean ones go before them.
        let adversarial = ("x_adv", Dtype::F32, &[2usize, 1, 1, 3][..], floats(&values));
        let split = read(&file(&[adversarial.clone(), y()])).unwrap();
        assert_eq!((split.train.len(), split.test.len(), split.own_parts), (0, 2, true));
        assert_eq!(split.test.images, Pixels::Floats(values.to_vec()));
        let both = read(&file(&[adversarial, ("x", Dtype::U8, &[2, 1, 1, 1], vec![7, 8]), y()])).unwrap();
        assert_eq!((both.train.images, both.test.images), (vec![7].into(), vec![8].into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let x = ("x", Dtype::U8, &[2usize, 1, 1, 1][..], vec![1, 2]);
        let message = |x: (&str, Dtype, &[usize], Vec<u8>), y: (&str, Dtype, &[usize], Vec<u8>)| {
            read(&file(&[x, y])).unwrap_err()
        };
        let y = |labels: &[i64]| integers(labels);
        assert_eq!(
            message(x.clone(), ("y", Dtype::I64, &[1], y(&[0]))),
            "x has 2 images, y 1 labels; expected equal numbers, at least one"
        );
        assert_eq!(
            message(x.clone(), ("y", Dtype::I64, &[2], y(&[0, -1]))),
            "y: label 1 is -1, expected a class, counted from 0"
        );
        assert_eq!(
            message(x.clone(), ("z", Dtype::I64, &[1], y(&[0]))),
            format!("expected the tensors {WANTED}, found x, z")
        );
        assert_eq!(
            message(x.clone(), ("y", Dtype::F32, &[2], floats(&[0.0, 1.0]))),
            "y: expected uint8, int32 or int64 [N], found F32 [2]"
        );
        let labels = ("y", Dtype::I64, &[1usize][..], y(&[0]));
        let planes = message(("x", Dtype::U8, &[1, 3, 1, 2], vec![0; 6]), labels.clone());
        assert_eq!(
            planes,
            "x: expected uint8 [N,H,W,C] or float [N,C,H,W] with 1 or 3 channels, found U8 [1, 3, 1, 2]"
        );
        for (value, shown) in [(-0.1f32, "-0.1"), (1.00001, "1.00001"), (2.0, "2"), (f32::NAN, "NaN")] {
            let error = message(("x", Dtype::F32, &[1, 1, 1, 2], floats(&[0.0, value])), labels.clone());
            assert!(error == format!("x: element 1 is {shown}, expected a number in [0, 1]"), "{error}");
        }
        let single = message(("x", Dtype::U8, &[1, 1, 1, 1], vec![1]), labels);
        assert_eq!(single, "expected at least 2 images to split, found 1");
        assert!(read(b"PK\x03\x04").unwrap_err().starts_with("not a .npz file: "));
        let error = crate::data::load("file", None).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "data = none: file is read from a file: --data X.safetensors or X.npz with x_train"
            ),
            "{error}"
        );
    }
}
