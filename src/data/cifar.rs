//! CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), 32x32 RGB, in their official binary and python versions.
//!
//! A binary file is a whole number of records: label bytes (one for CIFAR-10; coarse and fine for CIFAR-100,
//! which uses the fine one) and 3,072 pixels, a red, a green and a blue plane, row-major. A python file is a
//! pickled dictionary with a list of labels and a matrix whose rows are such pixels; it is read without being
//! executed.

use std::path::{Path, PathBuf};

use super::pickle::Pickle;
use super::{Dataset, ImageShape, Source, Split, numbered_names, required_path};
use crate::error::{Error, Result, ensure};
use crate::files::{self, transposed};

const SHAPE: ImageShape = ImageShape { height: 32, width: 32, channels: 3 };

/// A data set and the archives it comes in; the first one found is read.
struct Layout {
    name: &'static str,
    classes: usize,
    archives: [Archive; 2],
}

/// A version of a data set.
struct Archive {
    file: &'static str,
    /// The folder inside the archive; also searched for in the given folder.
    folder: &'static str,
    /// Training files: at least one must exist; those that do are read in this order.
    train: &'static [&'static str],
    test: &'static str,
    /// The file of class names; optional.
    class_names: &'static str,
    format: Format,
}

#[derive(Clone, Copy)]
enum Format {
    /// Label bytes per record, of which the last is the class. Class names are lines of text.
    Binary { label_bytes: usize },
    /// The dictionary keys of the labels and, in their own file, of the class names.
    Python { labels: &'static str, class_names: &'static str },
}

const BINARY_BATCHES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];

static LAYOUT10: Layout = Layout {
    name: "cifar10",
    classes: 10,
    archives: [
        Archive {
            file: "cifar-10-binary.tar.gz",
            folder: "cifar-10-batches-bin",
            train: &BINARY_BATCHES,
            test: "test_batch.bin",
            class_names: "batches.meta.txt",
            format: Format::Binary { label_bytes: 1 },
        },
        Archive {
            file: "cifar-10-python.tar.gz",
            folder: "cifar-10-batches-py",
            train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
            test: "test_batch",
            class_names: "batches.meta",
            format: Format::Python { labels: "labels", class_names: "label_names" },
        },
    ],
};

static LAYOUT100: Layout = Layout {
    name: "cifar100",
    classes: 100,
    archives: [
        Archive {
            file: "cifar-100-binary.tar.gz",
            folder: "cifar-100-binary",
            train: &["train.bin"],
            test: "test.bin",
            class_names: "fine_label_names.txt",
            format: Format::Binary { label_bytes: 2 },
        },
        Archive {
            file: "cifar-100-python.tar.gz",
            folder: "cifar-100-python",
            train: &["train"],
            test: "test",
            class_names: "meta",
            format: Format::Python { labels: "fine_labels", class_names: "fine_label_names" },
        },
    ],
};

/// The registry's entry of CIFAR-10.
pub(super) const CIFAR10: Source = Source {
    name: "cifar10",
    aliases: &["cifar-10"],
    about: "50,000 + 10,000 photographs, RGB, 32x32, 10 classes; --data DIR with the files of \
            cifar-10-binary.tar.gz or -python.tar.gz",
    sizes: Some((SHAPE, 10)),
    load: |dir| LAYOUT10.load(dir),
};

/// The registry's entry of CIFAR-100.
pub(super) const CIFAR100: Source = Source {
    name: "cifar100",
    aliases: &["cifar-100"],
    about: "50,000 + 10,000 photographs, RGB, 32x32, 100 classes; --data DIR with the files of \
            cifar-100-binary.tar.gz or -python.tar.gz",
    sizes: Some((SHAPE, 100)),
    load: |dir| LAYOUT100.load(dir),
};

