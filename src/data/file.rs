//! Any other images: a safetensors or `.npz` file with images and labels.
//!
//! Images are `uint8` `[N, H, W, C]`, or `float32` or `float64` `[N, C, H, W]` in `[0, 1]`, bytes divided by
//! 255; labels are integers `[N]`. The tensors are `x_train`, `y_train`, `x_test` and `y_test`; or `x` and
//! `y`, of which the first 5/6 train and the rest, in the file's order, is the test part.

use std::path::Path;

use super::{Dataset, ImageShape, Source, Split, numbered_names, required_path};
use crate::error::{Error, Result, ensure};
use crate::files::npz::read_tensors;
use crate::files::safetensors::{Dtype, SafeTensors, TensorView, floats, integers};
use crate::files::transposed;

/// The registry's entry.
pub(super) const FILE: Source = Source {
    name: "file",
    aliases: &["safetensors", "npz"],
    about: "any images: --data X.safetensors or X.npz with x_train, y_train, x_test, y_test, or x, y: \
            uint8 [N,H,W,C] or floats [N,C,H,W]",
    load,
};

const PARTS: [&str; 4] = ["x_train", "y_train", "x_test", "y_test"];
const WANTED: &str = "x_train, y_train, x_test and y_test, or x and y";
/// The largest difference between a float and a byte divided by 255.
const TOLERANCE: f64 = 1e-4;

fn load(path: Option<&Path>) -> Result<Split> {
    let path =
        required_path(path, FILE.name, &format!("a file: --data X.safetensors or X.npz with {WANTED}"))?;
    read(&read_tensors(path)?).map_err(|problem| Error::file(path, problem))
}

fn read(bytes: &[u8]) -> Result<Split, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("expected a safetensors or .npz file: {error}"))?;
    let has = |name: &&str| file.names().contains(name);
    if PARTS.iter().all(has) {
        let (train, test) = (images(&file, "x_train", "y_train")?, images(&file, "x_test", "y_test")?);
        ensure(train.shape == test.shape, || {
            format!("x_train has images of {:?}, x_test of {:?}", train.shape, test.shape)
        })?;
        let classes = train.classes.max(test.classes);
        let part = |part| Dataset { classes, class_names: numbered_names(classes), ..part };
        return Ok(Split { train: part(train), test: part(test) });
    }
    ensure(!PARTS.iter().any(has) && ["x", "y"].iter().all(has), || {
        let mut found = file.names();
        found.sort_unstable();
        format!("expected the tensors {WANTED}, found {}", found.join(", "))
    })?;
    let all = images(&file, "x", "y")?;
    let train = all.len() * 5 / 6;
    ensure(train > 0, || format!("expected at least 2 images to split, found {}", all.len()))?;
    Ok(all.split(train))
}

/// The images of tensor `x` with the labels of tensor `y`, which may lack the highest classes.
fn images(file: &SafeTensors, x: &str, y: &str) -> Result<Dataset, String> {
    let tensor = |name: &str| file.tensor(name).map_err(|error| format!("{name}: {error}"));
    let (shape, bytes) = pixels(&tensor(x)?).map_err(|problem| format!("{x}: {problem}"))?;
    let labels = labels(&tensor(y)?).map_err(|problem| format!("{y}: {problem}"))?;
    let (found, expected) = (bytes.len() / shape.bytes(), labels.len());
    ensure(found == expected && found > 0, || {
        format!("{x} has {found} images, {y} {expected} labels; expected equal numbers, at least one")
    })?;
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let set = Dataset::new(FILE.name, shape, bytes, labels, numbered_names(classes));
    Ok(Dataset { all_classes: false, ..set })
}

/// The bytes of images, `[N, H, W, C]`.
fn pixels(x: &TensorView) -> Result<(ImageShape, Vec<u8>), String> {
    let expected = || {
        let found = format!("{:?} {:?}", x.dtype(), x.shape());
        format!("expected uint8 [N,H,W,C] or float [N,C,H,W] with 1 or 3 channels, found {found}")
    };
    let &[_, a, b, c] = x.shape() else { return Err(expected()) };
    let bytes = x.dtype() == Dtype::U8;
    let (height, width, channels) = if bytes { (a, b, c) } else { (b, c, a) };
    let shape = ImageShape { height, width, channels };
    ensure(matches!(channels, 1 | 3) && shape.bytes() > 0, expected)?;
    let planes = match x.dtype() {
        Dtype::U8 => return Ok((shape, x.data().to_vec())),
        Dtype::F32 | Dtype::F64 => quantize(floats(x, |value| value).ok_or_else(expected)?)?,
        _ => return Err(expected()),
    };
    Ok((shape, transposed(&planes, channels, height * width)))
}

