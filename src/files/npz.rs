//! Named tensors of a file, whichever program wrote it: safetensors, or numpy's `.npz`, a zip archive of
//! `.npy` arrays.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use zip::ZipArchive;

use super::npy::Header;
use super::safetensors::{TensorEntry, encode};
use crate::error::{Error, Result, ensure};

/// The first bytes of a zip archive.
const ZIP: &[u8] = b"PK\x03\x04";

/// The bytes of the safetensors file at `path`; of an `.npz` archive, those of a safetensors file with the
/// same tensors. A file that is not an archive is returned unread.
///
/// Errors: [`Error::Io`]; [`Error::File`] for an archive without arrays, or with arrays other than row-major,
/// little-endian numbers.
pub fn read_tensors(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(Error::io(path, "cannot read the tensors"))?;
    match bytes.starts_with(ZIP) {
        true => converted(bytes).map_err(|problem| Error::file(path, problem)),
        false => Ok(bytes),
    }
}

/// The arrays of an archive as a safetensors file.
fn converted(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let broken = |error| format!("not a .npz file: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let (mut arrays, mut others) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else {
            others.push(name);
            continue;
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(|error| format!("{name}: cannot be unpacked: {error}"))?;
        let header = Header::read(&mut content.as_slice(), content.len() as u64);
        arrays.push((name.clone(), header.map_err(|problem| format!("{name}: {problem}"))?, content));
    }
    ensure(!arrays.is_empty(), || {
        format!("a zip archive of {}; expected the arrays NAME.npy of a .npz file", others.join(", "))
    })?;
    let entries = arrays.iter().map(|(name, header, content)| {
        TensorEntry::raw(name, header.dtype, &header.shape, &content[header.start as usize..])
    });
    let mut file = Vec::new();
    encode(&mut file, None, entries.collect()).map_err(|error| error.to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::safetensors::Dtype;
    use std::io::Write;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::npy::tests::array;
    use super::super::safetensors::SafeTensors;
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
        let bytes = read_tensors(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (x, y) = (file.tensor("x").unwrap(), file.tensor("y").unwrap());
        assert_eq!((x.dtype(), x.shape(), x.data()), (Dtype::U8, &[3, 2][..], &[1u8, 2, 3, 4, 5, 6][..]));
        assert_eq!((y.dtype(), y.shape(), y.data()), (Dtype::F32, &[2][..], &floats[..]));
        // A safetensors file is returned unchanged.
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_tensors(&path).unwrap(), bytes);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let message = |entries: &[(&str, Vec<u8>)]| {
            archive(&path, entries);
            read_tensors(&path).unwrap_err().to_string()
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
        assert!(read_tensors(&path).unwrap_err().to_string().contains("a.npz: not a .npz file: "));
    }
}