impl Layout {
    fn load(&self, dir: Option<&Path>) -> Result<Split> {
        let wanted = self.wanted();
        let dir = required_path(dir, self.name, &format!("a folder: --data DIR with {wanted}"))?;
        let (archive, dir) = self.locate(dir)?;
        let test = dir.join(archive.test);
        let train: Vec<PathBuf> =
            archive.train.iter().map(|file| dir.join(file)).filter(|path| path.is_file()).collect();
        ensure(!train.is_empty(), || {
            let problem = format!("missing, as are all training files; expected {wanted}");
            Error::file(&dir.join(archive.train[0]), problem)
        })?;
        ensure(test.is_file(), || Error::file(&test, format!("missing; expected {wanted}")))?;
        let class_names = self.class_names(archive, &dir)?;
        let read = |paths: &[PathBuf]| -> Result<Dataset> {
            let mut images = LabelledImages { classes: self.classes, ..LabelledImages::default() };
            paths.iter().try_for_each(|path| archive.read(path, &mut images))?;
            let LabelledImages { pixels, labels, .. } = images;
            Ok(Dataset::new(self.name, SHAPE, pixels, labels, class_names.clone()))
        };
        Ok(Split { train: read(&train)?, test: read(&[test])?, own_parts: true })
    }

    /// The expected files, in words.
    fn wanted(&self) -> String {
        let files = self.archives.each_ref().map(|archive| {
            let train = match archive.train {
                [first, .., last] => format!("{first} .. {last}"),
                files => files.concat(),
            };
            format!("{train} and {} from {}", archive.test, archive.file)
        });
        format!("{} (https://www.cs.toronto.edu/~kriz/cifar.html)", files.join(", or "))
    }

    /// The archive whose files are in `dir`, or in the archive's folder inside it, and that folder.
    fn locate(&self, dir: &Path) -> Result<(&Archive, PathBuf)> {
        let places = self
            .archives
            .iter()
            .flat_map(|archive| [(archive, dir.to_owned()), (archive, dir.join(archive.folder))]);
        let has_files = |(archive, folder): &(&Archive, PathBuf)| {
            archive.train.iter().chain([&archive.test]).any(|file| folder.join(file).is_file())
        };
        places.into_iter().find(has_files).ok_or_else(|| {
            let found = match (dir.exists(), dir.is_file()) {
                (false, _) => "no such folder; expected one with",
                (_, true) => "is a file, not a folder; expected one with",
                _ => "holds none of the files; expected",
            };
            Error::file(dir, format!("{found} {}", self.wanted()))
        })
    }

    /// A name per class, from the optional file; else its number.
    fn class_names(&self, archive: &Archive, dir: &Path) -> Result<Vec<String>> {
        let path = dir.join(archive.class_names);
        if !path.is_file() {
            return Ok(numbered_names(self.classes));
        }
        let bytes = files::read(&path, "cannot read")?;
        let names: Vec<String> = match archive.format {
            Format::Binary { .. } => {
                let text = String::from_utf8_lossy(&bytes);
                text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
            }
            Format::Python { class_names: key, .. } => {
                Pickle::parse(&bytes).and_then(|pickle| pickle.strings(key)).map_err(|problem| {
                    Error::file(&path, format!("{problem}; the file is not from {}", archive.file))
                })?
            }
        };
        ensure(names.len() == self.classes, || {
            Error::file(&path, format!("expected {} class names, found {}", self.classes, names.len()))
        })?;
        Ok(names)
    }
}

/// The images that were read so far, `[N, H, W, C]`, and their labels.
#[derive(Default)]
struct LabelledImages {
    pixels: Vec<u8>,
    labels: Vec<i32>,
    classes: usize,
}

impl Archive {
    /// Appends the images of `path` to `set`, converting planes to `[H, W, C]`.
    fn read(&self, path: &Path, set: &mut LabelledImages) -> Result<()> {
        let bytes = files::read(path, "cannot read")?;
        let wrong = |problem: String| {
            Error::file(path, format!("{problem}; the file is incomplete or not from {}", self.file))
        };
        match self.format {
            _ if bytes.is_empty() => Err("the file is empty".into()),
            Format::Binary { label_bytes } => binary(&bytes, label_bytes, set),
            Format::Python { labels, .. } => python(&bytes, labels, set),
        }
        .map_err(wrong)
    }
}

