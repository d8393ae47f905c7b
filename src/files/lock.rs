//! Folders that one process at a time uses.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::is_temporary;
use crate::error::{Error, Result};

/// The empty file that is locked. That it is there says nothing: the system releases its lock when the
/// process ends, and the file stays.
const LOCK: &str = ".saddle.lock";

/// A folder that this process has for itself until this value is dropped or the process ends, however it
/// ends.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    file: File,
}

impl FolderLock {
    /// Locks a folder that exists, and removes the temporary files that killed processes left in it.
    ///
    /// Errors: [`Error::File`] with `remedy` when another process has it; [`Error::Io`] when nothing can be
    /// written there.
    pub fn take(folder: &Path, remedy: &str) -> Result<FolderLock> {
        let path = folder.join(LOCK);
        loop {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(Error::io(folder, "cannot lock the folder"))?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::file(folder, format!("is in use by another process; {remedy}")));
                }
                // Some network file systems have no locks; a run must be possible there.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // The process that had the folder may have removed the file.
            if is_at(&file, &path).unwrap_or(false) {
                let lock = FolderLock { folder: folder.to_owned(), file };
                lock.remove_temporaries(folder);
                return Ok(lock);
            }
        }
    }

    /// Removes the temporary files that killed processes left in the locked folder, or in one inside it.
    pub fn remove_temporaries(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if is_temporary(&entry.file_name()) {
                // What cannot be removed is no obstacle.
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    /// Removes the folder, if it holds nothing but the lock.
    pub fn remove_empty_folder(&self) {
        let only_lock = fs::read_dir(&self.folder).is_ok_and(|entries| entries.count() == 1);
        if only_lock && fs::remove_file(self.folder.join(LOCK)).is_ok() {
            fs::remove_dir(&self.folder).ok();
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that another thread starts still has a copy.
        self.file.unlock().ok();
    }
}

/// Whether `file` is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    Ok(identity(file.metadata()?) == identity(fs::metadata(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_atomic;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let lock = FolderLock::take(&folder, "wait").unwrap();
        let second = FolderLock::take(&folder, "wait").unwrap_err().to_string();
        assert_eq!(second, format!("{}: is in use by another process; wait", folder.display()));
        drop(lock);
        let lock = FolderLock::take(&folder, "wait").unwrap();
        write_atomic(&folder.join("file"), b"").unwrap();
        lock.remove_empty_folder();
        assert!(folder.join("file").exists() && folder.join(LOCK).exists());
        fs::remove_file(folder.join("file")).unwrap();
        lock.remove_empty_folder();
        assert!(!folder.exists());
        let error = FolderLock::take(&folder, "wait").unwrap_err().to_string();
        assert!(error.contains("folder: cannot lock the folder: "), "{error}");
    }

    #[test]
    fn left_over_temporary_files_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let names = [".saddle-Ab12xy.tmp", ".saddle-notes", "mine.tmp", "saddle-x.tmp"];
        names.iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        fs::create_dir(dir.path().join(".saddle-folder.tmp")).unwrap();
        FolderLock::take(dir.path(), "wait").unwrap();
        let left: Vec<bool> = names.iter().map(|name| dir.path().join(name).exists()).collect();
        assert_eq!(left, [false, true, true, true]);
        assert!(dir.path().join(".saddle-folder.tmp").exists());
    }
}
