//! The types a hyper-parameter can have: how each is read from text and written to a record.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeBounds;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::error::{Error, Result, ensure};

/// A type of hyper-parameter.
pub trait Value: Sized {
    /// The form of a value, for help: `NUMBER`, `linf|l2`.
    fn metavar() -> String;

    /// Reads the value of `key`; with `pixel_units` a plain [`Magnitude`] counts byte steps (8 means 8/255).
    ///
    /// Errors: [`Error::Value`], or [`Error::Unknown`] for a word that is not one of a few.
    fn read(key: &'static str, text: &str, pixel_units: bool) -> Result<Self>;

    /// The value for a record; [`text_of`] turns it back into what [`Value::read`] reads.
    fn json(&self) -> Json;
}

/// The text that [`Value::read`] understands for a recorded value; `None` for a table.
pub fn text_of(value: &Json) -> Option<String> {
    match value {
        Json::Null => Some("none".into()),
        Json::Bool(flag) => Some(flag.to_string()),
        // 1.0 is written 1, as it is on a command line.
        Json::Number(number) if number.is_f64() => number.as_f64().map(|number| number.to_string()),
        Json::Number(number) => Some(number.to_string()),
        Json::String(text) => Some(text.clone()),
        Json::Array(items) if items.is_empty() => Some("none".into()),
        Json::Array(items) => Some(items.iter().map(text_of).collect::<Option<Vec<_>>>()?.join(",")),
        Json::Object(_) => None,
    }
}

/// `text` in lower case with hyphens: names of methods, models and data sets may be written either way.
fn hyphened(text: &str) -> String {
    text.trim().to_lowercase().replace('_', "-")
}

/// `text` without case, hyphens and underscores, for comparing words.
pub(super) fn bare(text: &str) -> String {
    hyphened(text).replace('-', "")
}

/// A finite number or a fraction of two; `None` for other text.
pub(super) fn magnitude(text: &str) -> Option<Magnitude> {
    let read = |part: &str| part.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    match text.split_once('/') {
        Some((over, under)) => Some(Magnitude::fraction(read(over)?, read(under).filter(|&n| n != 0.0)?)),
        None => read(text).map(Magnitude::plain),
    }
}

/// [`magnitude`], or the error that the value of `key` is not `what`.
fn number(key: &'static str, text: &str, what: &str) -> Result<Magnitude> {
    magnitude(text).ok_or_else(|| Error::value(key, text.trim(), format!("not {what}")))
}

/// The parts of a list, `1,2` or `[1, 2]`; empty for `none`.
fn items(text: &str) -> Vec<&str> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']').trim();
    if inner.is_empty() || bare(inner) == "none" {
        Vec::new()
    } else {
        inner.split(',').map(str::trim).collect()
    }
}

/// A length in pixel space, where pixels lie in `[0, 1]`; it remembers that it was written as a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitude {
    value: f64,
    fraction: Option<(f64, f64)>,
}

impl Magnitude {
    /// `over / under`, recorded as such.
    pub const fn fraction(over: f64, under: f64) -> Magnitude {
        Magnitude { value: over / under, fraction: Some((over, under)) }
    }

    /// `value`, recorded as a number.
    pub const fn plain(value: f64) -> Magnitude {
        Magnitude { value, fraction: None }
    }

    /// The length times `factor`; a fraction stays one.
    pub fn times(self, factor: f64) -> Magnitude {
        Magnitude {
            value: self.value * factor,
            fraction: self.fraction.map(|(over, under)| (over * factor, under)),
        }
    }

    /// Whether the length lies in `range`.
    pub(super) fn lies_in(self, range: impl RangeBounds<f64>) -> bool {
        range.contains(&self.value)
    }

    /// The length as the kernels take it.
    pub fn get(self) -> f32 {
        self.value as f32
    }
}

impl Display for Magnitude {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.fraction {
            Some((over, under)) => write!(f, "{over}/{under}"),
            None => write!(f, "{}", self.value),
        }
    }
}

impl Value for Magnitude {
    fn metavar() -> String {
        "8/255|NUMBER".into()
    }

    fn read(key: &'static str, text: &str, pixel_units: bool) -> Result<Self> {
        let length = number(key, text, "a number; write 8/255, 0.0314 or, with --pixel-units, 8")?;
        ensure(length.value >= 0.0, || Error::value(key, text.trim(), "must not be negative"))?;
        let bytes = pixel_units && length.fraction.is_none();
        Ok(if bytes { Magnitude::fraction(length.value, 255.0) } else { length })
    }

    fn json(&self) -> Json {
        match self.fraction {
            Some(_) => Json::from(self.to_string()),
            None => Json::from(self.value),
        }
    }
}

impl Value for String {
    fn metavar() -> String {
        "NAME".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        let name = hyphened(text);
        if name.is_empty() { Err(Error::value(key, "''", "a name is needed")) } else { Ok(name) }
    }

    fn json(&self) -> Json {
        Json::from(self.as_str())
    }
}

/// Whole numbers.
macro_rules! counts {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn metavar() -> String {
                "COUNT".into()
            }

            fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
                let text = text.trim();
                text.parse().map_err(|_| Error::value(key, text, "not a whole number of 0 or more"))
            }

            fn json(&self) -> Json {
                Json::from(*self)
            }
        })+
    };
}

