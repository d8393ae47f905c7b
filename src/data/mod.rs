//! Data sets: images as bytes or floats and labels as integers in main memory, loaded by name.
//!
//! Conversion to floats, cropping and flipping happen on the device ([`device_dataset`]).

mod cifar;
pub mod corruptions;
pub mod device_dataset;
mod digits;
mod file;
mod pickle;
mod pixels;
mod tiny_imagenet;

use std::path::{Path, PathBuf};

pub use digits::ATTRIBUTION as DIGITS_ATTRIBUTION;
pub use pixels::Pixels;

use crate::error::{Error, Result, ensure};
use crate::files::fingerprint::fingerprint;
use crate::rng::Stream;

/// A data set that can be loaded by name.
pub struct Source {
    /// The name in recipes, records and reports.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
    /// One line: contents, licence or origin.
    pub about: &'static str,
    /// The images and the number of classes, where every copy has the same.
    pub sizes: Option<(ImageShape, usize)>,
    load: fn(Option<&Path>) -> Result<Split>,
}

/// Every data set.
pub static SOURCES: [Source; 5] =
    [digits::DIGITS, cifar::CIFAR10, cifar::CIFAR100, tiny_imagenet::TINY_IMAGENET, file::FILE];

/// Height, width and channels of every image of a data set, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values per pixel: 1 for grey, 3 for RGB.
    pub channels: usize,
}

impl ImageShape {
    /// Values per image.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Images with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The registry's name, the same for both parts of a [`Split`].
    pub name: String,
    pub images: Pixels,
    /// The class of each image, in `0..classes`, `[N]`.
    pub labels: Vec<i32>,
    /// The shape of one image.
    pub shape: ImageShape,
    /// The number of classes, also for a subset that lacks some.
    pub classes: usize,
    /// Whether `classes` counts every class; `false` if it was derived from labels, which may lack some.
    pub all_classes: bool,
    /// A name per class, `[classes]`.
    pub class_names: Vec<String>,
    /// Factor from a stored value to a pixel in `[0, 1]`: 1/16 for digits, 1/255 for other bytes, 1 for
    /// floats.
    pub byte_scale: f32,
}

/// A data set's training and test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The images that a network may be fitted to.
    pub train: Dataset,
    /// The images that results are reported on.
    pub test: Dataset,
    /// Whether the data has these two parts itself, or was divided by the loader.
    pub own_parts: bool,
}

impl Split {
    /// The images that a network is evaluated on: the test part. A network that was `trained_elsewhere` is
    /// evaluated on all images of data without parts.
    pub fn evaluated(self, trained_elsewhere: bool) -> Result<Dataset> {
        let Split { train: mut all, test, own_parts } = self;
        if own_parts || !trained_elsewhere {
            return Ok(test);
        }
        all.images.append(test.images)?;
        all.labels.extend(test.labels);
        Ok(all)
    }
}

impl Dataset {
    /// Images of the classes of `class_names`, bytes in steps of 1/255 or floats in `[0, 1]`.
    fn new(
        name: &str,
        shape: ImageShape,
        images: impl Into<Pixels>,
        labels: Vec<i32>,
        class_names: Vec<String>,
    ) -> Dataset {
        let (name, classes, images) = (name.to_owned(), class_names.len(), images.into());
        let byte_scale = if matches!(images, Pixels::Bytes(_)) { 1.0 / 255.0 } else { 1.0 };
        Dataset { name, images, labels, shape, classes, all_classes: true, class_names, byte_scale }
    }

    /// The first `count` images to train on and the others to test on; `own_parts` as in [`Split`].
    fn split(self, count: usize, own_parts: bool) -> Split {
        let Dataset { name, mut images, mut labels, class_names, .. } = self;
        let test = Dataset {
            name: name.clone(),
            images: images.split_off(count * self.shape.bytes()),
            labels: labels.split_off(count),
            class_names: class_names.clone(),
            ..self
        };
        Split { train: Dataset { name, images, labels, class_names, ..self }, test, own_parts }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Image `index` in `[0, 1]`, `[H, W, C]`; `None` past the end.
    pub fn image(&self, index: usize) -> Option<Vec<f32>> {
        let size = self.shape.bytes();
        let values = self.images.floats(index * size..(index + 1) * size)?;
        Some(values.into_iter().map(|value| value * self.byte_scale).collect())
    }

    /// The bytes of image `index`, `[H, W, C]`.
    #[cfg(test)]
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        let size = self.shape.bytes();
        self.images.as_bytes().get(index * size..(index + 1) * size)
    }

    /// A fingerprint of the images and their labels.
    pub fn fingerprint(&self) -> String {
        fingerprint(&[self.images.as_bytes(), bytemuck::cast_slice(&self.labels)])
    }

    /// The number of images of each class, `[classes]`.
    pub fn class_counts(&self) -> Vec<usize> {
        self.members().iter().map(Vec::len).collect()
    }

