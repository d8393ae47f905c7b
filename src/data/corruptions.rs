//! CIFAR-10-C and CIFAR-100-C (D. Hendrycks and T. Dietterich, 2019): the test images under 15 corruptions at
//! 5 severities.
//!
//! A corruption is a file `NAME.npy`, bytes `[5n, 32, 32, 3]`: severity `s` is rows `(s-1) n .. s n`.
//! `labels.npy` is `[5n]`; `n` is 10,000 in the official files. Only the requested rows are read.

use std::path::{Path, PathBuf};

use super::{Dataset, ImageShape, folder_with, numbered_names};
use crate::error::{Error, Result, ensure};
use crate::files::npy::{Header, Npy};

/// The corruptions whose mean accuracy is reported, in the order of the paper.
pub const STANDARD: [&str; 15] = [
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
];

/// The highest severity; the lowest is 1.
pub const SEVERITIES: usize = 5;
/// The number of labels in the official files.
const FULL: usize = SEVERITIES * 10_000;

/// The shape of every image.
pub const SHAPE: ImageShape = ImageShape { height: 32, width: 32, channels: 3 };

/// A folder of corrupted test images.
pub struct Corruptions {
    folder: PathBuf,
    classes: usize,
    /// The labels of all severities, `[5n]`.
    labels: Vec<i32>,
}

impl Corruptions {
    /// Opens `folder`, or the folder `CIFAR-10-C` (`CIFAR-100-C`) in it. Files of other corruptions are
    /// ignored.
    ///
    /// Errors: [`Error::File`] about labels, and about corruptions that are missing or of the wrong shape.
    pub fn open(folder: &Path, classes: usize) -> Result<Corruptions> {
        let inside = format!("CIFAR-{classes}-C");
        let missing = || Error::file(folder, format!("no labels.npy; expected the files of {inside}.tar"));
        let folder = folder_with(folder, &inside, "labels.npy").ok_or_else(missing)?;
        let set = Corruptions { labels: labels(&folder.join("labels.npy"), classes)?, classes, folder };
        let absent: Vec<&str> = STANDARD.into_iter().filter(|name| !set.path(name).is_file()).collect();
        ensure(absent.is_empty(), || {
            let problem = format!("{} of 15 corruptions are missing: {}", absent.len(), absent.join(", "));
            Error::file(&set.folder, problem)
        })?;
        STANDARD.iter().try_for_each(|name| set.array(name).map(|_| ()))?;
        Ok(set)
    }

