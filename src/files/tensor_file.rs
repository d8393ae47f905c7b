//! Tensors and images in safetensors files with PyTorch's layouts: the input and the output of commands that
//! compute on given data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::safetensors::{self, Dtype, TensorEntry, TensorView};
use super::tensors::Tensors;
use super::transposed;
use crate::error::{Error, Result};

/// A tensor of a file: its shape and its values.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<usize>, Vec<f32>),
    I64(Vec<usize>, Vec<i64>),
    U8(Vec<usize>, Vec<u8>),
}

impl Values {
    /// A tensor of one axis.
    pub fn integers(values: impl IntoIterator<Item = i64>) -> Values {
        let values: Vec<i64> = values.into_iter().collect();
        Values::I64(vec![values.len()], values)
    }

    /// Images `[N,H,W,C]` as PyTorch lays them out, `[N,C,H,W]`.
    pub fn images(&[n, h, w, c]: &[usize; 4], pixels: &[f32]) -> Values {
        Values::F32(vec![n, c, h, w], transposed(pixels, h * w, c))
    }

    /// Type and shape, for messages.
    fn describe(&self) -> String {
        match self {
            Values::F32(shape, _) => format!("F32 {shape:?}"),
            Values::I64(shape, _) => format!("I64 {shape:?}"),
            Values::U8(shape, _) => format!("U8 {shape:?}"),
        }
    }
}

/// Images `[N,H,W,C]` in main memory.
pub struct Images {
    pub shape: [usize; 4],
    pub pixels: Vec<f32>,
}

/// The requested tensors of a file.
pub struct TensorFile {
    pub path: PathBuf,
    tensors: BTreeMap<String, Values>,
    /// The names of all other tensors, sorted.
    pub others: Vec<String>,
}

impl TensorFile {
    /// Reads the `wanted` tensors of the safetensors or `.npz` file at `path`. F64 becomes F32, I32 becomes
    /// I64.
    ///
    /// Errors: [`Error::Io`]; [`Error::File`] for a file of another kind or a wanted tensor of another type.
    pub fn read(path: &Path, wanted: &[&str]) -> Result<TensorFile> {
        let mut content = Tensors::read(path, wanted)?;
        let mut file = TensorFile { path: path.to_owned(), tensors: BTreeMap::new(), others: vec![] };
        for name in wanted {
            let convert = |tensor: &TensorView| {
                let found = format!("{name} is {:?} {:?}", tensor.dtype(), tensor.shape());
                values(tensor).ok_or_else(|| file.wrong(format!("{found}; expected F32, and I64 for y")))
            };
            if let Some(values) = content.take(name, convert).transpose()? {
                file.tensors.insert((*name).to_owned(), values);
            }
        }
        file.others = content.names.into_iter().filter(|name| !wanted.contains(&name.as_str())).collect();
        Ok(file)
    }

    /// An error about this file.
    pub fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }

    pub fn get(&self, name: &str) -> Option<&Values> {
        self.tensors.get(name)
    }

    /// The classes `[N]` in `y`. Errors: `y` is missing or holds something else.
    pub fn labels(&self) -> Result<Vec<i32>> {
        let label =
            |y: &i64| i32::try_from(*y).map_err(|_| self.wrong(format!("y holds {y}, which is not a class")));
        match self.get("y") {
            Some(Values::I64(shape, values)) if shape.len() == 1 => values.iter().map(label).collect(),
            Some(Values::U8(shape, bytes)) if shape.len() == 1 => {
                Ok(bytes.iter().map(|&y| y.into()).collect())
            }
            Some(other) => Err(self.wrong(format!("y is {}; expected I64 [N]", other.describe()))),
            None => Err(self.wrong("has no y; expected x f32 [N,C,H,W] and y i64 [N]")),
        }
    }

    /// Checks that every label is below `classes`.
    pub fn within(&self, labels: &[i32], classes: usize) -> Result<()> {
        let bad = labels.iter().find(|y| !(0..classes as i32).contains(*y));
        let wrong = |y| self.wrong(format!("y holds {y}; the network has classes 0 to {}", classes - 1));
        bad.map_or(Ok(()), |y| Err(wrong(y)))
    }

    /// The floats or bytes of `name` as images with pixels in `[0,1]`; `None` if there is no such tensor.
    pub fn images(&self, name: &str) -> Result<Option<Images>> {
        let images = self.changes(name)?;
        match images.iter().flat_map(|images| &images.pixels).find(|v| !(0.0..=1.0).contains(*v)) {
            Some(bad) => Err(self.wrong(format!("{name} holds {bad}; expected a number in [0,1]"))),
            None => Ok(images),
        }
    }

    /// Finite numbers of any size, shaped as images: f32 `[N,C,H,W]`, or bytes `[N,H,W,C]`, which are divided
    /// by 255.
    pub fn changes(&self, name: &str) -> Result<Option<Images>> {
        let images = match self.get(name) {
            None => return Ok(None),
            Some(Values::F32(shape, values)) if shape.len() == 4 => {
                let [n, c, h, w] = [shape[0], shape[1], shape[2], shape[3]];
                Images { shape: [n, h, w, c], pixels: transposed(values, c, h * w) }
            }
            Some(Values::U8(shape, bytes)) if shape.len() == 4 => {
                let pixels = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
                Images { shape: [shape[0], shape[1], shape[2], shape[3]], pixels }
            }
            Some(other) => {
                let found = other.describe();
                return Err(self.wrong(format!("{name} is {found}; expected F32 [N,C,H,W], or U8 [N,H,W,C]")));
            }
        };
        match images.pixels.iter().find(|v| !v.is_finite()) {
            Some(bad) => Err(self.wrong(format!("{name} holds {bad}; expected a finite number"))),
            None => Ok(Some(images)),
        }
    }
}

