//! numpy's `.npz`: a zip archive of `.npy` arrays.

use std::fs::File;
use std::io::{BufReader, Read};

use zip::ZipArchive;
use zip::read::ZipFile;

use super::npy::Header;
use super::tensors::Tensors;
use crate::error::ensure;

/// An array may unpack to this many times its bytes in the archive, or to `FREE` bytes. Images shrink to a
/// tenth at best, black and white ones stored as float64 to a thirtieth or so.
const RATIO: u64 = 32;
const FREE: u64 = 64 << 20;

/// Reads the `wanted` arrays of an archive into `tensors`, and the names of all.
///
/// Errors: an archive without arrays, or wanted arrays other than row-major, little-endian numbers.
pub(super) fn read(file: File, tensors: &mut Tensors, wanted: &[&str]) -> Result<(), String> {
    let broken = |error| format!("not a .npz file: {error}");
    // Entries may share their bytes, which count once.
    let mut left = file.metadata().map_err(|error| error.to_string())?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut others = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let Some(name) = name.strip_suffix(".npy") else {
            others.push(name);
            continue;
        };
        tensors.names.push(name.to_owned());
        if wanted.contains(&name) {
            let (header, bytes) =
                array(&mut entry, &mut left).map_err(|problem| format!("{name}: {problem}"))?;
            tensors.insert(name, header.dtype, header.shape, bytes);
        }
    }
    ensure(!tensors.names.is_empty(), || {
        format!("a zip archive of {}; expected the arrays NAME.npy of a .npz file", others.join(", "))
    })
}

/// The header of an array, and then exactly the bytes that it describes. `left` bytes of the archive have not
/// been unpacked yet.
fn array(entry: &mut ZipFile<impl Read>, left: &mut u64) -> Result<(Header, Vec<u8>), String> {
    let (size, packed) = (entry.size(), entry.compressed_size().min(*left));
    *left -= packed;
    ensure(size <= FREE.max(packed.saturating_mul(RATIO)), || {
        format!(
            "{packed} bytes that would unpack to {size}; more than {RATIO} times as much is taken for a \
             damaged or hostile file; numpy.savez writes arrays as they are"
        )
    })?;
    let header = Header::read(entry, size)?;
    let unpacked = |error| format!("cannot be unpacked: {error}");
    // Grows with what is there. One byte more than the header describes, so that the end is reached and with
    // it the check sum.
    let (mut bytes, length) = (Vec::new(), size - header.start);
    entry.take(length + 1).read_to_end(&mut bytes).map_err(unpacked)?;
    let found = bytes.len() as u64;
    ensure(found == length, || format!("unpacks to {found} bytes after its header, expected {length}"))?;
    Ok((header, bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::npy::tests::array;
    use super::super::safetensors::{Dtype, TensorView};
    use super::*;

    fn archive(path: &Path, entries: &[(&str, Vec<u8>)]) {
        let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
        for (number, (name, bytes)) in entries.iter().enumerate() {
            // As savez and as savez_compressed write it.
            let method = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated][number % 2];
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method).large_file(true))
                .unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn arrays_become_tensors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        archive(
            &path,
            &[
                ("x.npy", array("|u1", "(3, 2)", &[1, 2, 3, 4, 5, 6])),
                ("y.npy", array("<f4", "(2,)", &floats)),
            ],
        );
        let mut file = Tensors::read(&path, &["x", "y"]).unwrap();
        let content = |tensor: &TensorView| (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec());
        assert_eq!(file.take("x", content), Some((Dtype::U8, vec![3, 2], vec![1, 2, 3, 4, 5, 6])));
        assert_eq!(file.take("y", content), Some((Dtype::F32, vec![2], floats)));
        let none = Tensors::read(&path, &["z"]).unwrap();
        assert_eq!((none.names.as_slice(), none.has("z")), (&["x".into(), "y".into()][..], false));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let zeros = vec![0; FREE as usize];
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        let mut zip = ZipWriter::new(fs::File::create(&path).unwrap());
        zip.start_file("x.npy", options).unwrap();
        zip.write_all(&array("|u1", "(134217728,)", &[])).unwrap();
        (0..2).for_each(|_| zip.write_all(&zeros).unwrap());
        zip.finish().unwrap();
        let error = Tensors::read(&path, &["x"]).unwrap_err().to_string();
        assert!(
            error.contains("a.npz: x: ") && error.contains(" bytes that would unpack to 134217856;"),
            "{error}"
        );
        // Arrays that nobody wants are not unpacked either.
        assert!(Tensors::read(&path, &["y"]).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let message = |entries: &[(&str, Vec<u8>)]| {
            archive(&path, entries);
            Tensors::read(&path, &["x"]).unwrap_err().to_string()
        };
        let error = message(&[("archive/data.pkl", vec![1]), ("archive/version", vec![2])]);
        let expected = "a zip archive of archive/data.pkl, archive/version; \
                        expected the arrays NAME.npy of a .npz file";
        assert!(error.ends_with(&format!("a.npz: {expected}")), "{error}");
        let error = message(&[("x.npy", array("|O", "(1,)", &[1]))]);
        assert!(error.ends_with("a.npz: x: expected an array of numbers, found type |O"), "{error}");
        let error = message(&[("x.npy", array(">i8", "(1,)", &[0; 8]))]);
        assert!(error.ends_with("a.npz: x: expected little-endian numbers, found type >i8"), "{error}");
        let error = message(&[("x.npy", array("|u1", "(4,)", &[0; 3]))]);
        assert!(error.ends_with("a.npz: x: [4] of type |u1 takes 132 bytes, the file has 131"), "{error}");
        fs::write(&path, b"PK\x03\x04 cut").unwrap();
        assert!(Tensors::read(&path, &["x"]).unwrap_err().to_string().contains("a.npz: not a .npz file: "));
    }
}
