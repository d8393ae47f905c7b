//! The handwritten digits embedded in the binary: 1,797 grey 8x8 images of 17 levels, 10 classes.
//!
//! Source: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
//! Repository, 1998, licensed CC BY 4.0; its test part, as scikit-learn ships it. The split is fixed: the
//! first 1,437 images train, the last 360 test.

use std::io::Read;
use std::path::Path;

use super::{Dataset, ImageShape, Source, Split, numbered_names};
use crate::error::{Error, Result, ensure};

/// Attribution of the embedded digits, for `--version`, reports and the README.
pub const ATTRIBUTION: &str = "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, \
                               UCI Machine Learning Repository (1998), \
                               https://doi.org/10.24432/C50P49, CC BY 4.0";

/// The registry's entry.
pub(super) const DIGITS: Source = Source {
    name: "digits",
    aliases: &[],
    about: "1,797 handwritten digits, grey, 8x8, 10 classes; embedded \
            (UCI, E. Alpaydin and C. Kaynak, CC BY 4.0)",
    sizes: Some((SHAPE, 10)),
    load,
};

/// Gzipped lines of 64 pixels in 0..=16 and a label, separated by commas.
static CSV: &[u8] = include_bytes!("digits.csv.gz");
const IMAGES: usize = 1797;
const TRAIN: usize = 1437;
const LEVELS: u8 = 16;
const SHAPE: ImageShape = ImageShape { height: 8, width: 8, channels: 1 };

fn load(dir: Option<&Path>) -> Result<Split> {
    if let Some(dir) = dir {
        let problem = "the data set 'digits' is embedded and reads no folder; \
                       name the folder's data set with --dataset";
        return Err(Error::value("data", dir.display(), problem));
    }
    let file = Path::new("digits.csv.gz (embedded)");
    let mut text = String::new();
    flate2::read::GzDecoder::new(CSV).read_to_string(&mut text).map_err(Error::io(file, "cannot unpack"))?;
    let all = parse(&text).map_err(|problem| Error::file(file, problem))?;
    let found = || Error::file(file, format!("expected {IMAGES} images, found {}", all.len()));
    ensure(all.len() == IMAGES, found)?;
    Ok(all.split(TRAIN, true))
}

/// The images of CSV `text`; an error names the line.
fn parse(text: &str) -> Result<Dataset, String> {
    let (mut images, mut labels) = (Vec::with_capacity(IMAGES * SHAPE.bytes()), Vec::with_capacity(IMAGES));
    for (line, row) in text.lines().enumerate() {
        let values: Result<Vec<u8>, _> = row.split(',').map(str::parse).collect();
        match values.as_deref() {
            Ok([pixels @ .., label])
                if pixels.len() == SHAPE.bytes() && *label < 10 && pixels.iter().all(|&p| p <= LEVELS) =>
            {
                images.extend_from_slice(pixels);
                labels.push(i32::from(*label));
            }
            _ => return Err(format!("line {}: expected 64 pixels in 0..=16 and a label in 0..=9", line + 1)),
        }
    }
    let set = Dataset::new(DIGITS.name, SHAPE, images, labels, numbered_names(10));
    Ok(Dataset { byte_scale: 1.0 / f32::from(LEVELS), ..set })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_digits() {
        let split = crate::data::load("digits", None).unwrap();
        assert_eq!((split.train.len(), split.test.len()), (1437, 360));
        assert_eq!(split.train.images.len(), 1437 * 64);
        assert_eq!(split.train.bytes(0).unwrap()[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!(split.train.labels[..3], [0, 1, 2]);
        assert_eq!(split.train.images.as_bytes().iter().max(), Some(&16));
        assert_eq!(split.train.byte_scale, 0.0625);
        // scikit-learn's copy has these counts over all 1,797 images.
        let counts: Vec<usize> =
            split.train.class_counts().iter().zip(split.test.class_counts()).map(|(a, b)| a + b).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn a_folder_is_refused_and_bad_lines_are_named() {
        let error = crate::data::load("digits", Some(Path::new("/x"))).unwrap_err().to_string();
        assert!(error.starts_with("data = /x: the data set 'digits' is embedded"), "{error}");
        let good = [["0"; 64].join(","), "9".into()].join(",");
        assert_eq!(parse(&good).unwrap().labels, [9]);
        for bad in
            ["1,2,3", &good.replacen('0', "17", 1), &good.replace('9', "10"), &good.replacen('0', "x", 1)]
        {
            let error = parse(&format!("{good}\n{bad}")).unwrap_err();
            assert_eq!(error, "line 2: expected 64 pixels in 0..=16 and a label in 0..=9");
        }
    }
}
