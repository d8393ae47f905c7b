//! Safetensors files, the only format in which tensors are written: how elements are decoded, the writer, and
//! the diagnosis of files that are something else. Parsing is the work of the crate `safetensors`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use bytemuck::NoUninit;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

pub use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use super::{LONGEST_TEXT, write_atomic_with};
use crate::error::{Error, Result, ensure};

// Elements are written in the byte order of the machine, and files are little-endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// An element type that is written to files.
pub trait Element: NoUninit {
    /// Its name in a header.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($element:ty => $dtype:ident),+ $(,)?) => {
        $(impl Element for $element { const DTYPE: Dtype = Dtype::$dtype; })+
    };
}

elements! { bool => BOOL, u8 => U8, f32 => F32, i64 => I64, u64 => U64 }

/// A tensor to be written.
pub struct TensorEntry<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> TensorEntry<'a> {
    /// The tensor `name` with the elements of `shape`, row-major.
    pub fn new<T: Element>(name: &'a str, shape: &[usize], values: &'a [T]) -> TensorEntry<'a> {
        TensorEntry::raw(name, T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// The same for elements of any type, little-endian.
    fn raw(name: &'a str, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> TensorEntry<'a> {
        TensorEntry { name, dtype, shape: shape.to_vec(), bytes }
    }
}

/// Writes a file, whole or not at all; the same content gives the same bytes.
///
/// Errors: [`Error::Io`]; [`Error::File`] when a tensor's values do not fill its shape.
pub fn write(
    path: &Path,
    metadata: Option<&BTreeMap<String, String>>,
    entries: Vec<TensorEntry>,
) -> Result<()> {
    for TensorEntry { name, dtype, shape, bytes } in &entries {
        let found = bytes.len() * 8 / dtype.bitsize();
        let problem = || Error::file(path, format!("{name} of shape {shape:?} has {found} values"));
        ensure(shape.iter().product::<usize>() == found, problem)?;
    }
    write_atomic_with(path, |file| encode(file, metadata, entries))
}

/// The content of a file: its header and the elements of every tensor.
///
/// The crate's own writer takes metadata as a `HashMap`, whose order differs from run to run. Files of equal
/// content must be equal, so the header is written here; without metadata, the bytes are the crate's.
fn encode(
    out: &mut impl Write,
    metadata: Option<&BTreeMap<String, String>>,
    mut entries: Vec<TensorEntry>,
) -> io::Result<()> {
    // The widest type first, so that every tensor is aligned.
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(b.name)));
    let mut header = Map::new();
    header.extend(metadata.map(|metadata| ("__metadata__".to_owned(), json!(metadata))));
    let mut start = 0;
    for TensorEntry { name, dtype, shape, bytes } in &entries {
        let end = start + bytes.len();
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        start = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    entries.iter().try_for_each(|entry| out.write_all(entry.bytes))
}

/// The elements of a tensor whose type takes `N` bytes.
fn elements<const N: usize, T>(tensor: &TensorView, decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    tensor.data().as_chunks().0.iter().map(|bytes| decode(*bytes)).collect()
}

/// The elements of a floating-point tensor, those of F64 converted by `narrow`; `None` for other types.
pub fn floats<T: From<f32>>(tensor: &TensorView, narrow: impl Fn(f64) -> T) -> Option<Vec<T>> {
    Some(match tensor.dtype() {
        Dtype::F32 => elements(tensor, |bytes| f32::from_le_bytes(bytes).into()),
        Dtype::F64 => elements(tensor, |bytes| narrow(f64::from_le_bytes(bytes))),
        Dtype::F16 => elements(tensor, |bytes| f16::from_le_bytes(bytes).to_f32().into()),
        Dtype::BF16 => elements(tensor, |bytes| bf16::from_le_bytes(bytes).to_f32().into()),
        _ => return None,
    })
}

/// The elements of a tensor of integers (below 2^63); `None` for other types.
pub fn integers(tensor: &TensorView) -> Option<Vec<i64>> {
    Some(match tensor.dtype() {
        Dtype::U8 => tensor.data().iter().map(|byte| i64::from(*byte)).collect(),
        Dtype::I8 => elements(tensor, |bytes| i8::from_le_bytes(bytes).into()),
        Dtype::U16 => elements(tensor, |bytes| u16::from_le_bytes(bytes).into()),
        Dtype::I16 => elements(tensor, |bytes| i16::from_le_bytes(bytes).into()),
        Dtype::U32 => elements(tensor, |bytes| u32::from_le_bytes(bytes).into()),
        Dtype::I32 => elements(tensor, |bytes| i32::from_le_bytes(bytes).into()),
        Dtype::I64 => elements(tensor, i64::from_le_bytes),
        Dtype::U64 => elements(tensor, |bytes| u64::from_le_bytes(bytes) as i64),
        _ => return None,
    })
}

