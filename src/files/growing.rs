//! A file that is written bit by bit and appears when it is whole.

use super::{TEMPORARY, folder_of, sync_folder};
use crate::error::{Error, Result};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file under way; dropped before its end it leaves nothing.
pub struct GrowingFile {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl GrowingFile {
    /// Begins the file at `path`, in a temporary file beside it. Errors: [`Error::Io`] about `path`.
    pub fn create(path: &Path) -> Result<GrowingFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1).permissions(fs::Permissions::from_mode(0o666));
        let file = builder.tempfile_in(folder_of(path)).map_err(Error::io(path, "cannot write"))?;
        Ok(GrowingFile { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<PathBuf> {
        let GrowingFile { path, writer } = self;
        let replace = || -> io::Result<()> {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        replace().map_err(Error::io(&path, "cannot write"))?;
        sync_folder(folder_of(&path));
        Ok(path)
    }
}

impl Write for GrowingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
