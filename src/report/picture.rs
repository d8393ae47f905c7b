//! Images as PNG files and as data URIs, which a page contains.

use std::path::Path;

use crate::error::{Error, Result};

/// The alphabet of base64 (RFC 4648).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// An image `[H,W,C]` with C = 1 (grey) or 3 (RGB).
pub struct Picture<'a> {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// In `[0,1]`; values outside are clipped.
    pub pixels: &'a [f32],
}

impl Picture<'_> {
    /// The image as `data:image/png;base64,..`.
    ///
    /// Errors: neither 1 nor 3 channels; no pixels, or not the number that the shape implies.
    pub fn data_uri(&self) -> Result<String> {
        Ok(format!("data:image/png;base64,{}", base64(&self.png()?)))
    }

    /// The image as a PNG file, its pixels rounded to bytes.
    pub fn png(&self) -> Result<Vec<u8>> {
        let Picture { height, width, channels, pixels } = *self;
        let wrong = |problem: String| Error::file(Path::new("picture"), problem);
        let color = match channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => return Err(wrong(format!("{channels} channels; expected 1 or 3"))),
        };
        if pixels.len() != height * width * channels || pixels.is_empty() {
            return Err(wrong(format!("{} numbers for {height}x{width}x{channels} pixels", pixels.len())));
        }
        let bytes: Vec<u8> = pixels.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
        encoder.set_color(color);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&bytes)?;
            writer.finish()
        });
        written.map_err(|error| wrong(format!("cannot be encoded: {error}")))?;
        Ok(file)
    }
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn an_image_reads_back() {
        let pixels: Vec<f32> = (0..18).map(|i| i as f32 / 17.0).collect();
        let picture = Picture { height: 2, width: 3, channels: 3, pixels: &pixels };
        let mut reader = png::Decoder::new(std::io::Cursor::new(picture.png().unwrap())).read_info().unwrap();
        let mut bytes = vec![0; 18];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Rgb));
        assert_eq!(bytes, (0..18).map(|i| i * 15).collect::<Vec<u8>>());
        let wrong = |channels, pixels| {
            Picture { height: 1, width: 1, channels, pixels }.png().unwrap_err().to_string()
        };
        assert_eq!(wrong(2, &[0.0, 1.0]), "picture: 2 channels; expected 1 or 3");
        assert_eq!(wrong(1, &[0.0, 1.0]), "picture: 2 numbers for 1x1x1 pixels");
    }
}
