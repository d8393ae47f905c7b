//! The sizes of an operation, as `--shape` takes them: `128x32x32x64,out=128,kernel=3,stride=2`.

use crate::error::{Error, Result, ensure};

/// Sizes of axes, and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub axes: Vec<usize>,
    settings: Vec<(&'static str, usize)>,
}

/// What an operation's sizes look like.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// The axes by their letters: `NxHxWxC`.
    pub axes: &'static str,
    pub settings: &'static [&'static str],
}

impl Grammar {
    /// As help and errors show it: `NxHxWxC[,out=COUNT][,kernel=COUNT]`.
    pub fn form(&self) -> String {
        let settings = self.settings.iter().map(|name| format!("[,{name}=COUNT]"));
        format!("{}{}", self.axes, settings.collect::<String>())
    }

    /// Errors: another number of axes, a size that is 0 or no number, a setting that the operation does not
    /// have.
    pub fn parse(&self, text: &str) -> Result<Sizes> {
        let wrong = |problem: &str| {
            Error::value("--shape", text, format!("{problem}; expected {}, sizes from 1 on", self.form()))
        };
        let size = |word: &str| {
            let size = word.trim().parse().ok().filter(|size| (1..=i32::MAX as usize).contains(size));
            size.ok_or_else(|| wrong(&format!("'{word}' is no size")))
        };
        let mut parts = text.split(',');
        let axes = parts.next().unwrap_or_default().split('x').map(size).collect::<Result<Vec<usize>>>()?;
        let expected = self.axes.split('x').count();
        ensure(axes.len() == expected, || wrong(&format!("{} sizes instead of {expected}", axes.len())))?;
        let setting = |part: &str| {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(&format!("'{part}' has no '='")))?;
            let known = self.settings.iter().find(|known| **known == name.trim());
            Ok((*known.ok_or_else(|| wrong(&format!("there is no '{name}'")))?, size(value)?))
        };
        Ok(Sizes { axes, settings: parts.map(setting).collect::<Result<_>>()? })
    }
}

impl Sizes {
    /// The last value given to a setting.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.settings.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// `[N,H,W,C]`.
    pub fn nhwc(&self) -> [usize; 4] {
        std::array::from_fn(|axis| self.axes.get(axis).copied().unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONV: Grammar = Grammar { axes: "NxHxWxC", settings: &["out", "kernel", "stride"] };

    #[test]
    fn sizes_are_read_as_they_are_written() {
        let sizes = CONV.parse("128x32x16x64,out=96,stride=2").unwrap();
        assert_eq!(sizes.nhwc(), [128, 32, 16, 64]);
        assert_eq!((sizes.get("out"), sizes.get("kernel"), sizes.get("stride")), (Some(96), None, Some(2)));
        assert_eq!(CONV.form(), "NxHxWxC[,out=COUNT][,kernel=COUNT][,stride=COUNT]");
    }

    #[test]
    fn a_wrong_shape_says_what_is_expected() {
        for (text, problem) in [
            ("128x32", "2 sizes instead of 4"),
            ("128x32x32x0", "'0' is no size"),
            ("128x32x32xc", "'c' is no size"),
            ("99999999999x1x1x1", "'99999999999' is no size"),
            ("1x2x3x4,out", "'out' has no '='"),
            ("1x2x3x4,pad=1", "there is no 'pad'"),
            ("", "'' is no size"),
        ] {
            let message = CONV.parse(text).unwrap_err().to_string();
            let expected = format!("--shape = {text}: {problem}; expected {}, sizes from 1 on", CONV.form());
            assert_eq!(message, expected);
        }
    }
}
