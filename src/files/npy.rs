//! Arrays in numpy's `.npy` files, read as a whole or by rows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::safetensors::{Dtype, TensorView, integers};
use super::{open, read_header};
use crate::error::{Error, Result};

/// The header of an array.
pub struct Header {
    /// numpy's name of the element type: `|u1`, `<i8`.
    pub descr: String,
    pub dtype: Dtype,
    /// The array's shape, row-major.
    pub shape: Vec<usize>,
    /// Bytes per row, which is all that one index of the first dimension selects.
    row: usize,
    /// The offset of the first row.
    pub start: u64,
}

impl Header {
    /// Reads the header of a file of `length` bytes; `file` is at its beginning.
    ///
    /// Errors: not a row-major array of plain numbers, or not the length that the header implies.
    pub fn read(file: &mut impl Read, length: u64) -> Result<Header, String> {
        let (header, start) = header(file)?;
        let (descr, shape) =
            describe(&header).ok_or_else(|| format!("expected a row-major array, found {header}"))?;
        let dtype = dtype(&descr)?;
        let row = shape.iter().skip(1).try_fold(dtype.bitsize() / 8, |all, &size| all.checked_mul(size));
        let total = row.and_then(|row| row.checked_mul(*shape.first()?)).map(|bytes| bytes as u64 + start);
        match (row, total) {
            (Some(row), Some(total)) if total == length => Ok(Header { descr, dtype, shape, row, start }),
            _ => {
                let expected = total.map_or("more".into(), |total| total.to_string());
                Err(format!("{shape:?} of type {descr} takes {expected} bytes, the file has {length}"))
            }
        }
    }
}

/// An open file whose header has been read and whose length fits it.
pub struct Npy {
    path: PathBuf,
    file: File,
    pub header: Header,
}

impl Npy {
    /// Opens the file at `path`.
    ///
    /// Errors: [`Error::Io`]; [`Error::File`] if it is not a row-major array of plain numbers, or not of the
    /// length that its header implies.
    pub fn open(path: &Path) -> Result<Npy> {
        let mut file = open(path, "cannot read")?;
        let length = file.metadata().map_err(Error::io(path, "cannot read"))?.len();
        let header = Header::read(&mut file, length).map_err(|problem| Error::file(path, problem))?;
        Ok(Npy { path: path.into(), file, header })
    }

    /// The bytes of `rows`.
    pub fn rows(&mut self, rows: Range<usize>) -> Result<Vec<u8>> {
        let Header { row, start, .. } = self.header;
        let mut bytes = vec![0; rows.len() * row];
        let at = SeekFrom::Start(start + (rows.start * row) as u64);
        let read = self.file.seek(at).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(Error::io(&self.path, "cannot read"))?;
        Ok(bytes)
    }

    /// All elements of an array of integers of any width.
    pub fn integers(&mut self) -> Result<Vec<i64>> {
        let bytes = self.rows(0..self.header.shape[0])?;
        let Header { descr, dtype, shape, .. } = &self.header;
        let array = TensorView::new(*dtype, shape.clone(), &bytes).ok();
        let wrong =
            || Error::file(&self.path, format!("expected little-endian integers, found type {descr}"));
        array.and_then(|array| integers(&array)).ok_or_else(wrong)
    }
}

/// The header's dictionary as text, and the offset of the elements.
fn header(file: &mut impl Read) -> Result<(String, u64), String> {
    let mut start = [0; 8];
    let foreign = "not a .npy file of version 1, 2 or 3";
    file.read_exact(&mut start).map_err(|_| foreign)?;
    let mut length = [0; 4];
    let width = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => 2,
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => 4,
        _ => return Err(foreign.into()),
    };
    file.read_exact(&mut length[..width]).map_err(|_| foreign)?;
    let length = u64::from(u32::from_le_bytes(length));
    let text = String::from_utf8(read_header(file, length)?).map_err(|_| foreign)?;
    Ok((text.trim_end().to_owned(), 8 + width as u64 + length))
}