counts!(usize, u64);

impl Value for f64 {
    fn metavar() -> String {
        "NUMBER".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        Ok(number(key, text, "a number")?.value)
    }

    fn json(&self) -> Json {
        Json::from(*self)
    }
}

/// The float32 nearest to a number.
///
/// Errors: as [`number`], and a number too large for one.
fn single(key: &'static str, text: &str, what: &str) -> Result<f32> {
    let single = number(key, text, what)?.get();
    ensure(single.is_finite(), || Error::value(key, text.trim(), "too large for a float32"))?;
    Ok(single)
}

impl Value for f32 {
    fn metavar() -> String {
        "NUMBER".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        single(key, text, "a number")
    }

    fn json(&self) -> Json {
        // The number with the shortest text that reads back as this one: 0.1, not 0.10000000149.
        Json::from(self.to_string().parse().unwrap_or(f64::from(*self)))
    }
}

impl Value for bool {
    fn metavar() -> String {
        "true|false".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        match bare(text).as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(Error::value(key, text.trim(), "not true or false")),
        }
    }

    fn json(&self) -> Json {
        Json::from(*self)
    }
}

impl Value for Option<PathBuf> {
    fn metavar() -> String {
        "PATH".into()
    }

    fn read(_: &'static str, text: &str, _: bool) -> Result<Self> {
        Ok(if text.is_empty() || text == "none" { None } else { Some(PathBuf::from(text)) })
    }

    fn json(&self) -> Json {
        self.as_ref().map_or(Json::Null, |path| Json::from(path.to_string_lossy()))
    }
}

impl Value for Vec<usize> {
    fn metavar() -> String {
        "COUNT,COUNT,..".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        let problem = || Error::value(key, text.trim(), "not a list of whole numbers such as 101,106");
        items(text).into_iter().map(|item| item.parse().map_err(|_| problem())).collect()
    }

    fn json(&self) -> Json {
        Json::from(self.as_slice())
    }
}

impl Value for Vec<f32> {
    fn metavar() -> String {
        "NUMBER,NUMBER,..".into()
    }

    fn read(key: &'static str, text: &str, _: bool) -> Result<Self> {
        let item = |item| single(key, item, "a number; a list is written 0.5,0.25");
        items(text).into_iter().map(item).collect()
    }

    fn json(&self) -> Json {
        self.iter().map(Value::json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn magnitude(text: &str, pixel_units: bool) -> Result<Magnitude> {
        Magnitude::read("eps", text, pixel_units)
    }

    #[test]
    fn magnitudes() {
        assert_eq!(magnitude(" 8 / 255 ", true).unwrap(), Magnitude::fraction(8.0, 255.0));
        assert_eq!(magnitude("8", true).unwrap(), Magnitude::fraction(8.0, 255.0));
        assert_eq!(magnitude("8/255", false).unwrap().get(), 8.0 / 255.0);
        assert_eq!(magnitude("8/255", false).unwrap().json(), Json::from("8/255"));
        assert_eq!(magnitude("0.03137", false).unwrap().json(), Json::from(0.03137));
        assert_eq!(magnitude("0", false).unwrap().get(), 0.0);
        assert_eq!(magnitude("-0.1", false).unwrap_err().to_string(), "eps = -0.1: must not be negative");
        for bad in ["abc", "NaN", "inf", "8/0", "8/", "1/2/3", ""] {
            let error = magnitude(bad, false).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("eps = {bad}: not a number; write 8/255, 0.0314 or, with --pixel-units, 8")
            );
        }
    }

    #[test]
    fn lists_names_and_numbers() {
        assert_eq!(String::read("model", "WRN_28_10", false).unwrap(), "wrn-28-10");
        assert_eq!(Vec::<usize>::read("milestones", "[101, 106]", false).unwrap(), [101, 106]);
        assert_eq!(Vec::<usize>::read("milestones", "none", false).unwrap(), [0; 0]);
        assert_eq!(Vec::<f32>::read("mean", "0.5,1/4", false).unwrap(), [0.5, 0.25]);
        assert!(
            Vec::<usize>::read("milestones", "1;2", false)
                .unwrap_err()
                .to_string()
                .starts_with("milestones = 1;2: not a list")
        );
        assert_eq!(f64::read("lr", "5e-4", false).unwrap(), 5e-4);
        for text in ["0.1", "0.0005", "6", "0.999", "1e-10", "0.2471"] {
            let (single, double) =
                (f32::read("k", text, false).unwrap(), f64::read("k", text, false).unwrap());
            assert_eq!((single, single.json()), (double as f32, double.json()), "{text}");
        }
        assert_eq!(
            f32::read("beta", "1e39", false).unwrap_err().to_string(),
            "beta = 1e39: too large for a float32"
        );
        assert_eq!(f64::read("lr", "fast", false).unwrap_err().to_string(), "lr = fast: not a number");
        assert_eq!(
            usize::read("batch", "-1", false).unwrap_err().to_string(),
            "batch = -1: not a whole number of 0 or more"
        );
        assert_eq!(
            bool::read("pixel_units", "maybe", false).unwrap_err().to_string(),
            "pixel_units = maybe: not true or false"
        );
    }
}
