//! Files: bounded reads, atomic writes, locked folders, safetensors, and numpy's arrays.

pub mod fingerprint;
pub mod growing;
pub mod lock;
pub mod npy;
mod npz;
pub mod safetensors;
pub mod tensor_file;
pub mod tensors;
pub mod weights;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result, ensure};

/// The most bytes of a header, a record or a recipe. Those of real files take kilobytes, and parsed they take
/// up to a hundred times as much memory.
pub const LONGEST_TEXT: u64 = 4 << 20;

/// Opens the file at `path` for reading; `action`, such as "cannot read the weights", begins an error.
///
/// Errors: [`Error::Io`]; [`Error::File`] for a folder, and for a pipe or a device, which may have no end.
pub fn open(path: &Path, action: &'static str) -> Result<File> {
    let kind = fs::metadata(path).map_err(Error::io(path, action))?.file_type();
    ensure(kind.is_file(), || {
        let found = if kind.is_dir() { "is a folder" } else { "is a pipe or a device" };
        Error::file(path, format!("{action}: {found}; expected a file"))
    })?;
    File::open(path).map_err(Error::io(path, action))
}

/// The bytes of the file at `path`. Errors: as for [`open`].
pub fn read(path: &Path, action: &'static str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, action)?.read_to_end(&mut bytes).map_err(Error::io(path, action))?;
    Ok(bytes)
}

/// The text of a record or a recipe, at most [`LONGEST_TEXT`] bytes of UTF-8. Errors: as for [`open`].
pub fn read_text(path: &Path, action: &'static str) -> Result<String> {
    let mut text = String::new();
    let file = open(path, action)?;
    file.take(LONGEST_TEXT + 1).read_to_string(&mut text).map_err(Error::io(path, action))?;
    let problem = || Error::file(path, format!("{action}: it is longer than {LONGEST_TEXT} bytes"));
    ensure(text.len() as u64 <= LONGEST_TEXT, problem)?;
    Ok(text)
}

/// A header of `length` bytes, a number that a file states.
///
/// Errors: more than [`LONGEST_TEXT`], or more than the file has; no memory is taken for what is not there.
fn read_header(file: &mut impl Read, length: u64) -> Result<Vec<u8>, String> {
    ensure(length <= LONGEST_TEXT, || {
        format!("its header says that it is {length} bytes long, expected at most {LONGEST_TEXT}")
    })?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(|error| error.to_string())?;
    let found = header.len() as u64;
    ensure(found == length, || format!("cut off in its header, after {found} of {length} bytes"))?;
    Ok(header)
}

/// Checks that no output replaces an input, another output, or a file in a folder that is an input. Each path
/// comes with the flag that names it.
///
/// Errors: [`Error::Value`] about the output's flag.
pub fn check_outputs(outputs: &[(&str, &Path)], inputs: &[(&str, &Path)]) -> Result<()> {
    for (number, (flag, output)) in outputs.iter().enumerate() {
        let taken = |problem: String| Err(Error::value(format!("--{flag}"), output.display(), problem));
        if let Some((other, _)) = outputs[..number].iter().find(|(_, other)| is_same(output, other)) {
            return taken(format!("is the file for --{other}, too; choose another name"));
        }
        let folder = folder_of(output);
        let is_lost = |input: &Path| match input.is_dir() {
            true => output.exists() && is_same(folder, input),
            false => is_same(output, input),
        };
        if let Some((input, _)) = inputs.iter().find(|(_, input)| is_lost(input)) {
            return taken(format!("is read as {input} and would be replaced; choose another name"));
        }
    }
    Ok(())
}

/// Whether two paths are those of one file, which need not exist yet.
pub fn is_same(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) {
        use std::os::unix::fs::MetadataExt;
        return (one.dev(), one.ino()) == (other.dev(), other.ino());
    }
    let absolute = |path: &Path| -> Option<PathBuf> {
        let folder = fs::canonicalize(folder_of(path)).ok()?;
        Some(fs::canonicalize(path).unwrap_or(folder.join(path.file_name()?)))
    };
    one == other || absolute(one).is_some_and(|one| Some(one) == absolute(other))
}

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
    fn pipes_devices_and_folders_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, found) in [
            (pipe.as_path(), "is a pipe or a device"),
            (Path::new("/dev/zero"), "is a pipe or a device"),
            (dir.path(), "is a folder"),
        ] {
            let error = read(path, "cannot read the weights").unwrap_err().to_string();
            let expected = format!("cannot read the weights: {found}; expected a file");
            assert_eq!(error, format!("{}: {expected}", path.display()));
        }
    }

    #[test]
    fn headers_and_records_take_no_more_memory_than_is_there() {
        let short = read_header(&mut b"abc".as_slice(), 4).unwrap_err();
        assert_eq!(short, "cut off in its header, after 3 of 4 bytes");
        let long = read_header(&mut b"abc".as_slice(), u64::MAX).unwrap_err();
        assert!(long.contains("18446744073709551615 bytes long, expected at most 4194304"), "{long}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        fs::write(&path, vec![b' '; LONGEST_TEXT as usize]).unwrap();
        assert!(read_text(&path, "cannot read").is_ok());
        fs::write(&path, vec![b' '; LONGEST_TEXT as usize + 1]).unwrap();
        let error = read_text(&path, "cannot read").unwrap_err().to_string();
        assert!(error.ends_with("record.json: cannot read: it is longer than 4194304 bytes"), "{error}");
    }

    #[test]
    fn no_output_replaces_an_input_or_another_output() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("data")).unwrap();
        fs::write(at("data/x.bin"), "x").unwrap();
        fs::write(at("w"), "weights").unwrap();
        fs::hard_link(at("w"), at("linked")).unwrap();
        let check = |outputs: &[(&str, &str)]| {
            let outputs: Vec<_> = outputs.iter().map(|(flag, name)| (*flag, at(name))).collect();
            let outputs: Vec<_> = outputs.iter().map(|(flag, path)| (*flag, path.as_path())).collect();
            check_outputs(&outputs, &[("--weights", &at("w")), ("--data", &at("data"))])
        };
        check(&[("out", "new"), ("report", "data/new")]).unwrap();
        for (outputs, expected) in [
            (&[("out", "w")][..], "is read as --weights and would be replaced; choose another name"),
            (&[("out", "data/../w")], "is read as --weights and would be replaced; choose another name"),
            (&[("out", "linked")], "is read as --weights and would be replaced; choose another name"),
            (&[("out", "data/x.bin")], "is read as --data and would be replaced; choose another name"),
            (&[("out", "a"), ("report", "data/../a")], "is the file for --out, too; choose another name"),
        ] {
            let error = check(outputs).unwrap_err().to_string();
            assert!(error.starts_with("--") && error.ends_with(expected), "{error}");
        }
    }

    #[cfg(unix)]
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