    /// The test images under corruption `name` at `severity`, 1 to 5.
    ///
    /// Errors: [`Error::Unknown`], [`Error::Value`] about the severity, [`Error::Io`].
    pub fn load(&self, name: &str, severity: usize) -> Result<Dataset> {
        ensure(STANDARD.contains(&name), || Error::unknown("corruption", name, STANDARD))?;
        let expected = || Error::value("severity", severity, format!("expected 1 to {SEVERITIES}"));
        ensure((1..=SEVERITIES).contains(&severity), expected)?;
        let images = self.labels.len() / SEVERITIES;
        let rows = (severity - 1) * images..severity * images;
        let (pixels, labels) = (self.array(name)?.rows(rows.clone())?, self.labels[rows].to_vec());
        let set = format!("cifar{}-c", self.classes);
        Ok(Dataset::new(&set, SHAPE, pixels, labels, numbered_names(self.classes)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.npy"))
    }

    /// The open file of a corruption.
    fn array(&self, name: &str) -> Result<Npy> {
        let path = self.path(name);
        let array = Npy::open(&path)?;
        let expected = [self.labels.len(), SHAPE.height, SHAPE.width, SHAPE.channels];
        let Header { descr, shape, .. } = &array.header;
        ensure(*shape == expected && descr == "|u1", || {
            let expected = format!("expected {expected:?} of |u1, one image per label in labels.npy");
            Error::file(&path, format!("{expected}, found {shape:?} of {descr}"))
        })?;
        Ok(array)
    }
}

/// The labels of all severities.
fn labels(path: &Path, classes: usize) -> Result<Vec<i32>> {
    let mut array = Npy::open(path)?;
    let shape = array.header.shape.clone();
    ensure(matches!(shape[..], [count] if count > 0 && count % SEVERITIES == 0), || {
        let expected = format!("expected one label per image, a multiple of {SEVERITIES} in all");
        Error::file(path, format!("{expected}, found shape {shape:?}"))
    })?;
    let values = array.integers()?;
    // The labels of a complete test set show how many classes it has.
    let found = values.iter().max().map_or(1, |highest| highest + 1);
    ensure(values.len() != FULL || found == classes as i64, || {
        Error::file(path, format!("has {found} classes, the network {classes}"))
    })?;
    let label = |(index, value): (usize, i64)| match usize::try_from(value) {
        Ok(label) if label < classes => Ok(label as i32),
        _ => {
            let expected = format!("expected 0..={} for {classes} classes", classes - 1);
            Err(Error::file(path, format!("label {index} is {value}, {expected}")))
        }
    };
    values.into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::npy::tests::write;

    /// Two images per severity; the first byte of an image is the number of its corruption, the others that
    /// of its row.
    fn folder(classes: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join(format!("CIFAR-{classes}-C"));
        fs::create_dir(&inside).unwrap();
        for (number, name) in STANDARD.iter().chain(&["speckle_noise"]).enumerate() {
            let row = |row: u8| [vec![number as u8], vec![row; 3071]].concat();
            write(
                &inside.join(format!("{name}.npy")),
                "|u1",
                "(10, 32, 32, 3)",
                &(0..10).flat_map(row).collect::<Vec<u8>>(),
            );
        }
        let labels: Vec<u8> = [3i64, 9].repeat(5).iter().flat_map(|label| label.to_le_bytes()).collect();
        write(&inside.join("labels.npy"), "<i8", "(10,)", &labels);
        dir
    }

    fn message(dir: &Path, classes: usize) -> String {
        Corruptions::open(dir, classes).err().unwrap().to_string()
    }

    #[test]
    fn a_severity_is_a_fifth_of_the_rows() {
        let dir = folder(10);
        let set = Corruptions::open(dir.path(), 10).unwrap();
        assert_eq!((STANDARD[9], STANDARD[14]), ("fog", "jpeg_compression"));
        for severity in 1..=5 {
            let fog = set.load("fog", severity).unwrap();
            assert_eq!(
                (fog.name.as_str(), fog.labels.as_slice(), fog.classes),
                ("cifar10-c", &[3, 9][..], 10)
            );
            let first = 2 * (severity as u8 - 1);
            assert_eq!(fog.bytes(0).unwrap()[..2], [9, first]);
            assert_eq!((fog.bytes(1).unwrap()[3071], fog.bytes(2)), (first + 1, None));
        }
        assert!(Corruptions::open(&dir.path().join("CIFAR-10-C"), 10).is_ok());
        assert_eq!(set.load("fog", 6).unwrap_err().to_string(), "severity = 6: expected 1 to 5");
        assert!(set.load("fog", 0).is_err());
        let error = set.load("speckle_noise", 1).unwrap_err().to_string();
        assert!(error.starts_with("unknown corruption 'speckle_noise'"), "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = folder(100);
        let inside = dir.path().join("CIFAR-100-C");
        assert!(message(dir.path(), 10).ends_with("no labels.npy; expected the files of CIFAR-10-C.tar"));
        assert!(message(&inside, 9).ends_with("labels.npy: label 1 is 9, expected 0..=8 for 9 classes"));
        fs::remove_file(inside.join("fog.npy")).unwrap();
        fs::remove_file(inside.join("contrast.npy")).unwrap();
        assert!(
            message(dir.path(), 100).ends_with("CIFAR-100-C: 2 of 15 corruptions are missing: fog, contrast")
        );
        let dir = folder(10);
        let inside = dir.path().join("CIFAR-10-C");
        write(&inside.join("snow.npy"), "|u1", "(5, 32, 32, 3)", &[0; 5 * 3072]);
        let error = message(dir.path(), 10);
        assert!(
            error.contains("snow.npy: expected [10, 32, 32, 3] of |u1")
                && error.ends_with("found [5, 32, 32, 3] of |u1"),
            "{error}"
        );
        write(&inside.join("labels.npy"), "|u1", "(4,)", &[0; 4]);
        assert!(
            message(dir.path(), 10).ends_with("a multiple of 5 in all, found shape [4]"),
            "{}",
            message(dir.path(), 10)
        );
    }
}
