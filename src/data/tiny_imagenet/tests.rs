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
    fs::write(root.join("words.txt"), "n01\tgoldfish, Carassius auratus\nn09\tother\nn03\tlemon\n").unwrap();
    fs::write(root.join(ANNOTATIONS), "val_2.JPEG\tn01\t0\t0\t9\t9\nval_10.JPEG\tn02\t0\t0\t9\t9\n").unwrap();
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
    assert_eq!(split(&root), Split { train, test, own_parts: true }, "the folder itself, now from the cache");
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
    assert!(fs::metadata(&cache).unwrap().len() > bytes.len() as u64 + 12288, "the cache has the new image");
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
    assert!(message(dir.path()).contains("n02_0.JPEG: expected a JPEG image: "), "{}", message(dir.path()));
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
    assert!(message(dir.path()).contains("train/n02/images: holds no JPEG files"), "{}", message(dir.path()));
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
        error
            .ends_with("val_annotations.txt: line 2: val_10.JPEG is of class n77, which is not in wnids.txt"),
        "{error}"
    );
    fs::write(&annotations, "val_2.JPEG n01\n").unwrap();
    assert!(message(dir.path()).ends_with("line 1: expected an image and its class, separated by a tab"));
    fs::write(&annotations, "val_2.JPEG\tn01\n").unwrap();
    assert!(message(dir.path()).ends_with("val/images/val_10.JPEG: has no line in val/val_annotations.txt"));
    fs::write(&annotations, "val_2.JPEG\tn01\nval_10.JPEG\tn02\nval_3.JPEG\tn01\n").unwrap();
    assert!(
        message(dir.path())
            .ends_with("val/images/val_3.JPEG: missing; it is listed in val/val_annotations.txt")
    );
    fs::remove_file(&annotations).unwrap();
    assert!(message(dir.path()).contains("val_annotations.txt: cannot read: "), "{}", message(dir.path()));
}
