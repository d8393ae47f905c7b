//! CIFAR-10 and CIFAR-100 in their official binary layouts (A. Krizhevsky, 2009): 32x32 RGB.
//!
//! A file is a whole number of records, each of its label bytes (one for CIFAR-10; coarse, fine for CIFAR-100, of which the fine one is
//! used) and 3,072 pixels: a red, a green and a blue plane, row-major.

use std::path::{Path, PathBuf};

use super::{Dataset, ImageShape, Source, Split};
use crate::error::{Error, Result};

const SHAPE: ImageShape = ImageShape { height: 32, width: 32, channels: 3 };
const PLANE: usize = SHAPE.height * SHAPE.width;

/// What tells the two layouts apart.
struct Layout {
    name: &'static str,
    classes: usize,
    /// Label bytes a record; the last one is the class.
    label_bytes: usize,
    /// Training files: those that are there are read in this order, at least one.
    train: &'static [&'static str],
    test: &'static str,
    /// A class name a line; optional.
    class_names: &'static str,
    archive: &'static str,
    /// The folder inside the archive, looked for in the folder given.
    folder: &'static str,
}

static LAYOUT10: Layout = Layout {
    name: "cifar10",
    classes: 10,
    label_bytes: 1,
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    class_names: "batches.meta.txt",
    archive: "cifar-10-binary.tar.gz",
    folder: "cifar-10-batches-bin",
};

static LAYOUT100: Layout = Layout {
    name: "cifar100",
    classes: 100,
    label_bytes: 2,
    train: &["train.bin"],
    test: "test.bin",
    class_names: "fine_label_names.txt",
    archive: "cifar-100-binary.tar.gz",
    folder: "cifar-100-binary",
};

/// The registry's entry of CIFAR-10.
pub(super) const CIFAR10: Source = Source {
    name: "cifar10",
    aliases: &["cifar-10"],
    about: "50,000 + 10,000 photographs, RGB, 32x32, 10 classes; --data DIR with the files of cifar-10-binary.tar.gz",
    load: |dir| LAYOUT10.load(dir),
};

/// The registry's entry of CIFAR-100.
pub(super) const CIFAR100: Source = Source {
    name: "cifar100",
    aliases: &["cifar-100"],
    about: "50,000 + 10,000 photographs, RGB, 32x32, 100 classes; --data DIR with the files of cifar-100-binary.tar.gz",
    load: |dir| LAYOUT100.load(dir),
};

impl Layout {
    fn load(&self, dir: Option<&Path>) -> Result<Split> {
        let wanted = self.wanted();
        let dir = dir.ok_or_else(|| {
            Error::value("data", "none", format!("{} is read from a folder: --data DIR with {wanted}", self.name))
        })?;
        let dir = self.locate(dir)?;
        let test = dir.join(self.test);
        let train: Vec<PathBuf> = self.train.iter().map(|file| dir.join(file)).filter(|path| path.exists()).collect();
        if train.is_empty() {
            return Err(Error::file(&dir.join(self.train[0]), format!("missing, as are all training files; expected {wanted}")));
        }
        if !test.exists() {
            return Err(Error::file(&test, format!("missing; expected {wanted}")));
        }
        let class_names = self.class_names(&dir)?;
        let read = |paths: &[PathBuf]| -> Result<Dataset> {
            let mut set = Dataset {
                name: self.name.into(),
                images: Vec::new(),
                labels: Vec::new(),
                shape: SHAPE,
                classes: self.classes,
                class_names: class_names.clone(),
                byte_scale: 1.0 / 255.0,
            };
            paths.iter().try_for_each(|path| self.read(path, &mut set))?;
            Ok(set)
        };
        Ok(Split { train: read(&train)?, test: read(&[test])? })
    }

    /// The files asked for, in words.
    fn wanted(&self) -> String {
        let train = match self.train {
            [first, .., last] => format!("{first} .. {last}"),
            files => files.concat(),
        };
        format!("{train} and {} from {} (https://www.cs.toronto.edu/~kriz/cifar.html)", self.test, self.archive)
    }

