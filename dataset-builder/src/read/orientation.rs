//! EXIF orientation: a camera stores what its sensor saw and says how to turn it.
//!
//! Annotation tools and viewers turn such a photo, decoders of training code often do not, and Hugging Face's `Image` does. A
//! shard therefore holds no photo that asks to be turned: it is turned, or the request is taken out, whichever its annotations
//! mean. Only JPEGs are looked at; other formats hardly ever say it.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use lavida_data::frame::RgbFrame;
use lavida_store::{Error, Result};

/// Quality at which a turned photo is compressed anew.
const QUALITY: u8 = 95;

/// How the JPEG asks to be turned; `None` when it does not.
pub fn of(jpeg: &[u8]) -> Option<Orientation> {
    let chunk = exif(jpeg)?;
    Orientation::from_exif_chunk(&jpeg[chunk]).filter(|turn| *turn != Orientation::NoTransforms)
}

/// The same JPEG, byte for byte but for the request.
pub fn without(jpeg: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    if let Some(chunk) = exif(jpeg) {
        let _removed = Orientation::remove_from_exif_chunk(&mut bytes[chunk]);
    }
    bytes
}

/// Width and height in px after the turn.
pub fn turned_size(turn: Orientation, (width, height): (u32, u32)) -> (u32, u32) {
    match turn {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        _ => (width, height),
    }
}

/// The picture turned, as a JPEG.
///
/// # Errors
///
/// [`Error::Invalid`] for a picture whose sides do not fit a JPEG.
pub fn upright(rgb: &RgbFrame, turn: Orientation) -> Result<Vec<u8>> {
    let image = RgbImage::from_raw(rgb.width, rgb.height, rgb.pixels.clone());
    let mut image = DynamicImage::ImageRgb8(image.expect("a frame has the pixels of its size"));
    image.apply_orientation(turn);
    encode(&RgbFrame {
        width: image.width(),
        height: image.height(),
        pixels: image.into_rgb8().into_raw(),
    })
}

/// A picture as a JPEG of high quality.
///
/// # Errors
///
/// As [`upright`].
pub fn encode(rgb: &RgbFrame) -> Result<Vec<u8>> {
    let refused = |found: String| Error::invalid("a picture", "sides of at most 65,535 px", found);
    let (Ok(width), Ok(height)) = (u16::try_from(rgb.width), u16::try_from(rgb.height)) else {
        return Err(refused(format!("{} × {} px", rgb.width, rgb.height)));
    };
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, QUALITY)
        .encode(&rgb.pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|error| refused(error.to_string()))?;
    Ok(bytes)
}

/// Where the TIFF structure of the EXIF segment lies in the file.
fn exif(jpeg: &[u8]) -> Option<std::ops::Range<usize>> {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = jpeg.get(at..at + 4) {
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        match marker {
            0xff => at += 1,
            START_OF_SCAN => return None,
            0xe1 if jpeg.get(at + 4..at + 10) == Some(b"Exif\0\0") && end <= jpeg.len() => {
                return Some(at + 10..end);
            }
            _ => at = end,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use lavida_data::clip::EncodedFrame;
    use lavida_data::frame::decode_rgb;

    /// A wide picture, its left half white, that asks to be turned by a quarter to the right.
    fn photo() -> Vec<u8> {
        let pixels = (0..32 * 16)
            .flat_map(|i| [if i % 32 < 16 { 255 } else { 0 }; 3])
            .collect();
        let plain = encode(&RgbFrame {
            width: 32,
            height: 16,
            pixels,
        })
        .expect("encodes");
        let tiff = [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".as_slice()]
            .concat();
        let length = (tiff.len() as u16 + 8).to_be_bytes();
        [
            &plain[..2],
            &[0xff, 0xe1],
            &length,
            b"Exif\0\0",
            &tiff,
            &plain[2..],
        ]
        .concat()
    }

    fn decode(bytes: Vec<u8>) -> RgbFrame {
        decode_rgb(&EncodedFrame {
            path: "a.jpg".into(),
            bytes: bytes.into(),
        })
        .expect("decodes")
    }

    #[test]
    fn a_turned_photo_is_upright_and_asks_for_nothing() {
        let photo = photo();
        let turn = of(&photo).expect("a turn");
        assert_eq!(turned_size(turn, (32, 16)), (16, 32));
        let upright = upright(&decode(photo), turn).expect("turns");
        assert_eq!(of(&upright), None);
        let upright = decode(upright);
        assert_eq!((upright.width, upright.height), (16, 32));
        // What was left is above.
        assert!(upright.pixels[3 * (16 * 4 + 8)] > 200 && upright.pixels[3 * (16 * 28 + 8)] < 50);
    }

    #[test]
    fn without_its_request_a_photo_keeps_its_pixels() {
        let photo = photo();
        let kept = without(&photo);
        assert_eq!(of(&kept), None);
        assert_eq!(kept.len(), photo.len());
        assert_eq!(decode(kept), decode(photo));
    }
}
