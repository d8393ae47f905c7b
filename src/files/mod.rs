//! Files: atomic writes, safetensors, and numpy's arrays.

pub mod npy;
pub mod npz;
pub mod safetensors;
pub mod tensor_file;
pub mod weights;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};

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
    let folder = folder_of(path);
    let replace = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".saddle-").suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder)?;
        let mut writer = io::BufWriter::new(temporary.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        // The rename is durable once the folder is synced; some file systems cannot do that, and the content
        // is safe either way.
        File::open(folder).and_then(|folder| folder.sync_all()).ok();
        Ok(())
    };
    replace().map_err(Error::io(path, "cannot write"))
}

/// The folder of the file at `path`.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
    use std::fs;

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

    #[cfg(unix)]
    #[test]
    fn files_get_the_default_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, default) = (dir.path().join("ours"), dir.path().join("default"));
        write_atomic(&ours, b"").unwrap();
        fs::write(&default, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&default));
    }
}
