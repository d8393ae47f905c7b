//! Weight files: safetensors with PyTorch's names and layouts, independent of any device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::slice;

use super::read;
use super::safetensors::{self, Dtype, TensorEntry, TensorView};
use crate::error::{Error, Result, ensure};

/// The number of wrong keys that a message lists before it counts the rest.
const LISTED: usize = 12;

/// The content of a weight file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightFile {
    /// Where it was read from, for messages; empty for one made in memory.
    pub path: PathBuf,
    /// Its own normalisation: tensors `mean` and `std` of a layer, whatever its prefix, which are not in
    /// `tensors`.
    pub layer: Option<Normalisation>,
    /// Shape and values of each tensor, in the file's layout (OIHW for convolutions).
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// Integer scalars: each batch norm's `num_batches_tracked`.
    pub ints: BTreeMap<String, i64>,
    /// `arch`, `variant`, `num_classes`, `mean`, `std`, `norm`, `eps`, `method`, `recipe`, `epoch`,
    /// `selection`, `commit`.
    pub metadata: BTreeMap<String, String>,
}

/// A network's normalisation of images, per channel; empty: none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Normalisation {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

/// Numbers as metadata spells them: `0.5,0.25`.
pub(crate) fn listed(values: &[f32]) -> String {
    values.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

impl Display for Normalisation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.mean.is_empty() {
            true => f.write_str("does not normalise images"),
            false => write!(f, "takes mean {} and std {}", listed(&self.mean), listed(&self.std)),
        }
    }
}

impl WeightFile {
    /// The normalisation in the metadata, else that of a layer, if any.
    pub fn normalisation(&self) -> Result<Option<Normalisation>> {
        let list = |key: &str| -> Result<Option<Vec<f32>>> {
            let wrong =
                |_| Error::file(&self.path, format!("{key} in its metadata is not a list of numbers"));
            let Some(text) = self.metadata.get(key) else { return Ok(None) };
            let words = text.split(',').filter(|word| !word.is_empty());
            words.map(|word| word.parse().map_err(wrong)).collect::<Result<_>>().map(Some)
        };
        Ok(match (list("mean")?, list("std")?) {
            (None, None) => self.layer.clone(),
            (mean, std) => {
                Some(Normalisation { mean: mean.unwrap_or_default(), std: std.unwrap_or_default() })
            }
        })
    }

    /// Puts a normalisation into the metadata.
    pub fn set_normalisation(&mut self, with: &Normalisation) {
        self.metadata.insert("mean".into(), listed(&with.mean));
        self.metadata.insert("std".into(), listed(&with.std));
    }

