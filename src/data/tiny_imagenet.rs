//! Tiny-ImageNet-200: 64x64 photographs, JPEG files in one folder per class; the labelled validation images
//! are the test part.
//!
//! Labels are line numbers of `wnids.txt`; images are sorted by class and file name. The JPEGs are decoded
//! once, in parallel, into a cache beside them: a listing of all images with their sizes and times of change,
//! then their pixels and a check sum of these. It is used as long as the listing stays the same.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use flate2::Crc;
use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, ImageDecoder, ImageError};
use rayon::prelude::*;

use super::{Dataset, ImageShape, Source, Split, folder_with, required_path};
use crate::error::{Error, Result, ensure};
use crate::files::{self, write_atomic_with};

/// The registry's entry.
pub(super) const TINY_IMAGENET: Source = Source {
    name: "tiny-imagenet",
    aliases: &["tiny-imagenet-200"],
    about: "100,000 + 10,000 photographs, RGB, 64x64, 200 classes; --data DIR with the files of \
            tiny-imagenet-200.zip",
    load,
};

const WANTED: &str = "wnids.txt, train/ and val/ from tiny-imagenet-200.zip \
                      (http://cs231n.stanford.edu/tiny-imagenet-200.zip)";
const CLASSES: &str = "wnids.txt";
const ANNOTATIONS: &str = "val/val_annotations.txt";
const CACHE: &str = ".saddle-tiny-imagenet.bin";
const SHAPE: ImageShape = ImageShape { height: 64, width: 64, channels: 3 };

/// An image's file.
struct Photo {
    /// Its path below the data set's folder.
    path: String,
    /// Its length in bytes and the time of its last change, for the listing.
    version: String,
    label: i32,
}

fn load(dir: Option<&Path>) -> Result<Split> {
    let dir = required_path(dir, TINY_IMAGENET.name, &format!("a folder: --data DIR with {WANTED}"))?;
    let missing = || Error::file(&dir.join(CLASSES), format!("missing; expected {WANTED}"));
    let root = &folder_with(dir, "tiny-imagenet-200", CLASSES).ok_or_else(missing)?;
    let text = read_text(root, CLASSES)?;
    let classes: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let none = || Error::file(&root.join(CLASSES), "lists no classes; expected one per line");
    ensure(!classes.is_empty(), none)?;
    let class_names = class_names(root, &classes)?;
    let mut photos = train_photos(root, &classes)?;
    let train = photos.len();
    photos.extend(test_photos(root, &classes)?);
    let labels = photos.iter().map(|photo| photo.label).collect();
    let all = Dataset::new(TINY_IMAGENET.name, SHAPE, pixels(root, &photos)?, labels, class_names);
    Ok(all.split(train, true))
}

