//! Files: atomic writes, locked folders, safetensors, and numpy's arrays.

pub mod fingerprint;
pub mod lock;
pub mod npy;
pub mod npz;
pub mod safetensors;
pub mod tensor_file;
pub mod weights;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The beginning and the end of the names of temporary files.
const TEMPORARY: (&str, &str) = (".saddle-", ".tmp");

/// Replaces the file at `path` with `bytes`, or leaves it unchanged: a temporary file beside it is written,
/// synced and renamed.
///
/// Errors: [`Error::Io`] about `path`.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// [`write_atomic`] for content written by `write`.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    let replace = || temporary(path, write)?.persist(path).map_err(|error| error.error);
    replace().map_err(Error::io(path, "cannot write"))?;
    sync_folder(folder_of(path));
    Ok(())
}

/// Writes a file that is not there yet, whole or not at all.
///
/// Errors: [`Error::Io`] about `path`, also when there is a file.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let create = || {
        let temporary = temporary(path, |file| file.write_all(bytes))?;
        temporary.persist_noclobber(path).map_err(|error| error.error)
    };
    create().map_err(Error::io(path, "cannot write"))?;
    sync_folder(folder_of(path));
    Ok(())
}

/// A temporary file beside `path`, written by `write` and synced.
fn temporary(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<&File>) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1).permissions(fs::Permissions::from_mode(0o666));
    let temporary = builder.tempfile_in(folder_of(path))?;
    let mut writer = io::BufWriter::new(temporary.as_file());
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

/// Whether a file's name is that of a temporary file of this program.
fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(TEMPORARY.0.as_bytes()) && name.ends_with(TEMPORARY.1.as_bytes())
}

/// The folder of the file at `path`.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes new and renamed files of a folder durable. Some file systems cannot do that; the content of the
/// files is safe either way.
pub fn sync_folder(folder: &Path) {
    File::open(folder).and_then(|folder| folder.sync_all()).ok();
}

/// Makes a folder, and those that it lies in, where they are missing.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.exists() && *folder != Path::new("")).collect();
    fs::create_dir_all(path)?;
    missing.into_iter().for_each(|folder| sync_folder(folder_of(folder)));
    Ok(())
}

/// Checks that a file can be written at `path`, before hours of work rather than after.
///
/// Errors: [`Error::Io`] about `path`.
pub fn check_writable(path: &Path) -> Result<()> {
    tempfile::NamedTempFile::new_in(folder_of(path))
        .map_err(Error::io(path, "cannot write the result"))
        .map(|_| ())
}

/// A series of matrices `[rows, columns]` as one of `[columns, rows]`.
pub fn transposed<T: Copy>(matrices: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut transposed = Vec::with_capacity(matrices.len());
    for matrix in matrices.chunks_exact((rows * columns).max(1)) {
        (0..columns).for_each(|column| transposed.extend(matrix[column..].iter().step_by(columns)));
    }
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_atomic_write_replaces_or_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"old").unwrap();
        let full = |file: &mut io::BufWriter<&File>| {
            file.write_all(b"half of the new")?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
        };
        let error = write_atomic_with(&path, full).unwrap_err().to_string();
        assert_eq!(error, format!("{}: cannot write: no space left on device", path.display()));
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"old".to_vec(), vec!["file".to_owned()]));
        write_atomic(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path()).len()), (b"new".to_vec(), 1));
    }

    #[test]
    fn a_new_file_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        let path = folder.join("file");
        write_new(&path, b"first").unwrap();
        let error = write_new(&path, b"second").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: cannot write: ", path.display())), "{error}");
        assert_eq!((fs::read(&path).unwrap(), names(&folder).len()), (b"first".to_vec(), 1));
    }

    #[test]
    fn files_get_the_default_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, default) = (dir.path().join("ours"), dir.path().join("default"));
        write_atomic(&ours, b"").unwrap();
        fs::write(&default, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&default));
    }
}
