//! Images: PNG and JPEG files as 8-bit RGB, brought to another size.

use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::{Error, reading};

/// Height and width in pixels.
pub type Extent = (u32, u32);

/// Longest side of an image that is decoded.
const MAX_SIDE: usize = 1 << 20;

/// Most bytes that a decoded image takes.
const MAX_BYTES: usize = 256 << 20;

/// Shares of red, green and blue in brightness, from the primaries and the white of sRGB.
const LUMA: [f32; 3] = [0.212_647_81, 0.715_179_15, 0.072_173_04];

/// Pixels of red, green and blue, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image of these pixels, where there are as many as its extents say.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<RgbImage> {
        (pixels.len() == width.checked_mul(height)?.checked_mul(3)?).then_some(RgbImage { width, height, pixels })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Height and width.
    pub fn extent(&self) -> Extent {
        // Both are limited where images are decoded.
        (self.height as u32, self.width as u32)
    }

    /// Red, green and blue of all pixels.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Red, green and blue of all pixels.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Decodes a file. What it is, its contents say, not its name.
    pub fn open(path: &Path) -> Result<RgbImage, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, "read the image", e);
        let bytes = reading::read(path, "read the image", MAX_BYTES as u64)?;
        let image = match bytes.as_slice() {
            [0x89, b'P', b'N', b'G', ..] => png(&bytes),
            [0xff, 0xd8, 0xff, ..] => jpeg(&bytes),
            _ => Err("it is neither PNG nor JPEG".to_string()),
        };
        image.map_err(|e| fail(&e))
    }

    /// Brightness of all pixels.
    pub fn luma(&self) -> Vec<u8> {
        let part = |(&colour, share): (&u8, f32)| f32::from(colour) * (1.0 / 255.0) * share;
        let brightness = |p: &[u8; 3]| p.iter().zip(LUMA).map(part).fold(0.0, |sum, x| sum + x);
        self.pixels.as_chunks().0.iter().map(|p| (brightness(p) * 255.0).round() as u8).collect()
    }

    /// A part of the image; it lies within.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> RgbImage {
        let row = |y: usize| &self.pixels[3 * ((top + y) * self.width + left)..][..3 * width];
        RgbImage { width, height, pixels: (0..height).flat_map(row).copied().collect() }
    }

    /// The image in another size. Each new pixel is the mean of those that it covers and their neighbours, weighted by a
    /// triangle: linear interpolation where the image grows.
    ///
    /// # Errors
    /// If the result, or the image between the two directions, is larger than an image may be.
    pub fn resize(&self, height: usize, width: usize) -> Result<RgbImage, String> {
        for width in [width, self.width] {
            fits(width, height, height.saturating_mul(width).saturating_mul(3))?;
        }
        let row = 3 * self.width;
        let mut lower = vec![0f32; height * row];
        for (out, tap) in lower.chunks_exact_mut(row.max(1)).zip(taps(self.height, height)) {
            for (pixels, weight) in self.pixels[tap.first * row..].chunks_exact(row).zip(tap.weights) {
                out.iter_mut().zip(pixels).for_each(|(sum, &p)| *sum += f32::from(p) * weight);
            }
        }
        let taps = taps(self.width, width);
        let mut pixels = Vec::with_capacity(3 * height * width);
        for row in lower.chunks_exact(row.max(1)) {
            for tap in &taps {
                let mut sums = [0f32; 3];
                for (pixel, weight) in row.as_chunks::<3>().0[tap.first..].iter().zip(&tap.weights) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, p)| *sum += p * weight);
                }
                pixels.extend(sums.map(|s| s.clamp(0.0, 255.0).round() as u8));
            }
        }
        Ok(RgbImage { width, height, pixels })
    }
}

/// Old pixels that a new one is made of, with weights whose sum is 1.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

/// One for each new pixel along an axis of `from` pixels that becomes one of `to`.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let ratio = from as f32 / to as f32;
    let reach = ratio.max(1.0);
    let tap = |new: usize| {
        let centre = (new as f32 + 0.5) * ratio;
        let first = ((centre - reach).floor() as usize).min(from.saturating_sub(1));
        let end = ((centre + reach).ceil() as usize).clamp(first + 1, from.max(first + 1));
        let weight = |old: usize| (1.0 - ((old as f32 - (centre - 0.5)) / reach).abs()).max(0.0);
        let mut weights: Vec<f32> = (first..end).map(weight).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Tap { first, weights }
    };
    (0..to).map(tap).collect()
}

fn fits(width: usize, height: usize, bytes: usize) -> Result<(), String> {
    if width > MAX_SIDE || height > MAX_SIDE || bytes > MAX_BYTES {
        return Err(format!("{width} x {height} pixels are too many"));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<RgbImage, String> {
    let fail = |e: png::DecodingError| e.to_string();
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES });
    // Palettes and less than 8 bits become 8 bits.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(fail)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let size = reader.output_buffer_size().ok_or("it is too large")?;
    fits(width, height, size)?;
    let mut buffer = vec![0; size];
    let frame = reader.next_frame(&mut buffer).map_err(fail)?;
    if frame.bit_depth == BitDepth::Sixteen {
        let narrow = |v: &[u8; 2]| ((u32::from(u16::from_be_bytes(*v)) + 128) / 257) as u8;
        buffer = buffer.as_chunks().0.iter().map(narrow).collect();
    }
    let channels = frame.color_type.samples();
    let colours = |pixel: &[u8]| match frame.color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => [pixel[0]; 3],
        // Opacity is left out; palettes were expanded.
        ColorType::Rgb | ColorType::Rgba | ColorType::Indexed => [pixel[0], pixel[1], pixel[2]],
    };
    let pixels = buffer.chunks_exact(channels).flat_map(colours).collect();
    RgbImage::new(width, height, pixels).ok_or_else(|| "it is truncated".to_string())
}

fn jpeg(bytes: &[u8]) -> Result<RgbImage, String> {
    let fail = |e: zune_jpeg::errors::DecodeErrors| e.to_string();
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(fail)?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    fits(width, height, 3 * width * height)?;
    let pixels = decoder.decode().map_err(fail)?;
    RgbImage::new(width, height, pixels).ok_or_else(|| "it is truncated".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_means_and_doubles_are_interpolated() {
        let row = RgbImage::new(4, 1, [0, 0, 0, 100, 100, 100].repeat(2)).unwrap();
        assert_eq!(row.resize(1, 2).unwrap().pixels(), [43, 43, 43, 57, 57, 57]);
        let grown = row.crop(0, 0, 1, 2).resize(1, 4).unwrap();
        assert_eq!(grown.pixels()[..9], [0, 0, 0, 25, 25, 25, 75, 75, 75]);
        assert_eq!(row.resize(3, 4).unwrap().crop(1, 0, 1, 4), row);
        assert!(row.resize(1 << 14, 1 << 14).unwrap_err().contains("too many"));
    }

    #[test]
    fn brightness_is_mostly_green() {
        let image = RgbImage::new(1, 3, vec![255, 0, 0, 0, 255, 0, 0, 0, 255]).unwrap();
        assert_eq!(image.luma(), [54, 182, 18]);
    }
}