    /// The indices of each class's images, ascending, `[classes]`.
    fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.classes];
        for (index, &label) in self.labels.iter().enumerate() {
            if let Some(class) = members.get_mut(label as usize) {
                class.push(index);
            }
        }
        members
    }

    /// The images at `indices`, in that order; an index may occur more than once.
    ///
    /// Errors: [`Error::Value`] for an index past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Dataset> {
        let mut labels = Vec::with_capacity(indices.len());
        for &index in indices {
            let past_end =
                || Error::value("image index", index, format!("{} has {} images", self.name, self.len()));
            labels.push(*self.labels.get(index).ok_or_else(past_end)?);
        }
        let images = self.images.gather(indices, self.shape.bytes());
        let (name, class_names) = (self.name.clone(), self.class_names.clone());
        Ok(Dataset { name, images, labels, class_names, ..*self })
    }

    /// Holds out `count` images for model selection: `(train, held_out)`, both in the original order.
    ///
    /// Each class gives its share of `count`, rounded by largest remainder; `seed` decides which of its
    /// images. Errors: [`Error::Value`] about `held_out` if no training image would be left.
    pub fn hold_out(&self, count: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        ensure(count < self.len().max(1), || {
            let found = format!("{} has {} training images", self.name, self.len());
            Error::value("held_out", count, format!("{found}, and some must be left to train on"))
        })?;
        let mut held = Vec::with_capacity(count);
        let mut stream = Stream::new(seed, "held-out images");
        for (mut class, quota) in self.members().into_iter().zip(shares(&self.class_counts(), count)) {
            stream.shuffle(&mut class);
            held.extend(class.into_iter().take(quota));
        }
        held.sort_unstable();
        let mut is_held = vec![false; self.len()];
        held.iter().for_each(|&index| is_held[index] = true);
        let kept: Vec<usize> = (0..self.len()).filter(|&index| !is_held[index]).collect();
        Ok((self.subset(&kept)?, self.subset(&held)?))
    }
}

/// `count` split in proportion to `sizes` (largest remainder, ties to the earlier one): no share exceeds its
/// size, and together they are `count`.
fn shares(sizes: &[usize], count: usize) -> Vec<usize> {
    let total = sizes.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = sizes.iter().map(|size| count * size / total).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(count * sizes[i] % total), i));
    let rest = count - shares.iter().sum::<usize>();
    order.into_iter().take(rest).for_each(|i| shares[i] += 1);
    shares
}

/// The path of the data set `name`, or an error that says what it is read from: "a folder: --data DIR ..".
fn required_path<'a>(path: Option<&'a Path>, name: &str, wanted: &str) -> Result<&'a Path> {
    path.ok_or_else(|| Error::value("data", "none", format!("{name} is read from {wanted}")))
}

/// `dir` or its folder `inside`, whichever first contains `file`.
fn folder_with(dir: &Path, inside: &str, file: &str) -> Option<PathBuf> {
    [dir.to_owned(), dir.join(inside)].into_iter().find(|folder| folder.join(file).is_file())
}

/// Class names for data without any: the classes' numbers.
fn numbered_names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

/// The registry's entry for `name`; case, hyphens and underscores are ignored.
///
/// Errors: [`Error::Unknown`] with the nearest name.
pub fn find(name: &str) -> Result<&'static Source> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let is_named = |source: &&Source| {
        source.aliases.iter().chain([&source.name]).any(|known| plain(known) == plain(name))
    };
    let found = SOURCES.iter().find(is_named);
    found.ok_or_else(|| Error::unknown("data set", name, SOURCES.iter().map(|source| source.name)))
}

/// Images of random bytes with the sizes of the data set called `name`, to measure work with; those of a file
/// are its own, from `path`.
///
/// Errors: as for [`load`].
pub fn random(name: &str, path: Option<&Path>, count: usize) -> Result<Split> {
    let source = find(name)?;
    let Some((shape, classes)) = source.sizes else { return (source.load)(path) };
    let mut stream = Stream::new(0, "random images");
    let mut images = |count: usize| {
        let pixels: Vec<u8> = (0..count * shape.bytes()).map(|_| (256.0 * stream.uniform()) as u8).collect();
        let labels = (0..count).map(|image| (image % classes) as i32).collect();
        Dataset::new(source.name, shape, pixels, labels, numbered_names(classes))
    };
    Ok(Split { train: images(count), test: images(classes), own_parts: true })
}

