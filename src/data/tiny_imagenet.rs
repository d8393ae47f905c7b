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
    sizes: Some((SHAPE, 200)),
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
mod tests;