    /// Reads a safetensors file. Tensors of f64, f16 and bf16 become f32. Prefixes that wrappers put before
    /// every key (`module.`, `model.`, and a leading `0.` or `1.`) are removed; tensors under `attacker.` and
    /// `sub_block1.`, which no network computes with, are skipped. `mean` and `std` of a layer that
    /// normalises images become [`WeightFile::layer`].
    ///
    /// Errors: [`Error::Io`]; [`Error::File`] for a file that is cut off or of another kind, or a tensor
    /// whose type is not that of a weight.
    pub fn read(path: &Path) -> Result<WeightFile> {
        let bytes = read(path, "cannot read the weights")?;
        let wrong = |problem: String| Error::file(path, problem);
        let (content, metadata) = safetensors::parse(&bytes).map_err(wrong)?;
        let mut file = WeightFile { path: path.to_owned(), metadata, ..WeightFile::default() };
        for (full, tensor) in content.iter() {
            let name = bare_name(full).to_owned();
            if name.starts_with("attacker.") || name.starts_with("sub_block1.") {
                continue;
            }
            let second = file.tensors.contains_key(&name) || file.ints.contains_key(&name);
            let problem =
                || wrong(format!("{full}: a second tensor called {name} once the prefix is taken off"));
            ensure(!second, problem)?;
            if let Some(values) = safetensors::floats(&tensor, |value| value as f32) {
                file.tensors.insert(name, (tensor.shape().to_vec(), values));
            } else if let Some(value) = integer(&tensor) {
                file.ints.insert(name, value);
            } else {
                let found = format!("{full} is {:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(wrong(format!("{found}; expected F32, F64, F16 or BF16, or one whole number")));
            }
        }
        file.layer = take_normalisation(&mut file.tensors);
        Ok(file)
    }

    /// An error about a value of the metadata as one about this file.
    pub fn in_metadata<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| Error::file(&self.path, format!("in its metadata: {error}")))
    }

    /// The number of classes of its classifier.
    pub fn classes(&self) -> Result<usize> {
        let bias = ["linear.bias", "fc.bias"].iter().find_map(|name| self.tensors.get(*name));
        let classes = bias.map(|(shape, _)| shape.iter().product());
        classes.ok_or_else(|| Error::file(&self.path, "has no classifier (linear.bias or fc.bias)"))
    }

    /// `norm` and `eps` of the ball that the network was trained for, if the metadata has both.
    pub fn trained_for(&self) -> Vec<(&'static str, &str)> {
        let fact = |key: &'static str| Some((key, self.metadata.get(key)?.as_str()));
        ["norm", "eps"].into_iter().map(fact).collect::<Option<_>>().unwrap_or_default()
    }

    /// Writes a safetensors file, whole or not at all; the same content gives the same bytes.
    ///
    /// Errors: [`Error::Io`]; [`Error::File`] when a tensor's values do not fill its shape.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ints = self.ints.iter().map(|(name, value)| TensorEntry::new(name, &[], slice::from_ref(value)));
        let tensors =
            self.tensors.iter().map(|(name, (shape, values))| TensorEntry::new(name, shape, values));
        safetensors::write(path, Some(&self.metadata), ints.chain(tensors).collect())
    }

    /// Checks that the tensors are exactly `expected`, by name and shape; [`WeightFile::ints`] are optional.
    ///
    /// Errors: [`Error::File`] with the number of missing, extra and mis-shaped keys, of which twelve are
    /// named.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let misfit = |(name, shape): &(String, Vec<usize>)| match self.tensors.get(name) {
            None => Some(format!("{name} {shape:?} is missing")),
            Some((found, _)) => (found != shape).then(|| format!("{name} is {found:?}, expected {shape:?}")),
        };
        let mut wrong: Vec<String> = expected.iter().filter_map(misfit).collect();
        let known: BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        let extra = self.tensors.iter().filter(|(name, _)| !known.contains(name));
        wrong.extend(extra.map(|(name, (shape, _))| format!("{name} {shape:?} is not in the network")));
        let count = wrong.len();
        if count > LISTED {
            wrong.splice(LISTED.., [format!("and {} more", count - LISTED)]);
        }
        let arch =
            self.metadata.get("arch").map(|arch| format!(" (the file is for {arch})")).unwrap_or_default();
        let list = wrong.join("; ");
        let problem = format!("the weights do not fit the network{arch}, {count} keys: {list}");
        ensure(count == 0, || Error::file(&self.path, problem))
    }
}