fn binary(bytes: &[u8], label_bytes: usize, set: &mut LabelledImages) -> Result<(), String> {
    let record = label_bytes + SHAPE.bytes();
    let (length, rest) = (bytes.len(), bytes.len() % record);
    ensure(rest == 0, || {
        format!("{length} bytes is not a whole number of {record}-byte records: {rest} bytes remain")
    })?;
    let mut records = bytes.chunks_exact(record).map(|record| record.split_at(label_bytes));
    records.try_for_each(|(labels, planes)| append(set, labels[label_bytes - 1].into(), planes))
}

fn python(bytes: &[u8], labels: &str, set: &mut LabelledImages) -> Result<(), String> {
    let pickle = Pickle::parse(bytes)?;
    let (labels, (shape, images)) = (pickle.integers(labels)?, pickle.array("data")?);
    let expected = [labels.len(), SHAPE.bytes()];
    ensure(shape == expected, || {
        format!("'data' has shape {shape:?}, expected {expected:?}: one row per label")
    })?;
    let mut images = labels.into_iter().zip(images.chunks_exact(SHAPE.bytes()));
    images.try_for_each(|(label, planes)| append(set, label, planes))
}

/// Appends an image given as three planes.
fn append(set: &mut LabelledImages, label: i64, planes: &[u8]) -> Result<(), String> {
    let known = (0..set.classes as i64).contains(&label);
    ensure(known, || format!("an image has label {label}, expected 0..={}", set.classes - 1))?;
    set.labels.push(label as i32);
    set.pixels.extend(transposed(planes, SHAPE.channels, SHAPE.height * SHAPE.width));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::pickle::tests::{dictionary, integers, matrix, string};
    use super::*;
    use crate::data::load;

    /// A record whose red, green and blue planes are `base + position % 7` plus 0, 50 and 100.
    fn record(labels: &[u8], base: u8) -> Vec<u8> {
        let pixels = (0..3).flat_map(|c| (0..1024).map(move |i| base + (i % 7) as u8 + 50 * c));
        labels.iter().copied().chain(pixels).collect()
    }

    fn folder10() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data_batch_1.bin"), [record(&[3], 1), record(&[9], 2)].concat()).unwrap();
        fs::write(dir.path().join("data_batch_4.bin"), record(&[0], 3)).unwrap();
        fs::write(dir.path().join("test_batch.bin"), record(&[5], 4)).unwrap();
        dir
    }

    /// Loading fails with a message that contains `part`.
    fn refused(name: &str, dir: &Path, part: &str) {
        let error = load(name, Some(dir)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn planes_become_pixels_and_present_files_are_read_in_order() {
        let dir = folder10();
        let split = load("cifar-10", Some(dir.path())).unwrap();
        assert_eq!((split.train.labels.as_slice(), split.test.labels.as_slice()), (&[3, 9, 0][..], &[5][..]));
        assert_eq!(split.train.bytes(0).unwrap()[..9], [1, 51, 101, 2, 52, 102, 3, 53, 103]);
        assert_eq!(split.train.bytes(2).unwrap()[..3], [3, 53, 103]);
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
        let part =
            "data_batch_4.bin: 3000 bytes is not a whole number of 3073-byte records: 3000 bytes remain;";
        refused("cifar10", dir.path(), part);
        fs::write(&path, []).unwrap();
        refused("cifar10", dir.path(), "data_batch_4.bin: the file is empty");
        fs::write(&path, [record(&[1], 0), record(&[10], 0)].concat()).unwrap();
        refused("cifar10", dir.path(), "data_batch_4.bin: an image has label 10, expected 0..=9");
        fs::write(dir.path().join("batches.meta.txt"), "a\nb\n").unwrap();
        refused("cifar10", dir.path(), "batches.meta.txt: expected 10 class names, found 2");
    }

    #[test]
    fn missing_files_and_folders_say_what_is_expected() {
        let error = load("cifar10", None).unwrap_err().to_string();
        let wanted = "data_batch_1.bin .. data_batch_5.bin and test_batch.bin from cifar-10-binary.tar.gz";
        let start = "data = none: cifar10 is read from a folder: --data DIR with ";
        assert!(error.starts_with(start) && error.contains(wanted), "{error}");
        let dir = folder10();
        let nowhere = dir.path().join("nowhere");
        refused("cifar10", &nowhere, "nowhere: no such folder; expected one with data_batch_1.bin");
        let part = "holds none of the files; expected train.bin and test.bin from cifar-100-binary";
        refused("cifar100", dir.path(), part);
        refused("cifar10", &dir.path().join("test_batch.bin"), "is a file, not a folder; expected");
        fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
        refused("cifar10", dir.path(), "test_batch.bin: missing; expected data_batch_1.bin");
        fs::remove_file(dir.path().join("data_batch_1.bin")).unwrap();
        fs::remove_file(dir.path().join("data_batch_4.bin")).unwrap();
        fs::write(dir.path().join("test_batch.bin"), record(&[0], 0)).unwrap();
        refused("cifar10", dir.path(), "data_batch_1.bin: missing, as are all training files");
    }

    /// A python file of one image, that of `record`, by rows or by columns.
    fn batch(key: &str, label: u8, base: u8, columns: bool) -> Vec<u8> {
        let data = matrix(&record(&[], base), 3072, columns);
        dictionary(&[("batch_label", string("a batch")), (key, integers(&[label])), ("data", data)])
    }

    #[test]
    fn the_python_version_of_cifar10() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("cifar-10-batches-py");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("data_batch_2"), batch("labels", 3, 1, false)).unwrap();
        fs::write(inside.join("data_batch_5"), batch("labels", 9, 2, true)).unwrap();
        fs::write(inside.join("test_batch"), batch("labels", 5, 4, false)).unwrap();
        let names: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
        let strings = names.iter().flat_map(|name| string(name)).collect();
        let list = [b"](".to_vec(), strings, b"e".to_vec()].concat();
        fs::write(inside.join("batches.meta"), dictionary(&[("label_names", list)])).unwrap();
        let split = load("cifar10", Some(dir.path())).unwrap();
        let binary = folder10();
        let same = load("cifar10", Some(binary.path())).unwrap();
        assert_eq!((split.train.labels.as_slice(), split.test.labels.as_slice()), (&[3, 9][..], &[5][..]));
        assert_eq!(split.train.images.as_bytes(), &same.train.images.as_bytes()[..2 * 3072]);
        assert_eq!(split.test.images, same.test.images);
        assert_eq!(split.train.class_names, names);
        fs::write(inside.join("test_batch"), batch("labels", 10, 4, false)).unwrap();
        let part = "test_batch: an image has label 10, expected 0..=9; the file is incomplete or not from \
                    cifar-10-python.tar.gz";
        refused("cifar10", dir.path(), part);
        let data = matrix(&[0; 3072], 1536, false);
        let bytes = dictionary(&[("labels", integers(&[1])), ("data", data)]);
        fs::write(inside.join("test_batch"), bytes).unwrap();
        refused("cifar10", dir.path(), "'data' has shape [2, 1536], expected [1, 3072]: one row per label");
        fs::write(inside.join("test_batch"), b"\x80\x02cos\nsystem\n").unwrap();
        refused("cifar10", dir.path(), "test_batch: opcode 0x63 'c' at offset 2: it names os.system");
    }

    #[test]
    fn the_python_version_of_cifar100_uses_the_fine_labels() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train"), batch("fine_labels", 99, 0, false)).unwrap();
        fs::write(dir.path().join("test"), batch("coarse_labels", 7, 0, false)).unwrap();
        refused("cifar100", dir.path(), "test: the dictionary has no 'fine_labels'");
        fs::write(dir.path().join("test"), batch("fine_labels", 7, 0, false)).unwrap();
        let split = load("cifar100", Some(dir.path())).unwrap();
        assert_eq!((split.train.labels[0], split.test.labels[0]), (99, 7));
        assert_eq!(split.train.class_names[99], "99");
    }
}