/// The bytes whose quotients by 255 are `values`.
fn quantize(values: Vec<f64>) -> Result<Vec<u8>, String> {
    let byte = |(index, value): (usize, f64)| {
        let byte = (value * 255.0).round();
        let near = (0.0..=255.0).contains(&byte) && (value - byte / 255.0).abs() <= TOLERANCE;
        near.then_some(byte as u8).ok_or_else(|| {
            format!(
                "element {index} is {value}, not a multiple of 1/255 in [0, 1]; \
                 images are stored as bytes: save uint8 [N,H,W,C]"
            )
        })
    };
    values.into_iter().enumerate().map(byte).collect()
}

/// Labels of any integer type.
fn labels(y: &TensorView) -> Result<Vec<i32>, String> {
    let known = matches!((y.shape(), y.dtype()), ([_], Dtype::U8 | Dtype::I32 | Dtype::I64));
    let values = integers(y).filter(|_| known).ok_or_else(|| {
        format!("expected uint8, int32 or int64 [N], found {:?} {:?}", y.dtype(), y.shape())
    })?;
    let label = |(index, value): (usize, i64)| match u16::try_from(value) {
        Ok(label) => Ok(label.into()),
        Err(_) => Err(format!("label {index} is {value}, expected a class, counted from 0")),
    };
    values.into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let Split { train, test } = crate::data::load("file", Some(&path)).unwrap();
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), (&[0, 1, 2, 0, 1][..], &[2, 4][..]));
        assert_eq!([train.images, test.images].concat(), bytes);
        assert_eq!((train.classes, test.classes, train.class_names.len()), (5, 5, 5));
        assert_eq!(
            (test.shape, test.byte_scale),
            (ImageShape { height: 1, width: 2, channels: 3 }, 1.0 / 255.0)
        );
    }

    #[test]
    fn floats_become_bytes_and_planes_pixels() {
        let train: Vec<f32> =
            [1u8, 2, 3, 4, 5, 255].iter().map(|&byte| f32::from(byte) / 255.0 + 5e-5).collect();
        let test: Vec<u8> =
            [0.0f64, 1.0, 0.2, 0.4, 0.6, 0.8].iter().flat_map(|value| value.to_le_bytes()).collect();
        let split = read(&file(&[
            ("x_train", Dtype::F32, &[1, 3, 1, 2], floats(&train)),
            ("y_train", Dtype::U8, &[1], vec![1]),
            ("x_test", Dtype::F64, &[1, 3, 1, 2], test),
            ("y_test", Dtype::I32, &[1], 3i32.to_le_bytes().to_vec()),
        ]))
        .unwrap();
        assert_eq!(split.train.images, [1, 3, 5, 2, 4, 255]);
        assert_eq!(split.test.images, [0, 51, 153, 255, 102, 204]);
        assert_eq!((split.train.labels[0], split.test.labels[0], split.train.classes), (1, 3, 4));
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
        for (value, shown) in [(0.0025f32, "0.0024999"), (-0.1, "-0.1000"), (2.0, "2"), (f32::NAN, "NaN")] {
            let error = message(("x", Dtype::F32, &[1, 1, 1, 2], floats(&[0.0, value])), labels.clone());
            assert!(
                error.starts_with(&format!("x: element 1 is {shown}"))
                    && error.contains("not a multiple of 1/255 in [0, 1]"),
                "{error}"
            );
        }
        let single = message(("x", Dtype::U8, &[1, 1, 1, 1], vec![1]), labels);
        assert_eq!(single, "expected at least 2 images to split, found 1");
        assert!(read(b"PK\x03\x04").unwrap_err().starts_with("expected a safetensors or .npz file: "));
        let error = crate::data::load("file", None).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "data = none: file is read from a file: --data X.safetensors or X.npz with x_train"
            ),
            "{error}"
        );
    }
}