fn read_text(root: &Path, file: &str) -> Result<String> {
    let path = root.join(file);
    let bytes = files::read(&path, "cannot read")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first word of each class in the optional `words.txt`, or the class itself.
fn class_names(root: &Path, classes: &[&str]) -> Result<Vec<String>> {
    let text = if root.join("words.txt").is_file() { read_text(root, "words.txt")? } else { String::new() };
    let words: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
    let name = |class: &&str| {
        words.get(class).and_then(|words| words.split(',').next()).unwrap_or(class).trim().to_owned()
    };
    Ok(classes.iter().map(name).collect())
}

/// Length and time of the last change of a file, in nanoseconds where the file system knows them.
fn version(facts: &Metadata) -> String {
    let changed = facts.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{} {}", facts.len(), changed.unwrap_or_default().as_nanos())
}

/// The JPEG files in a folder, at least one, sorted by name; `label` gives the label of a name.
fn photos(root: &Path, folder: &str, mut label: impl FnMut(&str) -> Result<i32>) -> Result<Vec<Photo>> {
    let path = root.join(folder);
    ensure(path.is_dir(), || Error::file(&path, format!("no such folder; expected {WANTED}")))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).map_err(Error::io(&path, "cannot list"))? {
        let entry = entry.map_err(Error::io(&path, "cannot list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        if !name.starts_with('.') && matches!(extension.as_deref(), Some("jpeg" | "jpg")) {
            // Unlike the entry's own, this metadata follows links, as reading does.
            let facts = fs::metadata(entry.path()).map_err(Error::io(&entry.path(), "cannot read"))?;
            found.push((name, version(&facts)));
        }
    }
    let none = || Error::file(&path, "holds no JPEG files; the archive was not unpacked completely");
    ensure(!found.is_empty(), none)?;
    found.sort();
    let photo = |(name, version): (String, String)| {
        Ok(Photo { path: format!("{folder}/{name}"), version, label: label(&name)? })
    };
    found.into_iter().map(photo).collect()
}

fn train_photos(root: &Path, classes: &[&str]) -> Result<Vec<Photo>> {
    let mut all = Vec::new();
    for (label, class) in (0..).zip(classes) {
        all.extend(photos(root, &format!("train/{class}/images"), |_| Ok(label))?);
    }
    Ok(all)
}

/// The images of `val/images`; images and lines of the annotations must match one to one.
fn test_photos(root: &Path, classes: &[&str]) -> Result<Vec<Photo>> {
    let path = root.join(ANNOTATIONS);
    let text = read_text(root, ANNOTATIONS)?;
    let labels: HashMap<&str, i32> = classes.iter().copied().zip(0..).collect();
    let mut annotated = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| Error::file(&path, format!("line {number}: {problem}"));
        let mut fields = line.split('\t').map(str::trim);
        let (Some(name), Some(class)) = (fields.next(), fields.next()) else {
            return Err(wrong("expected an image and its class, separated by a tab".into()));
        };
        let unknown = || wrong(format!("{name} is of class {class}, which is not in {CLASSES}"));
        annotated.insert(name, *labels.get(class).ok_or_else(unknown)?);
    }
    let folder = root.join("val/images");
    let all = photos(root, "val/images", |name| {
        let unlisted = || Error::file(&folder.join(name), format!("has no line in {ANNOTATIONS}"));
        annotated.remove(name).ok_or_else(unlisted)
    })?;
    annotated.keys().min().map_or(Ok(all), |name| {
        Err(Error::file(&folder.join(name), format!("missing; it is listed in {ANNOTATIONS}")))
    })
}

/// The pixels of all photos: from the cache if its listing matches, else decoded and, where the folder is
/// writable, cached.
fn pixels(root: &Path, photos: &[Photo]) -> Result<Vec<u8>> {
    let line = |photo: &Photo| format!("{} {}\n", photo.path, photo.version);
    let listing: String = photos.iter().map(line).collect();
    let listing = format!(
        "saddle: pixels [N, 64, 64, 3] of {} images and their CRC-32, after this listing\n{listing}",
        photos.len()
    );
    let size = photos.len() * SHAPE.bytes();
    if let Some(pixels) = stored(&root.join(CACHE), listing.as_bytes(), size) {
        return Ok(pixels);
    }
    let mut pixels = vec![0; size];
    let images = pixels.par_chunks_exact_mut(SHAPE.bytes()).zip(photos);
    let failed =
        images.map(|(image, photo)| decode(&root.join(&photo.path), image)).find_first(Result::is_err);
    failed.unwrap_or(Ok(()))?;
    // A failed write only means that the next run decodes again.
    write_atomic_with(&root.join(CACHE), |file| {
        file.write_all(listing.as_bytes())?;
        file.write_all(&pixels)?;
        file.write_all(&check_sum(&pixels))
    })
    .ok();
    Ok(pixels)
}

fn check_sum(pixels: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(pixels);
    crc.sum().to_le_bytes()
}