/// The values of a tensor; `None` for an unsupported type.
fn values(tensor: &TensorView) -> Option<Values> {
    let shape = tensor.shape().to_vec();
    Some(match tensor.dtype() {
        Dtype::F32 | Dtype::F64 => Values::F32(shape, safetensors::floats(tensor, |value| value as f32)?),
        Dtype::I64 | Dtype::I32 => Values::I64(shape, safetensors::integers(tensor)?),
        Dtype::U8 => Values::U8(shape, tensor.data().to_vec()),
        _ => return None,
    })
}

/// Writes tensors as safetensors, whole or not at all.
pub fn write(tensors: &BTreeMap<String, Values>, path: &Path) -> Result<()> {
    let entries = tensors.iter().map(|(name, values)| match values {
        Values::F32(shape, values) => TensorEntry::new(name, shape, values),
        Values::I64(shape, values) => TensorEntry::new(name, shape, values),
        Values::U8(shape, values) => TensorEntry::new(name, shape, values),
    });
    safetensors::write(path, None, entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let pixels: Vec<f32> = (0..12).map(|i| i as f32 / 16.0).collect();
        let tensors = BTreeMap::from([
            ("x".to_owned(), Values::images(&[2, 1, 2, 3], &pixels)),
            ("bytes".to_owned(), Values::U8(vec![1, 1, 2, 1], vec![0, 255])),
            ("y".to_owned(), Values::integers([3, 0])),
            ("z".to_owned(), Values::integers([7])),
        ]);
        write(&tensors, &path).unwrap();
        let file = TensorFile::read(&path, &["x", "bytes", "y"]).unwrap();
        assert_eq!(file.others, ["z"]);
        let x = file.images("x").unwrap().unwrap();
        assert_eq!((x.shape, x.pixels), ([2, 1, 2, 3], pixels));
        match file.get("x") {
            // Planes: red of both pixels, then green, then blue.
            Some(Values::F32(shape, values)) => {
                assert_eq!((shape.as_slice(), values[1]), (&[2, 3, 1, 2][..], 3.0 / 16.0))
            }
            other => panic!("{other:?}"),
        }
        let bytes = file.images("bytes").unwrap().unwrap();
        assert_eq!((bytes.shape, bytes.pixels), ([1, 1, 2, 1], vec![0.0, 1.0]));
        assert_eq!(file.labels().unwrap(), [3, 0]);
        assert!(file.within(&[3, 0], 4).is_ok());
        assert!(
            file.within(&[3, 0], 3)
                .unwrap_err()
                .to_string()
                .ends_with("y holds 3; the network has classes 0 to 2")
        );
        assert!(file.images("x2").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let message = |x: Values, read: fn(&TensorFile) -> Result<Option<Images>>| {
            write(&BTreeMap::from([("x".to_owned(), x)]), &path).unwrap();
            let file = TensorFile::read(&path, &["x", "y"]).unwrap();
            assert!(
                file.labels()
                    .unwrap_err()
                    .to_string()
                    .ends_with("has no y; expected x f32 [N,C,H,W] and y i64 [N]")
            );
            read(&file).err().unwrap().to_string()
        };
        let pixel = |v: f32| Values::F32(vec![1, 1, 1, 1], vec![v]);
        assert!(
            message(pixel(1.5), |file| file.images("x")).ends_with("x holds 1.5; expected a number in [0,1]")
        );
        assert!(
            message(pixel(f32::NAN), |file| file.changes("x"))
                .ends_with("x holds NaN; expected a finite number")
        );
        let flat = message(Values::F32(vec![2], vec![0.0; 2]), |file| file.images("x"));
        assert!(flat.ends_with("x is F32 [2]; expected F32 [N,C,H,W], or U8 [N,H,W,C]"), "{flat}");
        std::fs::write(&path, b"nothing").unwrap();
        let error = TensorFile::read(&path, &[]).err().unwrap().to_string();
        assert!(error.contains("t.safetensors: not a safetensors or .npz file: "), "{error}");
    }
}