/// Loads the data set called `name`; `path` is the folder of its files, or its file; `None` for embedded
/// data.
///
/// Errors: [`Error::Unknown`] for the name, [`Error::Value`] about `data` when a path is needed and missing
/// (or given and not needed), [`Error::File`] and [`Error::Io`] about its files.
pub fn load(name: &str, path: Option<&Path>) -> Result<Split> {
    (find(name)?.load)(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy(labels: &[i32], classes: usize) -> Dataset {
        Dataset {
            name: "toy".into(),
            images: (0..labels.len() * 2).map(|i| i as u8).collect::<Vec<u8>>().into(),
            labels: labels.to_vec(),
            shape: ImageShape { height: 1, width: 2, channels: 1 },
            classes,
            class_names: (0..classes).map(|c| c.to_string()).collect(),
            all_classes: true,
            byte_scale: 1.0,
        }
    }

    #[test]
    fn subset_keeps_the_order_asked_for() {
        let set = toy(&[0, 1, 0, 2], 3);
        let part = set.subset(&[3, 0, 3]).unwrap();
        assert_eq!(part.labels, [2, 0, 2]);
        assert_eq!(part.images, Pixels::Bytes(vec![6, 7, 0, 1, 6, 7]));
        assert_eq!((part.classes, part.image(1), part.image(3)), (3, Some(vec![0.0, 1.0]), None));
        assert_eq!(set.subset(&[4]).unwrap_err().to_string(), "image index = 4: toy has 4 images");
    }

    #[test]
    fn floats_are_selected_and_divided_like_bytes() {
        let floats = Pixels::Floats((0..8).map(|value| value as f32 / 8.0).collect());
        let set = Dataset { images: floats, ..toy(&[0, 1, 0, 2], 3) };
        let part = set.subset(&[2, 0]).unwrap();
        assert_eq!(part.images, Pixels::Floats(vec![0.5, 0.625, 0.0, 0.125]));
        assert_eq!((part.image(0), part.images.as_bytes().len()), (Some(vec![0.5, 0.625]), 16));
        let split = set.clone().split(3, false);
        assert_eq!((split.train.len(), split.test.image(0)), (3, Some(vec![0.75, 0.875])));
        assert_eq!(split.clone().evaluated(true).unwrap(), set, "all images for a network trained elsewhere");
        assert_eq!(split.clone().evaluated(false).unwrap(), split.test);
        assert_eq!(set.split(3, true).evaluated(true).unwrap().len(), 1, "a test part of its own");
    }

    #[test]
    fn hold_out_is_balanced_complete_and_repeatable() {
        let labels: Vec<i32> = (0..100).map(|i| if i < 50 { 0 } else { 1 + i % 2 }).collect();
        let set = toy(&labels, 4);
        let (train, held) = set.hold_out(21, 7).unwrap();
        assert_eq!(held.class_counts(), [11, 5, 5, 0], "shares 10.5, 5.25, 5.25, 0");
        let mut all: Vec<&[u8]> =
            train.images.as_bytes().chunks(2).chain(held.images.as_bytes().chunks(2)).collect();
        all.sort();
        assert_eq!(
            all,
            set.images.as_bytes().chunks(2).collect::<Vec<_>>(),
            "every image is in one of the two"
        );
        assert_eq!(set.hold_out(21, 7).unwrap().1, held);
        assert_ne!(set.hold_out(21, 8).unwrap().1.images, held.images);
        let (kept, none) = set.hold_out(0, 7).unwrap();
        assert_eq!((kept, none.len()), (set.clone(), 0));
        let error = set.hold_out(100, 7).unwrap_err().to_string();
        assert_eq!(error, "held_out = 100: toy has 100 training images, and some must be left to train on");
    }

    #[test]
    fn hold_out_draws_from_the_whole_class() {
        let set = toy(&vec![0; 100], 1);
        let (_, held) = set.hold_out(50, 0).unwrap();
        let early = held.images.as_bytes().chunks(2).filter(|image| image[0] < 100).count();
        assert!((15..=35).contains(&early), "{early} of 50 come from the first half");
    }

    #[test]
    fn names_and_aliases() {
        for name in ["cifar10", "CIFAR-10", "cifar_10"] {
            assert_eq!(find(name).unwrap().name, "cifar10");
        }
        for name in ["tiny-imagenet", "TinyImageNet", "tiny_imagenet_200"] {
            assert_eq!(find(name).unwrap().name, "tiny-imagenet");
        }
        let error = find("cifar11").err().unwrap().to_string();
        let known = "digits, cifar10, cifar100, tiny-imagenet, file";
        assert_eq!(error, format!("unknown data set 'cifar11' (did you mean 'cifar10'?); known: {known}"));
    }

    #[test]
    fn the_registry_lists_every_file_with_a_data_set() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        let entries = sources.flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let entry =
                |line: &str| Some(line.strip_suffix(": Source = Source {")?.rsplit_once(' ')?.1.to_owned());
            text.lines().filter_map(entry).collect::<Vec<_>>()
        });
        let mut found: Vec<String> = entries.map(|entry| entry.to_lowercase().replace('_', "-")).collect();
        let mut listed = SOURCES.each_ref().map(|source| source.name);
        found.sort();
        listed.sort();
        assert_eq!(found, listed);
    }
}