/// Takes the tensors `mean` and `std` of one layer, `[C]` or `[1,C,1,1]`, out of a network's.
fn take_normalisation(tensors: &mut BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Option<Normalisation> {
    let per_channel = |(shape, values): &(Vec<usize>, Vec<f32>)| {
        matches!(shape[..], [1 | 3] | [1, 1 | 3, 1, 1]).then(|| values.clone())
    };
    let prefixes = tensors.keys().filter_map(|name| name.strip_suffix("mean"));
    // A batch norm has running_mean, and running_var beside it.
    let own = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
    let pairs = prefixes.filter(own).filter_map(|prefix| {
        let of = |name: &str| tensors.get(&format!("{prefix}{name}")).and_then(per_channel);
        let (mean, std) = (of("mean")?, of("std")?);
        (mean.len() == std.len()).then(|| (prefix.to_owned(), Normalisation { mean, std }))
    });
    let found: Vec<_> = pairs.collect();
    // Of several, none is certain to be the one for images.
    let [(prefix, normalisation)] = <[_; 1]>::try_from(found).ok()?;
    ["mean", "std"].iter().for_each(|name| drop(tensors.remove(&format!("{prefix}{name}"))));
    Some(normalisation)
}

/// `name` without prefixes of wrappers.
fn bare_name(mut name: &str) -> &str {
    let prefixes = ["module.", "model.", "0.", "1."];
    while let Some(rest) = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// The value of an integer tensor of one element.
fn integer(tensor: &TensorView) -> Option<i64> {
    let one =
        matches!(tensor.dtype(), Dtype::I64 | Dtype::I32) && tensor.shape().iter().product::<usize>() == 1;
    if one { safetensors::integers(tensor)?.first().copied() } else { None }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn sample() -> WeightFile {
        let mut file = WeightFile::default();
        file.tensors.insert("conv1.weight".into(), (vec![2, 1, 1, 1], vec![1.5, -0.0]));
        file.tensors.insert("bn1.weight".into(), (vec![3], vec![f32::MIN_POSITIVE, 1e30, 0.1]));
        file.ints.insert("bn1.num_batches_tracked".into(), 391);
        file.metadata.insert("arch".into(), "resnet-mini".into());
        file.metadata.insert("mean".into(), "0.5, \"quoted\"".into());
        file
    }

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("w.safetensors")
    }

    /// The message for a file of `bytes`, after its path.
    fn message(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path(&dir), bytes).unwrap();
        let error = WeightFile::read(&path(&dir)).unwrap_err().to_string();
        error.strip_prefix(&format!("{}: ", path(&dir).display())).unwrap().to_owned()
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        sample().write(&path(&dir)).unwrap();
        let bytes = std::fs::read(path(&dir)).unwrap();
        let read = WeightFile::read(&path(&dir)).unwrap();
        assert_eq!(read, WeightFile { path: path(&dir), ..sample() });
        assert!(read.tensors["conv1.weight"].1[1].is_sign_negative());
        read.write(&path(&dir)).unwrap();
        assert_eq!(std::fs::read(path(&dir)).unwrap(), bytes);
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(start % 8, 0, "tensors are aligned");
    }

    #[test]
    fn other_precisions_and_prefixes() {
        let dir = tempfile::tempdir().unwrap();
        let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let brain: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let double: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let count = 7i32.to_le_bytes();
        let views = [
            ("module.model.h", TensorView::new(Dtype::F16, vec![2], &half).unwrap()),
            ("1.b", TensorView::new(Dtype::BF16, vec![2], &brain).unwrap()),
            ("d", TensorView::new(Dtype::F64, vec![1, 2], &double).unwrap()),
            ("model.n", TensorView::new(Dtype::I32, vec![], &count).unwrap()),
            ("attacker.d", TensorView::new(Dtype::F64, vec![2], &double).unwrap()),
        ];
        ::safetensors::serialize_to_file(views, None, &path(&dir)).unwrap();
        let file = WeightFile::read(&path(&dir)).unwrap();
        assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["b", "d", "h"]);
        assert!(file.tensors.values().all(|(_, values)| values == &[1.5, -2.0]));
        assert_eq!((file.tensors["d"].0.as_slice(), file.ints["n"]), (&[1, 2][..], 7));
    }

    #[test]
    fn a_layer_that_normalises_is_taken_as_the_normalisation() {
        let dir = tempfile::tempdir().unwrap();
        let read = |tensors: &[(&str, &[usize], &[f32])]| {
            let views = tensors.iter().map(|(name, shape, values)| TensorEntry::new(name, shape, values));
            safetensors::write(&path(&dir), None, views.collect()).unwrap();
            WeightFile::read(&path(&dir)).unwrap()
        };
        let (mean, std): (&[f32], &[f32]) = (&[0.5, 0.25, 0.125], &[0.2, 0.3, 0.4]);
        let expected = Normalisation { mean: mean.to_vec(), std: std.to_vec() };
        for (prefix, shape) in [("", &[3][..]), ("normalize.", &[1, 3, 1, 1]), ("module.0.", &[1, 3, 1, 1])] {
            let names = ["mean", "std"].map(|name| format!("{prefix}{name}"));
            let running = ("bn1.running_mean", &[3][..], mean);
            let file = read(&[(&names[0], shape, mean), (&names[1], shape, std), running]);
            assert_eq!(file.normalisation().unwrap(), Some(expected.clone()), "{prefix}");
            assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["bn1.running_mean"], "{prefix}");
        }
        // Of another shape, alone, or twice: they stay, and check() names them.
        for wrong in [
            &[("mean", &[3][..], mean), ("std", &[1], &std[..1])][..],
            &[("mean", &[3, 1], mean), ("std", &[3, 1], std)],
            &[("a.mean", &[3], mean)],
            &[("a.mean", &[3], mean), ("a.std", &[3], std), ("b.mean", &[3], mean), ("b.std", &[3], std)],
        ] {
            let file = read(wrong);
            assert_eq!((file.layer, file.tensors.len()), (None, wrong.len()));
        }
    }

    #[test]
    fn check_lists_every_wrong_key() {
        let dir = tempfile::tempdir().unwrap();
        sample().write(&path(&dir)).unwrap();
        let file = WeightFile::read(&path(&dir)).unwrap();
        let fitting = [("bn1.weight".to_owned(), vec![3]), ("conv1.weight".to_owned(), vec![2, 1, 1, 1])];
        file.check(&fitting).unwrap();
        let error = file
            .check(&[("bn1.weight".into(), vec![4]), ("fc.bias".into(), vec![10])])
            .unwrap_err()
            .to_string();
        let expected = "the weights do not fit the network (the file is for resnet-mini), 3 keys: \
                        bn1.weight is [3], expected [4]; fc.bias [10] is missing; \
                        conv1.weight [2, 1, 1, 1] is not in the network";
        assert_eq!(error, format!("{}: {expected}", path(&dir).display()));
        let many: Vec<_> = (0..20).map(|i| (format!("k{i:02}"), vec![1])).chain(fitting).collect();
        let error = file.check(&many).unwrap_err().to_string();
        assert!(
            error.contains(", 20 keys: k00 [1] is missing;")
                && error.ends_with("k11 [1] is missing; and 8 more"),
            "{error}"
        );
    }

    #[test]
    fn files_of_another_kind_say_what_they_are() {
        assert!(message(b"\n<!DOCTYPE html><html>...").starts_with("this is an HTML page, not weights"));
        assert!(message(b"PK\x03\x04....").starts_with("this is a PyTorch checkpoint; convert it"));
        assert_eq!(message(b""), "the file is empty");
        assert!(message(b"0123456789abcdef").starts_with("not a safetensors file (16 bytes): "));
    }

    #[test]
    fn truncated_files_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        sample().write(&path(&dir)).unwrap();
        let bytes = std::fs::read(path(&dir)).unwrap();
        for keep in [12, 60, bytes.len() - 1] {
            let expected = format!(
                "the file is cut off: {keep} bytes, fewer than its header says; download or copy it again"
            );
            assert_eq!(message(&bytes[..keep]), expected);
        }
        assert!(message(&[&bytes[..], b"more"].concat()).starts_with("not a safetensors file ("));
    }

    #[test]
    fn unusable_tensors_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |views: &[(&str, Dtype, usize)]| {
            let data = [0u8; 8];
            let views = views.iter().map(|&(name, dtype, n)| {
                (name, TensorView::new(dtype, vec![n], &data[..n * dtype.bitsize() / 8]).unwrap())
            });
            ::safetensors::serialize_to_file(views, None, &path(&dir)).unwrap();
            WeightFile::read(&path(&dir)).unwrap_err().to_string()
        };
        let error = write(&[("a", Dtype::U8, 3)]);
        assert!(
            error.ends_with("a is U8 [3]; expected F32, F64, F16 or BF16, or one whole number"),
            "{error}"
        );
        let error = write(&[("a", Dtype::F32, 1), ("module.a", Dtype::F32, 1)]);
        assert!(error.contains("a second tensor called a once the prefix is taken off"), "{error}");
        let mut file = sample();
        file.tensors.insert("x".into(), (vec![2, 2], vec![0.0; 3]));
        assert!(file.write(&path(&dir)).unwrap_err().to_string().ends_with("x of shape [2, 2] has 3 values"));
    }
}
