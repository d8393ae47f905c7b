//! The words of PTX text, with their lines.

use crate::ParseError;

/// A place in the text; `next` takes a word, `peek` looks at it.
#[derive(Clone)]
pub struct Words<'a> {
    text: &'a str,
    at: usize,
    pub line: u32,
}

impl<'a> Words<'a> {
    pub fn new(text: &'a str) -> Words<'a> {
        Words { text, at: 0, line: 1 }
    }

    fn skip_blanks(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            let rest = &bytes[self.at..];
            if byte == b'\n' {
                self.line += 1;
                self.at += 1;
            } else if byte.is_ascii_whitespace() {
                self.at += 1;
            } else if rest.starts_with(b"//") {
                self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            } else if rest.starts_with(b"/*") {
                let end = rest.windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |n| n + 2);
                self.line += rest[..end].iter().filter(|&&b| b == b'\n').count() as u32;
                self.at += end;
            } else {
                break;
            }
        }
    }

    /// The next word: an identifier, number or opcode with its modifiers, a string with its quotes, or a
    /// single punctuation mark. Empty at the end.
    pub fn peek(&mut self) -> &'a str {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let bytes = rest.as_bytes();
        let Some(&first) = bytes.first() else { return "" };
        if first == b'"' {
            let end = bytes[1..].iter().position(|&b| b == b'"').map_or(bytes.len(), |n| n + 2);
            return &rest[..end];
        }
        let mut end = 0;
        while let Some(&byte) = bytes.get(end) {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.') {
                end += 1;
            } else if end > 0 && bytes[end..].starts_with(b"::") {
                end += 2;
            } else {
                break;
            }
        }
        let first_character = rest.chars().next().map_or(1, char::len_utf8);
        &rest[..end.max(first_character)]
    }

    pub fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.at += word.len();
        self.line += word.bytes().filter(|&b| b == b'\n').count() as u32;
        word
    }

    /// Takes the next word when it is `word`.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    pub fn expect(&mut self, word: &str) -> Result<(), ParseError> {
        let found = self.peek();
        if self.take(word) { Ok(()) } else { Err(self.error(format!("expected `{word}`, found `{found}`"))) }
    }

    pub fn error(&self, reason: impl Into<String>) -> ParseError {
        ParseError { line: self.line, reason: reason.into() }
    }

    /// An integer with its sign.
    pub fn integer(&mut self) -> Result<i64, ParseError> {
        // Compilers write offsets as `+-4`.
        self.take("+");
        let negative = self.take("-");
        let word = self.next();
        let value =
            integer(word).ok_or_else(|| self.error(format!("expected an integer, found `{word}`")))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    pub fn size(&mut self) -> Result<usize, ParseError> {
        let value = self.integer()?;
        usize::try_from(value).map_err(|_| self.error(format!("expected a size, found {value}")))
    }
}

/// An unsigned integer literal, in any of PTX's bases.
pub fn integer(word: &str) -> Option<i64> {
    let word = word.strip_suffix('U').unwrap_or(word);
    let lower = word.get(..2).unwrap_or("").to_ascii_lowercase();
    let value = match lower.as_str() {
        "0x" => u64::from_str_radix(&word[2..], 16),
        "0b" => u64::from_str_radix(&word[2..], 2),
        _ if word.len() > 1 && word.starts_with('0') => u64::from_str_radix(&word[1..], 8),
        _ => word.parse(),
    };
    value.ok().map(|value| value as i64)
}

/// An operand as it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, a label, a variable, or `_`.
    Name(&'a str),
    /// `!%p`.
    Not(&'a str),
    Integer(i64),
    /// The bits of `0f…`.
    Float(u32),
    /// The bits of `0d…`, or of a decimal fraction.
    Double(u64),
    Vector(Vec<Operand<'a>>),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<&'a str>, i64),
    /// `d|p`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
}

impl<'a> Operand<'a> {
    pub fn parse(words: &mut Words<'a>) -> Result<Operand<'a>, ParseError> {
        let first = Operand::single(words)?;
        if words.take("|") {
            return Ok(Operand::Pair(Box::new(first), Box::new(Operand::single(words)?)));
        }
        Ok(first)
    }

    fn single(words: &mut Words<'a>) -> Result<Operand<'a>, ParseError> {
        if words.take("{") {
            let mut items = Vec::new();
            while !words.take("}") {
                items.push(Operand::single(words)?);
                words.take(",");
            }
            return Ok(Operand::Vector(items));
        }
        if words.take("[") {
            let base = match words.peek() {
                word if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') => None,
                _ => Some(words.next()),
            };
            let offset = if words.peek() == "]" { 0 } else { words.integer()? };
            words.expect("]")?;
            return Ok(Operand::Address(base, offset));
        }
        if words.take("!") {
            return Ok(Operand::Not(words.next()));
        }
        if words.peek() == "-" {
            return match (words.next(), words.peek()) {
                (_, word) if word.contains('.') => {
                    words.next();
                    let value: f64 =
                        word.parse().map_err(|_| words.error(format!("bad number `-{word}`")))?;
                    Ok(Operand::Double((-value).to_bits()))
                }
                _ => Ok(Operand::Integer(words.integer()?.wrapping_neg())),
            };
        }
        let word = words.next();
        let Some(first) = word.chars().next() else { return Err(words.error("expected an operand")) };
        if !first.is_ascii_digit() {
            if first.is_ascii_punctuation() && !matches!(first, '%' | '_' | '$') {
                return Err(words.error(format!("expected an operand, found `{word}`")));
            }
            return Ok(Operand::Name(word));
        }
        let bad = |_| words.error(format!("bad number `{word}`"));
        match word.get(..2) {
            Some("0f" | "0F") => u32::from_str_radix(&word[2..], 16).map(Operand::Float).map_err(bad),
            Some("0d" | "0D") => u64::from_str_radix(&word[2..], 16).map(Operand::Double).map_err(bad),
            _ if word.contains('.') => {
                let value = word.parse::<f64>();
                value.map(|v| Operand::Double(v.to_bits())).map_err(|_| words.error("bad number"))
            }
            _ => {
                integer(word).map(Operand::Integer).ok_or_else(|| words.error(format!("bad number `{word}`")))
            }
        }
    }
}