/// The content of a file, and its metadata. Errors: what the file is instead.
pub(super) fn parse(bytes: &[u8]) -> Result<(SafeTensors<'_>, BTreeMap<String, String>), String> {
    let diagnosed = |error| diagnose(bytes, &error);
    // A longer header than any real one would take many times its size in memory.
    let size = bytes.first_chunk().map_or(0, |size| u64::from_le_bytes(*size));
    ensure(size <= LONGEST_TEXT, || diagnosed(SafeTensorError::HeaderTooLarge))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(diagnosed)?;
    let metadata =
        header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((SafeTensors::deserialize(bytes).map_err(diagnosed)?, metadata))
}

/// The likely nature of a file that cannot be parsed; `reason` is the parser's.
fn diagnose(bytes: &[u8], reason: &SafeTensorError) -> String {
    let length = bytes.len();
    // A valid file can begin with any byte, so these are looked at only after parsing failed.
    let text = bytes.trim_ascii_start();
    if text.first() == Some(&b'<') {
        return "this is an HTML page, not weights; the download probably led to a login or error page"
            .into();
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 0x02]) {
        return "this is a PyTorch checkpoint; convert it with Python: \
                safetensors.torch.save_file(state_dict, 'weights.safetensors')"
            .into();
    }
    if text.is_empty() {
        return "the file is empty".into();
    }
    if bytes.get(8) == Some(&b'{') && is_complete(bytes) != Some(true) {
        return format!(
            "the file is cut off: {length} bytes, fewer than its header says; download or copy it again"
        );
    }
    format!("not a safetensors file ({length} bytes): {reason}")
}

/// Whether the file has all that its header names; `None` where the header itself is cut off.
fn is_complete(bytes: &[u8]) -> Option<bool> {
    let (size, rest) = bytes.split_first_chunk::<8>()?;
    let size = u64::from_le_bytes(*size);
    let (header, data) = rest.split_at_checked(size.try_into().ok()?)?;
    if size > LONGEST_TEXT {
        return Some(true);
    }
    let Ok(entries) = serde_json::from_slice::<Map<String, Value>>(header) else { return Some(true) };
    let ends = entries.values().filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    Some(ends.max().unwrap_or(0) <= data.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_metadata_the_bytes_are_those_of_the_crate() {
        let (floats, integers) = ([1.5f32, -2.0, 0.25], [7i64, -1]);
        let (points, flags, bytes) = ([3u64], [true, false, true], [1u8, 2, 3, 4]);
        let entries = vec![
            TensorEntry::new("x \"quoted\"", &[3], &floats),
            TensorEntry::new("b", &[2, 2], &bytes),
            TensorEntry::new("a", &[4], &bytes),
            TensorEntry::new("flags", &[3], &flags),
            TensorEntry::new("y", &[1, 2], &integers),
            TensorEntry::new("points", &[1], &points),
            TensorEntry::new("scalar", &[], &floats[..1]),
            TensorEntry::new("none", &[0, 8], &floats[..0]),
        ];
        let views = entries.iter().map(|entry| {
            (entry.name, TensorView::new(entry.dtype, entry.shape.clone(), entry.bytes).unwrap())
        });
        let expected = safetensors::serialize(views, None).unwrap();
        let mut found = Vec::new();
        encode(&mut found, None, entries).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn elements_are_decoded_by_type() {
        let (halves, doubles, words) = ([0x3e00u16, 0xc000], [1.5f64, -2.0], [-3i32, 4]);
        let entries = vec![
            TensorEntry::raw("f16", Dtype::F16, &[2], bytemuck::cast_slice(&halves)),
            TensorEntry::raw("f64", Dtype::F64, &[2], bytemuck::cast_slice(&doubles)),
            TensorEntry::raw("i32", Dtype::I32, &[2], bytemuck::cast_slice(&words)),
            TensorEntry::new("u64", &[2], &[5u64, 6]),
            TensorEntry::new("bool", &[2], &[true, false]),
        ];
        let mut bytes = Vec::new();
        encode(&mut bytes, None, entries).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name: &str| file.tensor(name).unwrap();
        for name in ["f16", "f64"] {
            assert_eq!(floats(&tensor(name), |v| v as f32).unwrap(), [1.5, -2.0]);
            assert_eq!(
                (floats(&tensor(name), |v| v).unwrap(), integers(&tensor(name))),
                (doubles.into(), None)
            );
        }
        assert_eq!(integers(&tensor("i32")).unwrap(), [-3, 4]);
        assert_eq!(integers(&tensor("u64")).unwrap(), [5, 6]);
        assert_eq!((integers(&tensor("bool")), floats(&tensor("u64"), |v| v)), (None, None));
    }
}