/// Element type and shape in a dictionary such as
/// `{'descr': '|u1', 'fortran_order': False, 'shape': (5, 32, 32, 3), }`.
fn describe(header: &str) -> Option<(String, Vec<usize>)> {
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    let descr = after("'descr':")?.strip_prefix('\'')?.split_once('\'')?.0;
    let shape = after("'shape':")?.strip_prefix('(')?.split_once(')')?.0;
    let shape = shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok());
    let shape = shape.collect::<Option<Vec<usize>>>()?;
    let row_major = after("'fortran_order':")?.starts_with("False") && !shape.is_empty();
    row_major.then(|| (descr.to_owned(), shape))
}

/// The element type that numpy calls `descr`.
fn dtype(descr: &str) -> Result<Dtype, String> {
    Ok(match descr {
        "|b1" => Dtype::BOOL,
        "|u1" => Dtype::U8,
        "|i1" => Dtype::I8,
        "<u2" => Dtype::U16,
        "<i2" => Dtype::I16,
        "<u4" => Dtype::U32,
        "<i4" => Dtype::I32,
        "<u8" => Dtype::U64,
        "<i8" => Dtype::I64,
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        big if big.starts_with('>') => {
            return Err(format!("expected little-endian numbers, found type {big}"));
        }
        other => return Err(format!("expected an array of numbers, found type {other}")),
    })
}

#[cfg(test)]
pub mod tests {
    use std::fs;

    use super::*;

    /// The bytes of a version 1.0 file.
    pub fn array(descr: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
        let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let header = format!("{dictionary:<117}\n");
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), bytes]
            .concat()
    }

    /// A version 1.0 file.
    pub fn write(path: &Path, descr: &str, shape: &str, bytes: &[u8]) {
        fs::write(path, array(descr, shape, bytes)).unwrap();
    }

    #[test]
    fn rows_and_integers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        write(&path, "|u1", "(3, 2)", &[1, 2, 3, 4, 5, 6]);
        let mut array = Npy::open(&path).unwrap();
        assert_eq!(array.rows(1..3).unwrap(), [3, 4, 5, 6]);
        assert_eq!(array.header.shape, [3, 2]);
        assert_eq!(array.integers().unwrap(), [1, 2, 3, 4, 5, 6]);
        write(&path, "<i2", "(3,)", &[0xfe, 0xff, 0x01, 0x02, 0x80, 0]);
        assert_eq!(Npy::open(&path).unwrap().integers().unwrap(), [-2, 513, 128]);
        write(&path, "|i1", "(2,)", &[0x80, 0x7f]);
        assert_eq!(Npy::open(&path).unwrap().integers().unwrap(), [-128, 127]);
    }

    #[test]
    fn bad_files_are_named_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let message = || Npy::open(&path).err().unwrap().to_string();
        write(&path, "|u1", "(3, 2)", &[1, 2, 3, 4, 5]);
        assert!(
            message().ends_with("a.npy: [3, 2] of type |u1 takes 134 bytes, the file has 133"),
            "{}",
            message()
        );
        write(&path, "|u1", "(99999999999, 99999999999)", &[1]);
        assert!(message().contains("takes more bytes, the file has 129"), "{}", message());
        write(&path, "|O", "(1,)", &[1]);
        assert!(message().ends_with("expected an array of numbers, found type |O"), "{}", message());
        fs::write(&path, b"PK\x03\x04 not an array").unwrap();
        assert!(message().ends_with("not a .npy file of version 1, 2 or 3"), "{}", message());
        let text = "{'descr': '|u1', 'fortran_order': True, 'shape': (1, 1), }";
        fs::write(
            &path,
            [b"\x93NUMPY\x01\x00", [text.len() as u8, 0].as_slice(), text.as_bytes(), &[0]].concat(),
        )
        .unwrap();
        assert!(message().contains("expected a row-major array, found {'descr'"), "{}", message());
        write(&path, "<f4", "(1,)", &[0, 0, 0, 0]);
        let error = Npy::open(&path).unwrap().integers().unwrap_err().to_string();
        assert!(error.ends_with("expected little-endian integers, found type <f4"), "{error}");
    }
}