/// The pixels in the cache, if it begins with `listing`, is complete and has the right check sum.
fn stored(path: &Path, listing: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut file = files::open(path, "cannot read").ok()?;
    let complete = file.metadata().ok()?.len() == (listing.len() + size + 4) as u64;
    let mut read = |length| {
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    if !complete || read(listing.len())? != listing {
        return None;
    }
    let pixels = read(size)?;
    (read(4)? == check_sum(&pixels)).then_some(pixels)
}

/// Fills `pixels` with the image at `path`; grey becomes RGB.
fn decode(path: &Path, pixels: &mut [u8]) -> Result<()> {
    let bytes = files::read(path, "cannot read")?;
    // Decoders invent the missing pixels of a truncated file.
    ensure(bytes.windows(2).any(|marker| marker == [0xff, 0xd9]), || {
        let found = format!("found {} bytes without the end marker; the file is incomplete", bytes.len());
        Error::file(path, format!("expected a JPEG image, {found}"))
    })?;
    let unreadable = |error: ImageError| Error::file(path, format!("expected a JPEG image: {error}"));
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    ensure((width as usize, height as usize) == (SHAPE.width, SHAPE.height), || {
        let expected = format!("expected {}x{} pixels", SHAPE.width, SHAPE.height);
        Error::file(path, format!("{expected}, found {width}x{height}"))
    })?;
    pixels.copy_from_slice(DynamicImage::from_decoder(decoder).map_err(unreadable)?.into_rgb8().as_raw());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    /// An image of one colour.
    fn jpeg(path: PathBuf, color: &[u8], width: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixels = color.repeat(width as usize * 64);
        let kind = if color.len() == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        JpegEncoder::new_with_quality(File::create(path).unwrap(), 100)
            .write_image(&pixels, width, 64, kind)
            .unwrap();
    }

    /// Three classes; the folder is inside the one returned.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tiny-imagenet-200");
        jpeg(root.join("train/n03/images/n03_1.JPEG"), &[200, 100, 50], 64);
        jpeg(root.join("train/n03/images/n03_0.JPEG"), &[77], 64);
        jpeg(root.join("train/n01/images/n01_0.JPEG"), &[10, 20, 30], 64);
        jpeg(root.join("train/n02/images/n02_0.JPEG"), &[0, 255, 0], 64);
        jpeg(root.join("val/images/val_10.JPEG"), &[1], 64);
        jpeg(root.join("val/images/val_2.JPEG"), &[250], 64);
        fs::write(root.join("train/n01/n01_boxes.txt"), "").unwrap();
        fs::write(root.join("train/n01/images/._n01_0.JPEG"), "").unwrap();
        fs::write(root.join("wnids.txt"), "n03\nn01\nn02\n").unwrap();
        fs::write(root.join("words.txt"), "n01\tgoldfish, Carassius auratus\nn09\tother\nn03\tlemon\n")
            .unwrap();
        fs::write(root.join(ANNOTATIONS), "val_2.JPEG\tn01\t0\t0\t9\t9\nval_10.JPEG\tn02\t0\t0\t9\t9\n")
            .unwrap();
        (dir, root)
    }

    fn split(dir: &Path) -> Split {
        crate::data::load("tiny-imagenet", Some(dir)).unwrap()
    }

    fn message(dir: &Path) -> String {
        crate::data::load("tiny-imagenet", Some(dir)).unwrap_err().to_string()
    }

    fn close(pixel: &[u8], expected: [u8; 3]) -> bool {
        pixel.iter().zip(expected).all(|(&found, expected)| found.abs_diff(expected) <= 3)
    }

    #[test]
    fn classes_in_the_order_of_the_list_and_files_by_name() {
        let (dir, root) = folder();
        let Split { train, test, .. } = split(dir.path());
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), (&[0, 0, 1, 2][..], &[2, 1][..]));
        assert_eq!((train.classes, train.images.len(), test.images.len()), (3, 4 * 12288, 2 * 12288));
        assert_eq!(train.class_names, ["lemon", "goldfish", "n02"]);
        let expected = [[77; 3], [200, 100, 50], [10, 20, 30], [0, 255, 0]];
        for (index, color) in expected.into_iter().enumerate() {
            let image = train.bytes(index).unwrap();
            assert!(image.chunks(3).all(|pixel| close(pixel, color)), "image {index}: {:?}", &image[..3]);
        }
        assert!(close(&test.bytes(0).unwrap()[..3], [1; 3]) && close(&test.bytes(1).unwrap()[..3], [250; 3]));
        assert_eq!(
            split(&root),
            Split { train, test, own_parts: true },
            "the folder itself, now from the cache"
        );
    }

    #[test]
    fn the_cache_is_used_until_the_files_change() {
        let (dir, root) = folder();
        let photo = root.join("train/n01/images/n01_0.JPEG");
        let padded = |photo: &str| {
            let mut bytes = fs::read(root.join(photo)).unwrap();
            bytes.resize(16384, 0);
            bytes
        };
        fs::write(&photo, padded("train/n01/images/n01_0.JPEG")).unwrap();
        let first = split(dir.path());
        let cache = root.join(CACHE);
        let bytes = fs::read(&cache).unwrap();
        // The last pixel is another one, first with the check sum of the old ones, then with its own.
        let pixels = bytes.len() - 4 - 6 * 12288;
        let mut changed = bytes.clone();
        changed[bytes.len() - 5] ^= 255;
        fs::write(&cache, &changed).unwrap();
        assert_eq!(split(dir.path()), first, "damaged pixels are not used");
        let sum = check_sum(&changed[pixels..bytes.len() - 4]);
        changed[bytes.len() - 4..].copy_from_slice(&sum);
        fs::write(&cache, &changed).unwrap();
        assert_ne!(split(dir.path()).test.images, first.test.images, "read from the cache");
        fs::write(&cache, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(split(dir.path()), first, "an incomplete cache is made anew");
        // Another picture of the same length.
        fs::write(&photo, padded("train/n02/images/n02_0.JPEG")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        File::options().write(true).open(&photo).unwrap().set_modified(later).unwrap();
        assert!(
            close(&split(dir.path()).train.bytes(2).unwrap()[..3], [0, 255, 0]),
            "the new picture is noticed"
        );
        jpeg(root.join("train/n01/images/n01_1.JPEG"), &[9], 64);
        assert_eq!(split(dir.path()).train.len(), 5);
        assert!(
            fs::metadata(&cache).unwrap().len() > bytes.len() as u64 + 12288,
            "the cache has the new image"
        );
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 5, "wnids, words, train, val, cache: {left:?}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = crate::data::load("tiny-imagenet", None).unwrap_err().to_string();
        assert!(
            error.starts_with("data = none: tiny-imagenet is read from a folder: --data DIR with wnids.txt"),
            "{error}"
        );
        let (dir, root) = folder();
        let error = message(&root.join("val"));
        assert!(
            error.contains(
                "val/wnids.txt: missing; expected wnids.txt, train/ and val/ from tiny-imagenet-200.zip"
            ),
            "{error}"
        );
        let photo = root.join("train/n02/images/n02_0.JPEG");
        jpeg(photo.clone(), &[5], 32);
        assert!(
            message(dir.path()).ends_with("n02_0.JPEG: expected 64x64 pixels, found 32x64"),
            "{}",
            message(dir.path())
        );
        fs::write(&photo, b"<html>\xff\xd9").unwrap();
        assert!(
            message(dir.path()).contains("n02_0.JPEG: expected a JPEG image: "),
            "{}",
            message(dir.path())
        );
        jpeg(photo.clone(), &[5], 64);
        let bytes = fs::read(&photo).unwrap();
        fs::write(&photo, &bytes[..bytes.len() - 20]).unwrap();
        assert!(
            message(dir.path()).ends_with("without the end marker; the file is incomplete"),
            "{}",
            message(dir.path())
        );
        assert!(!root.join(CACHE).exists(), "a failed load leaves no cache");
        fs::remove_file(&photo).unwrap();
        assert!(
            message(dir.path()).contains("train/n02/images: holds no JPEG files"),
            "{}",
            message(dir.path())
        );
        fs::remove_dir(photo.parent().unwrap()).unwrap();
        assert!(
            message(dir.path()).contains("train/n02/images: no such folder; expected wnids.txt"),
            "{}",
            message(dir.path())
        );
    }

    #[test]
    fn annotations_and_images_must_match() {
        let (dir, root) = folder();
        let annotations = root.join(ANNOTATIONS);
        fs::write(&annotations, "val_2.JPEG\tn01\nval_10.JPEG\tn77\n").unwrap();
        let error = message(dir.path());
        assert!(
            error.ends_with(
                "val_annotations.txt: line 2: val_10.JPEG is of class n77, which is not in wnids.txt"
            ),
            "{error}"
        );
        fs::write(&annotations, "val_2.JPEG n01\n").unwrap();
        assert!(message(dir.path()).ends_with("line 1: expected an image and its class, separated by a tab"));
        fs::write(&annotations, "val_2.JPEG\tn01\n").unwrap();
        assert!(
            message(dir.path()).ends_with("val/images/val_10.JPEG: has no line in val/val_annotations.txt")
        );
        fs::write(&annotations, "val_2.JPEG\tn01\nval_10.JPEG\tn02\nval_3.JPEG\tn01\n").unwrap();
        assert!(
            message(dir.path())
                .ends_with("val/images/val_3.JPEG: missing; it is listed in val/val_annotations.txt")
        );
        fs::remove_file(&annotations).unwrap();
        assert!(
            message(dir.path()).contains("val_annotations.txt: cannot read: "),
            "{}",
            message(dir.path())
        );
    }
}