    /// `dir`, or the archive's folder inside it.
    fn locate(&self, dir: &Path) -> Result<PathBuf> {
        let has_files = |folder: &Path| self.train.iter().chain([&self.test]).any(|file| folder.join(file).is_file());
        if !dir.exists() {
            return Err(Error::file(dir, format!("no such folder; expected one with {}", self.wanted())));
        }
        let inside = dir.join(self.folder);
        match (has_files(dir), has_files(&inside)) {
            (true, _) => Ok(dir.to_owned()),
            (_, true) => Ok(inside),
            _ => {
                let found = if dir.is_file() {
                    "is a file, not a folder"
                } else if dir.join("data_batch_1").exists() || dir.join("cifar-10-batches-py").exists() {
                    "holds the python version of CIFAR-10"
                } else {
                    "holds none of the files"
                };
                Err(Error::file(dir, format!("{found}; expected {}", self.wanted())))
            }
        }
    }

    /// A name per class: those of the optional file, or the numbers.
    fn class_names(&self, dir: &Path) -> Result<Vec<String>> {
        let path = dir.join(self.class_names);
        if !path.exists() {
            return Ok((0..self.classes).map(|class| class.to_string()).collect());
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "cannot read"))?;
        let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        if names.len() != self.classes {
            return Err(Error::file(&path, format!("expected {} class names, one a line, found {}", self.classes, names.len())));
        }
        Ok(names)
    }

    /// Appends the records of `path` to `set`, planes turned into `[H, W, C]`.
    fn read(&self, path: &Path, set: &mut Dataset) -> Result<()> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read"))?;
        let record = self.label_bytes + SHAPE.bytes();
        let rest = bytes.len() % record;
        if rest != 0 || bytes.is_empty() {
            let found = format!("{} bytes is not a whole number of {record}-byte records", bytes.len());
            let problem = if bytes.is_empty() { "the file is empty".into() } else { format!("{found}: {rest} bytes remain") };
            return Err(Error::file(path, format!("{problem}; the file is incomplete or not from {}", self.archive)));
        }
        set.images.reserve(bytes.len() / record * SHAPE.bytes());
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let (labels, planes) = record.split_at(self.label_bytes);
            let label = usize::from(labels[self.label_bytes - 1]);
            if label >= self.classes {
                let problem = format!(
                    "record {index} has label {label}, expected 0..={}; the file is not from {}",
                    self.classes - 1,
                    self.archive
                );
                return Err(Error::file(path, problem));
            }
            set.labels.push(label as i32);
            let (red, rest) = planes.split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            set.images.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::load;

    /// A record whose red, green and blue planes are `base + position % 7` plus 0, 50 and 100.
    fn record(labels: &[u8], base: u8) -> Vec<u8> {
        let pixels = (0..3).flat_map(|c| (0..PLANE).map(move |i| base + (i % 7) as u8 + 50 * c));
        labels.iter().copied().chain(pixels).collect()
    }

    fn folder10() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data_batch_1.bin"), [record(&[3], 1), record(&[9], 2)].concat()).unwrap();
        fs::write(dir.path().join("data_batch_4.bin"), record(&[0], 3)).unwrap();
        fs::write(dir.path().join("test_batch.bin"), record(&[5], 4)).unwrap();
        dir
    }

    fn message(name: &str, dir: &Path) -> String {
        load(name, Some(dir)).unwrap_err().to_string()
    }

    #[test]
    fn planes_become_pixels_and_present_files_are_read_in_order() {
        let dir = folder10();
        let split = load("cifar-10", Some(dir.path())).unwrap();
        assert_eq!((split.train.labels.as_slice(), split.test.labels.as_slice()), (&[3, 9, 0][..], &[5][..]));
        assert_eq!(split.train.image(0).unwrap()[..9], [1, 51, 101, 2, 52, 102, 3, 53, 103]);
        assert_eq!(split.train.image(2).unwrap()[..3], [3, 53, 103]);
        assert_eq!(split.train.class_names[9], "9");
        assert_eq!((split.train.images.len(), split.train.byte_scale), (3 * 3072, 1.0 / 255.0));
    }

    #[test]
    fn the_folder_of_the_archive_is_found_inside() {
        let dir = folder10();
        let parent = tempfile::tempdir().unwrap();
        fs::rename(dir.path(), parent.path().join("cifar-10-batches-bin")).unwrap();
        assert_eq!(load("cifar10", Some(parent.path())).unwrap().train.len(), 3);
    }

    #[test]
    fn cifar100_uses_the_fine_label() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.bin"), record(&[19, 99], 0)).unwrap();
        fs::write(dir.path().join("test.bin"), record(&[200, 7], 0)).unwrap();
        let names: Vec<String> = (0..100).map(|i| format!("class {i}")).collect();
        fs::write(dir.path().join("fine_label_names.txt"), names.join("\n") + "\n\n").unwrap();
        let split = load("cifar100", Some(dir.path())).unwrap();
        assert_eq!((split.train.labels[0], split.test.labels[0], split.train.classes), (99, 7, 100));
        assert_eq!(split.train.class_names, names);
    }

    #[test]
    fn bad_files_are_named_with_what_was_found() {
        let dir = folder10();
        let path = dir.path().join("data_batch_4.bin");
        fs::write(&path, &record(&[0], 0)[..3000]).unwrap();
        let error = message("cifar10", dir.path());
        assert!(
            error.contains("data_batch_4.bin: 3000 bytes is not a whole number of 3073-byte records: 3000 bytes remain;"),
            "{error}"
        );
        fs::write(&path, []).unwrap();
        assert!(message("cifar10", dir.path()).contains("data_batch_4.bin: the file is empty"));
        fs::write(&path, [record(&[1], 0), record(&[10], 0)].concat()).unwrap();
        let error = message("cifar10", dir.path());
        assert!(error.contains("data_batch_4.bin: record 1 has label 10, expected 0..=9"), "{error}");
        fs::write(dir.path().join("batches.meta.txt"), "a\nb\n").unwrap();
        assert!(message("cifar10", dir.path()).contains("batches.meta.txt: expected 10 class names, one a line, found 2"));
    }

    #[test]
    fn missing_files_and_folders_say_what_is_expected() {
        let error = load("cifar10", None).unwrap_err().to_string();
        let wanted = "data_batch_1.bin .. data_batch_5.bin and test_batch.bin from cifar-10-binary.tar.gz";
        assert!(
            error.starts_with("data = none: cifar10 is read from a folder: --data DIR with ") && error.contains(wanted),
            "{error}"
        );
        let dir = folder10();
        assert!(
            message("cifar10", &dir.path().join("nowhere"))
                .contains("nowhere: no such folder; expected one with data_batch_1.bin")
        );
        assert!(
            message("cifar100", dir.path())
                .contains("holds none of the files; expected train.bin and test.bin from cifar-100-binary")
        );
        assert!(message("cifar10", &dir.path().join("test_batch.bin")).contains("is a file, not a folder"));
        fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
        assert!(message("cifar10", dir.path()).contains("test_batch.bin: missing; expected data_batch_1.bin"));
        fs::remove_file(dir.path().join("data_batch_1.bin")).unwrap();
        fs::rename(dir.path().join("data_batch_4.bin"), dir.path().join("data_batch_1")).unwrap();
        let error = message("cifar10", dir.path());
        assert!(error.contains("holds the python version of CIFAR-10; expected data_batch_1.bin"), "{error}");
        fs::write(dir.path().join("test_batch.bin"), record(&[0], 0)).unwrap();
        assert!(message("cifar10", dir.path()).contains("data_batch_1.bin: missing, as are all training files"));
    }
}
