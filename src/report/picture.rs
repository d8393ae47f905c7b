//! Images as PNG files and as data URIs, which a page contains.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::error::{Error, Result};

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
        Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(self.png()?)))
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

#[cfg(test)]
mod tests {
    use super::*;

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
