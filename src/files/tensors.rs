//! The wanted tensors of a file, whichever program wrote it: safetensors, or numpy's `.npz`. The header is
//! read first, then exactly the bytes of these tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ::safetensors::tensor::Metadata;

use super::npz;
use super::safetensors::{Dtype, TensorView};
use super::{open, read_header};
use crate::error::{Error, Result, ensure};

/// The first bytes of a zip archive.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// Tensors of a file.
#[derive(Debug, Default)]
pub struct Tensors {
    /// The names of all tensors of the file, sorted.
    pub names: Vec<String>,
    found: BTreeMap<String, Stored>,
}

/// A tensor in memory, its bytes row-major and little-endian.
#[derive(Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads the `wanted` tensors of the file at `path`, as far as it has them.
    ///
    /// Errors: [`Error::Io`]; [`Error::File`] for a file of another kind, or one that is cut off.
    pub fn read(path: &Path, wanted: &[&str]) -> Result<Tensors> {
        const ACTION: &str = "cannot read the tensors";
        let mut file = open(path, ACTION)?;
        let mut start = Vec::new();
        let reading = (&mut file).take(8).read_to_end(&mut start).and_then(|_| file.metadata());
        let length = reading.map_err(Error::io(path, ACTION))?.len();
        let mut tensors = Tensors::default();
        match start.starts_with(&ZIP) {
            true => npz::read(file, &mut tensors, wanted),
            false => tensors.read_safetensors(&mut file, &start, length, wanted),
        }
        .map_err(|problem| Error::file(path, problem))?;
        tensors.names.sort_unstable();
        Ok(tensors)
    }

    /// Reads the rest of a safetensors file of `length` bytes that begins with `start`.
    fn read_safetensors(
        &mut self,
        file: &mut File,
        start: &[u8],
        length: u64,
        wanted: &[&str],
    ) -> Result<(), String> {
        let foreign = |problem: String| format!("not a safetensors or .npz file: {problem}");
        let size = start.try_into().map_err(|_| foreign(format!("it has {length} bytes")))?;
        let size = u64::from_le_bytes(size);
        let header = read_header(file, size).map_err(foreign)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| foreign(error.to_string()))?;
        let (described, found) = (header.data_len(), length.saturating_sub(8 + size));
        ensure(described as u64 == found, || {
            format!("its header describes {described} bytes of tensors, the file has {found}; it is damaged")
        })?;
        self.names = header.offset_keys();
        for name in wanted {
            let Some(info) = header.info(name) else { continue };
            let (from, to) = info.data_offsets;
            let mut bytes = vec![0; to - from];
            let read = file.seek(SeekFrom::Start(8 + size + from as u64));
            read.and_then(|_| file.read_exact(&mut bytes)).map_err(|error| format!("{name}: {error}"))?;
            self.insert(name, info.dtype, info.shape.clone(), bytes);
        }
        Ok(())
    }

    /// Adds a tensor of these bytes.
    pub(super) fn insert(&mut self, name: &str, dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) {
        self.found.insert(name.to_owned(), Stored { dtype, shape, bytes });
    }

    /// Whether the file has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Hands a wanted tensor over to `convert` and frees its bytes then; `None` if there is no such tensor.
    pub fn take<T>(&mut self, name: &str, convert: impl FnOnce(&TensorView) -> T) -> Option<T> {
        let Stored { dtype, shape, bytes } = self.found.remove(name)?;
        TensorView::new(dtype, shape, &bytes).ok().map(|tensor| convert(&tensor))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::safetensors::{TensorEntry, write};
    use super::*;

    #[test]
    fn only_the_wanted_tensors_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let entries =
            vec![TensorEntry::new("a", &[2], &[1.5f32, -2.0]), TensorEntry::new("b", &[3], &[1u8, 2, 3])];
        write(&path, None, entries).unwrap();
        let mut tensors = Tensors::read(&path, &["b", "c"]).unwrap();
        assert_eq!((tensors.names.as_slice(), tensors.has("a")), (&["a".into(), "b".into()][..], true));
        let content = |tensor: &TensorView| (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec());
        assert_eq!(tensors.take("b", content), Some((Dtype::U8, vec![3], vec![1, 2, 3])));
        assert_eq!((tensors.take("b", content), tensors.take("a", content)), (None, None));
    }

    #[test]
    fn files_that_are_something_else_or_cut_off_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = Tensors::read(&path, &["a"]).unwrap_err().to_string();
            error.split_once("t.safetensors: ").unwrap().1.to_owned()
        };
        assert_eq!(message(b"nothing"), "not a safetensors or .npz file: it has 7 bytes");
        let huge = message(b"\xff\xff\xff\xff\xff\xff\xff\xff{}");
        assert!(
            huge.starts_with("not a safetensors or .npz file: its header says that it is 1844"),
            "{huge}"
        );
        write(&path, None, vec![TensorEntry::new("a", &[4], &[1u8, 2, 3, 4])]).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(
            message(&whole[..whole.len() - 1]),
            "its header describes 4 bytes of tensors, the file has 3; it is damaged"
        );
        assert!(message(&whole[..20]).contains("cut off in its header, after 12 of "));
    }
}
