//! Pictures and masks in the codecs of the datasets whose layouts the world is written in.

use std::io::Cursor;

use image::ExtendedColorType;
use image::codecs::bmp::BmpEncoder;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use tiff::encoder::{TiffEncoder, colortype::RGB8};

use lavida_data::{Error, Result};

/// JPEG with full colour resolution (4:4:4): at 64 px, halved chroma would mix an object's colour with
/// its surroundings.
pub fn jpeg(rgb: &[u8], side: u32, quality: u8) -> Result<Vec<u8>> {
    let side = u16::try_from(side).map_err(|error| Error::Internal(error.to_string()))?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder
        .encode(rgb, side, side, ColorType::Rgb)
        .map_err(internal)?;
    Ok(bytes)
}

/// Uncompressed RGB TIFF.
pub fn tiff(rgb: &[u8], side: u32) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    TiffEncoder::new(&mut bytes)
        .and_then(|mut encoder| encoder.write_image::<RGB8>(side, side, rgb))
        .map_err(internal)?;
    Ok(bytes.into_inner())
}

/// Grey BMP, 255 where `mask` is 1.
pub fn bmp_mask(mask: &[u8], side: u32) -> Result<Vec<u8>> {
    let grey: Vec<u8> = mask
        .iter()
        .map(|&inside| if inside > 0 { 255 } else { 0 })
        .collect();
    let mut bytes = Vec::new();
    BmpEncoder::new(&mut bytes)
        .encode(&grey, side, side, ExtendedColorType::L8)
        .map_err(internal)?;
    Ok(bytes)
}

/// 8-bit grey PNG whose values are indices (ADE20K).
pub fn grey_png(index: &[u8], side: u32) -> Result<Vec<u8>> {
    png(index, side, None)
}

/// 8-bit palette PNG whose values are object indices (DAVIS, YouTube-VOS), in the PASCAL VOC colours.
pub fn palette_png(index: &[u8], side: u32) -> Result<Vec<u8>> {
    png(index, side, Some(voc_palette()))
}

fn png(index: &[u8], side: u32, palette: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_depth(png::BitDepth::Eight);
    match palette {
        Some(palette) => {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette);
        }
        None => encoder.set_color(png::ColorType::Grayscale),
    }
    encoder
        .write_header()
        .and_then(|mut writer| {
            writer.write_image_data(index)?;
            writer.finish()
        })
        .map_err(internal)?;
    Ok(bytes)
}

/// The 256 colours of PASCAL VOC: bit `b` of each channel comes from bits `3(7-b)…` of the index.
fn voc_palette() -> Vec<u8> {
    (0..=255u8)
        .flat_map(|index| {
            (0..3).map(move |channel| {
                (0..8u8).fold(0u8, |value, level| {
                    let bit = u32::from(index) >> (3 * u32::from(level) + channel) & 1;
                    value | (bit as u8) << (7 - level)
                })
            })
        })
        .collect()
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("encoding a picture of the world: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_is_the_one_of_pascal_voc() {
        let palette = voc_palette();
        let colour = |i: usize| [palette[3 * i], palette[3 * i + 1], palette[3 * i + 2]];
        assert_eq!(colour(0), [0, 0, 0]);
        assert_eq!(colour(1), [128, 0, 0]);
        assert_eq!(colour(2), [0, 128, 0]);
        assert_eq!(colour(3), [128, 128, 0]);
        assert_eq!(colour(8), [64, 0, 0]);
        assert_eq!(colour(255), [224, 224, 192]);
    }

    #[test]
    fn a_tiff_gives_back_its_pixels() {
        let rgb: Vec<u8> = (0..=255).cycle().take(8 * 8 * 3).collect();
        let bytes = tiff(&rgb, 8).unwrap();
        let mut decoder = tiff::decoder::Decoder::new(Cursor::new(bytes)).unwrap();
        assert_eq!(decoder.dimensions().unwrap(), (8, 8));
        match decoder.read_image().unwrap() {
            tiff::decoder::DecodingResult::U8(pixels) => assert_eq!(pixels, rgb),
            other => panic!("{other:?}"),
        }
    }
}
