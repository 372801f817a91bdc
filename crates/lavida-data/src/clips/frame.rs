//! Encoded frames to pixels.
//!
//! Shards keep the source's own bytes; this is where they become pixels. A picture for the eyes
//! ([`decode_rgb`]) is always three channels of 8 bits; an annotation ([`decode_indices`]) keeps the
//! numbers that were stored, which for a palette PNG are the object ids and not their colours.
//! The codec is told by the bytes, not by the file name. Orientation tags are ignored, as the
//! annotations do not know them either.
//!
//! Shapes: `H W` height and width in px.

use std::io::Cursor;

use bytes::Bytes;
use image::ImageDecoder;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use crate::caught::caught;
use crate::{Error, Result};

/// Most pixels of a frame and of its masks: 16,384 × 16,384. More is taken for damage.
pub const MAX_PIXELS: u64 = 1 << 28;
/// What a picture file of so many pixels has at most, not compressed at all.
pub const MAX_PICTURE_BYTES: u64 = 4 * MAX_PIXELS;

/// Most pixels that a byte of a file can stand for: deflate packs 1,032 bytes into one, and a byte of a PNG holds up to
/// eight pixels. The other codecs stay below (JPEG needs a bit for each block: 1,024). A header that claims more than its
/// file can hold is damage, and nothing is allocated for it.
const MAX_PIXELS_PER_BYTE: u64 = 8 * 1032;

/// One encoded frame, the Hugging Face `Image` convention `struct<bytes, path>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// File name in the source dataset, unique inside its clip; its ending names the codec.
    pub path: String,
    /// The file's bytes, unchanged.
    pub bytes: Bytes,
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbFrame {
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// `[H, W, 3]` row-major, 0–255.
    pub pixels: Vec<u8>,
}

/// A decoded annotation: one number a pixel, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMap {
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// `[H, W]` row-major.
    pub indices: Vec<u8>,
    /// Whether the numbers are places in a palette; gray values may be shades as well.
    pub is_palette: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Codec {
    Jpeg,
    Png,
    Tiff,
    Bmp,
}

impl Codec {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(Self::Tiff),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Jpeg => "a whole JPEG",
            Self::Png => "a whole PNG",
            Self::Tiff => "a whole TIFF of 8 or 16 bits, gray or RGB",
            Self::Bmp => "a whole BMP",
        }
    }
}

/// Decodes a JPEG, PNG, TIFF or BMP to RGB. Gray becomes three equal channels, palettes their
/// colours, 16 bits the upper 8; transparency is dropped.
///
/// # Errors
///
/// [`Error::Corrupt`] naming the frame when its bytes are cut, damaged or none of these codecs.
pub fn decode_rgb(frame: &EncodedFrame) -> Result<RgbFrame> {
    let bytes = &frame.bytes[..];
    let Some(codec) = Codec::of(bytes) else {
        return Err(unknown_codec(frame));
    };
    decoded(|| match codec {
        Codec::Jpeg => jpeg(bytes),
        Codec::Png => png_rgb(bytes),
        Codec::Tiff => tiff(bytes),
        Codec::Bmp => bmp(bytes),
    })
    .map_err(|reason| Error::corrupt(&frame.path, codec.expected(), reason))
}

/// [`decode_rgb`] for who decides whether a picture is kept: a JPEG whose scan ends early is damage here, though a decoder
/// would fill it with gray.
///
/// # Errors
///
/// As [`decode_rgb`].
pub fn decode_whole(frame: &EncodedFrame) -> Result<RgbFrame> {
    let rgb = decode_rgb(frame)?;
    if Codec::of(&frame.bytes) == Some(Codec::Jpeg) {
        decoded(|| check_scan(&frame.bytes))
            .map_err(|reason| Error::corrupt(&frame.path, Codec::Jpeg.expected(), reason))?;
    }
    Ok(rgb)
}

/// The stored numbers of a gray or palette PNG of at most 8 bits.
///
/// # Errors
///
/// [`Error::Corrupt`] when the bytes are cut or damaged, [`Error::Invalid`] for a PNG with colours
/// or 16 bits, which holds no such numbers.
pub fn decode_indices(bytes: &[u8]) -> Result<IndexMap> {
    let what = "mask PNG";
    let image = decoded(|| png_pixels(bytes, png::Transformations::IDENTITY))
        .map_err(|reason| Error::corrupt(what, Codec::Png.expected(), reason))?;
    let n_bits = match (image.colour, image.depth) {
        (_, png::BitDepth::Sixteen) => None,
        (png::ColorType::Grayscale | png::ColorType::Indexed, depth) => Some(depth as usize),
        _ => None,
    };
    let Some(n_bits) = n_bits else {
        return Err(Error::invalid(
            what,
            "a gray or palette PNG of at most 8 bits",
            format!("{:?} of {} bits", image.colour, image.depth as u8),
        ));
    };
    let (width, height) = (image.width as usize, image.height as usize);
    let indices = match n_bits {
        8 => image.pixels,
        // Rows begin on a byte; the leftmost pixel is in the highest bits.
        n_bits => image
            .pixels
            .chunks_exact((width * n_bits).div_ceil(8))
            .take(height)
            .flat_map(|row| {
                (0..width).map(move |x| {
                    let shift = 8 - n_bits - x * n_bits % 8;
                    (row[x * n_bits / 8] >> shift) & ((1u8 << n_bits) - 1)
                })
            })
            .collect(),
    };
    Ok(IndexMap {
        width: image.width,
        height: image.height,
        indices,
        is_palette: image.colour == png::ColorType::Indexed,
    })
}

/// Width and height in px from the header alone, as the decoder of [`decode_rgb`] reads it.
///
/// # Errors
///
/// [`Error::Corrupt`] naming the frame when there is no such header, or it claims more pixels than the file can hold.
pub fn probe_size(frame: &EncodedFrame) -> Result<(u32, u32)> {
    let bytes = &frame.bytes[..];
    let Some(codec) = Codec::of(bytes) else {
        return Err(unknown_codec(frame));
    };
    decoded(|| match codec {
        Codec::Jpeg => open_jpeg(bytes).map(|(_, size)| size),
        Codec::Png => png_size(bytes),
        Codec::Tiff => open_tiff(bytes).map(|(_, size)| size),
        Codec::Bmp => open_bmp(bytes).map(|(_, size)| size),
    })
    .map_err(|reason| Error::corrupt(&frame.path, "an image header", reason))
}

fn unknown_codec(frame: &EncodedFrame) -> Error {
    let start = &frame.bytes[..frame.bytes.len().min(4)];
    let found = match format_name(&frame.bytes) {
        Some(name) => format!("{name} ({} bytes)", frame.bytes.len()),
        None => format!("{} bytes that begin with {start:02x?}", frame.bytes.len()),
    };
    Error::corrupt(&frame.path, "a JPEG, PNG, TIFF or BMP", found)
}

/// What bytes are that are no picture of ours, where their beginning says so.
fn format_name(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    let is_tag = |tag: &[u8]| {
        text.get(..tag.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(tag))
    };
    Some(match bytes {
        [] => "an empty file",
        [b'G', b'I', b'F', b'8', ..] => "a GIF",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "a WebP picture",
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => "a JPEG 2000 picture",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', ..] => "a JPEG XL picture",
        [
            _,
            _,
            _,
            _,
            b'f',
            b't',
            b'y',
            b'p',
            b'a',
            b'v',
            b'i',
            b'f',
            ..,
        ] => "an AVIF picture",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "a HEIF picture or an mp4",
        [b'%', b'P', b'D', b'F', ..] => "a PDF",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [0x1f, 0x8b, ..] => "a gzip file",
        _ if is_tag(b"<!doctype html") || is_tag(b"<html") => {
            "an HTML page, as a failed download leaves"
        }
        _ if is_tag(b"<?xml") || is_tag(b"<svg") => "XML or SVG",
        _ if is_tag(b"version https://git-lfs") => {
            "a pointer of Git LFS (`git lfs pull` brings the file)"
        }
        _ if is_tag(b"../.git/annex") || is_tag(b"../../.git/annex") => "a pointer of git-annex",
        _ if is_tag(b"{") => "JSON",
        _ if bytes.iter().all(|byte| *byte == 0) => "zeros",
        _ => return None,
    })
}

/// Why a picture cannot be decoded, in the decoder's words.
type Reason = String;

/// What a decoder makes of a file. png 0.18 panics on a palette whose length is no multiple of three: that is a reason, too.
fn decoded<T>(decode: impl FnOnce() -> Result<T, Reason>) -> Result<T, Reason> {
    caught(decode).flatten()
}

/// Width and height in px.
type Size = (u32, u32);

/// What a header claims, when a file of `n_bytes` can hold it.
fn claimed(width: u32, height: u32, n_bytes: usize) -> Result<Size, Reason> {
    let n_pixels = u64::from(width) * u64::from(height);
    let most = MAX_PIXELS.min((n_bytes as u64).saturating_mul(MAX_PIXELS_PER_BYTE));
    if (1..=most).contains(&n_pixels) {
        return Ok((width, height));
    }
    Err(format!(
        "{width} x {height} px in {n_bytes} bytes, which hold 1 to {most}"
    ))
}

type Jpeg<'a> = zune_jpeg::JpegDecoder<ZCursor<&'a [u8]>>;

fn open_jpeg(bytes: &[u8]) -> Result<(Jpeg<'_>, Size), Reason> {
    // Larger than what the decoder takes by default are only the sizes that `claimed` bounds.
    let longest = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_max_width(longest)
        .set_max_height(longest)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("no header")?;
    let size = claimed(info.width.into(), info.height.into(), bytes.len())?;
    Ok((decoder, size))
}

/// That every block of the picture was in the file. What the format tolerates between its segments is no damage.
///
/// A decoder that meets the end marker fills what is left; one that meets the end of the file says so. So it is given the file
/// without its end marker. A progressive file has to have it.
fn check_scan(bytes: &[u8]) -> Result<(), Reason> {
    let longest = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_max_width(longest)
        .set_max_height(longest)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]);
    let open = match end {
        Some(end) if !is_progressive(bytes) => &bytes[..end],
        _ => bytes,
    };
    match zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(open), options).decode() {
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = error.to_string();
            let is_between = ["between headers", "components", "No more bytes"]
                .iter()
                .any(|said| reason.contains(said));
            if is_between { Ok(()) } else { Err(reason) }
        }
    }
}

fn is_progressive(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1,
            START_OF_SCAN => return false,
            0xc2 | 0xc6 | 0xca | 0xce => return true,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    true
}

fn jpeg(bytes: &[u8]) -> Result<RgbFrame, Reason> {
    // The decoder fills what is missing with gray; a file cut in the middle has to be an error.
    if !jpeg_has_end(bytes) {
        return Err("no end-of-image marker, the file is cut".to_string());
    }
    let (mut decoder, (width, height)) = open_jpeg(bytes)?;
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    rgb(width, height, pixels, 3)
}

/// Whether an end-of-image marker follows the first scan. Inside a scan it cannot occur (0xff is
/// escaped there) and the one of an embedded thumbnail stands before it.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1,
            START_OF_SCAN => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    // Bytes between segments, which the decoder tolerates: any end marker will do.
    bytes.windows(2).any(|pair| pair == [0xff, 0xd9])
}

fn png_rgb(bytes: &[u8]) -> Result<RgbFrame, Reason> {
    let image = png_pixels(bytes, png::Transformations::normalize_to_color8())?;
    let n_channels = image.colour.samples();
    rgb(image.width, image.height, image.pixels, n_channels)
}

struct PngPixels {
    width: u32,
    height: u32,
    colour: png::ColorType,
    depth: png::BitDepth,
    pixels: Vec<u8>,
}

fn png_size(bytes: &[u8]) -> Result<Size, Reason> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    let header = decoder
        .read_header_info()
        .map_err(|error| error.to_string())?;
    claimed(header.width, header.height, bytes.len())
}

fn png_pixels(bytes: &[u8], transformations: png::Transformations) -> Result<PngPixels, Reason> {
    png_size(bytes)?;
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(transformations);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let size = reader
        .output_buffer_size()
        .ok_or("more pixels than memory")?;
    let mut pixels = vec![0; size];
    let info = reader
        .next_frame(&mut pixels)
        .map_err(|error| error.to_string())?;
    pixels.truncate(info.buffer_size());
    Ok(PngPixels {
        width: info.width,
        height: info.height,
        colour: info.color_type,
        depth: info.bit_depth,
        pixels,
    })
}

type Tiff<'a> = tiff::decoder::Decoder<Cursor<&'a [u8]>>;

fn open_tiff(bytes: &[u8]) -> Result<(Tiff<'_>, Size), Reason> {
    check_tiff_entries(bytes)?;
    let mut decoder =
        tiff::decoder::Decoder::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().map_err(|error| error.to_string())?;
    let size = claimed(width, height, bytes.len())?;
    Ok((decoder, size))
}

/// That no entry has more values than the file has bytes: the decoder takes up to 256 MiB for them before it reads any, and
/// before it can be told of a limit.
fn check_tiff_entries(bytes: &[u8]) -> Result<(), Reason> {
    let is_big_endian = bytes.starts_with(b"M");
    let number = |at: usize, n_bytes: usize| {
        let digits = bytes.get(at..)?.get(..n_bytes)?.iter();
        let join = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        Some(if is_big_endian {
            digits.fold(0, join)
        } else {
            digits.rev().fold(0, join)
        })
    };
    let Some((directory, n_entries)) = number(4, 4).and_then(|at| Some((at, number(at, 2)?)))
    else {
        return Ok(()); // the decoder finds the end of the file in its own words
    };
    for entry in 0..n_entries {
        let at = directory + 2 + 12 * entry;
        let Some((tag, count)) = number(at, 2).zip(number(at + 4, 4)) else {
            break;
        };
        if count > bytes.len() {
            let n_bytes = bytes.len();
            return Err(format!("{count} values of tag {tag} in {n_bytes} bytes"));
        }
    }
    Ok(())
}

fn tiff(bytes: &[u8]) -> Result<RgbFrame, Reason> {
    use tiff::ColorType;
    use tiff::decoder::DecodingResult;
    let (mut decoder, (width, height)) = open_tiff(bytes)?;
    let colour = decoder.colortype().map_err(|error| error.to_string())?;
    let n_channels = match colour {
        ColorType::Gray(8 | 16) => 1,
        ColorType::GrayA(8 | 16) => 2,
        ColorType::RGB(8 | 16) => 3,
        ColorType::RGBA(8 | 16) => 4,
        other => return Err(format!("{other:?}")),
    };
    let pixels = match decoder.read_image().map_err(|error| error.to_string())? {
        DecodingResult::U8(values) => values,
        DecodingResult::U16(values) => values.iter().map(|value| (value >> 8) as u8).collect(),
        _ => return Err("samples that are not whole numbers of 8 or 16 bits".to_string()),
    };
    rgb(width, height, pixels, n_channels)
}

type Bmp<'a> = image::codecs::bmp::BmpDecoder<Cursor<&'a [u8]>>;

fn open_bmp(bytes: &[u8]) -> Result<(Bmp<'_>, Size), Reason> {
    let decoder = Bmp::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    let size = claimed(width, height, bytes.len())?;
    Ok((decoder, size))
}

fn bmp(bytes: &[u8]) -> Result<RgbFrame, Reason> {
    let (decoder, (width, height)) = open_bmp(bytes)?;
    let image = image::DynamicImage::from_decoder(decoder)
        .map_err(|error| error.to_string())?
        .into_rgb8();
    rgb(width, height, image.into_raw(), 3)
}

/// Interleaved channels (gray, gray + alpha, RGB, RGB + alpha) to RGB.
fn rgb(width: u32, height: u32, pixels: Vec<u8>, n_channels: usize) -> Result<RgbFrame, Reason> {
    let expected = width as usize * height as usize * n_channels;
    if pixels.len() != expected {
        return Err(format!(
            "{} values for {width} x {height} px of {n_channels} channels",
            pixels.len()
        ));
    }
    let pixels = match n_channels {
        3 => pixels,
        1 | 2 => pixels
            .chunks_exact(n_channels)
            .flat_map(|pixel| [pixel[0]; 3])
            .collect(),
        _ => pixels
            .chunks_exact(n_channels)
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect(),
    };
    Ok(RgbFrame {
        width,
        height,
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::{BitDepth, ColorType};

    fn frame(path: &str, bytes: Vec<u8>) -> EncodedFrame {
        EncodedFrame {
            path: path.to_string(),
            bytes: Bytes::from(bytes),
        }
    }

    fn encode_png(colour: ColorType, depth: BitDepth, width: u32, data: &[u8]) -> Vec<u8> {
        let row = (width as usize * colour.samples() * depth as usize).div_ceil(8);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, (data.len() / row) as u32);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 200, 10, 20, 30, 40, 50, 60, 70, 80]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn encode_jpeg(width: u16, height: u16) -> Vec<u8> {
        let pixels: Vec<u8> = (0..usize::from(width) * usize::from(height) * 3)
            .map(|i| (i * 7 % 256) as u8)
            .collect();
        let mut bytes = Vec::new();
        jpeg_encoder::Encoder::new(&mut bytes, 90)
            .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        bytes
    }

    /// An uncompressed gray TIFF, little-endian, as UCSD's frames are.
    fn encode_tiff(width: u16, height: u16, pixels: &[u8]) -> Vec<u8> {
        let entries: [(u16, u16, u32); 8] = [
            (256, 3, width.into()),
            (257, 3, height.into()),
            (258, 3, 8),                   // bits a sample
            (259, 3, 1),                   // no compression
            (262, 3, 1),                   // 0 is black
            (273, 4, 8),                   // where the pixels begin
            (278, 3, height.into()),       // rows of the one strip
            (279, 4, pixels.len() as u32), // its bytes
        ];
        let mut bytes = b"II\x2a\x00".to_vec();
        bytes.extend((8 + pixels.len() as u32).to_le_bytes());
        bytes.extend(pixels);
        bytes.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        bytes
    }

    fn check_rgb(bytes: Vec<u8>, width: u32, pixels: &[u8]) {
        let frame = frame("frame", bytes);
        let decoded = decode_rgb(&frame).unwrap();
        assert_eq!(decoded.pixels, pixels);
        assert_eq!(decoded.width, width);
        assert_eq!(probe_size(&frame).unwrap(), (decoded.width, decoded.height));
    }

    fn check_unreadable(name: &str, bytes: Vec<u8>) {
        let error = decode_rgb(&frame(name, bytes)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().starts_with(name), "{error}");
    }

    #[test]
    fn every_kind_of_png_becomes_rgb() {
        let gray = encode_png(ColorType::Grayscale, BitDepth::Eight, 2, &[5, 9]);
        check_rgb(gray, 2, &[5, 5, 5, 9, 9, 9]);
        let wide = encode_png(ColorType::Grayscale, BitDepth::Sixteen, 1, &[7, 255]);
        check_rgb(wide, 1, &[7, 7, 7]);
        let palette = encode_png(ColorType::Indexed, BitDepth::Eight, 2, &[1, 2]);
        check_rgb(palette, 2, &[200, 10, 20, 30, 40, 50]);
        let alpha = encode_png(ColorType::Rgba, BitDepth::Eight, 1, &[1, 2, 3, 0]);
        check_rgb(alpha, 1, &[1, 2, 3]);
    }

    #[test]
    fn a_gray_tiff_and_a_bmp_become_rgb() {
        check_rgb(encode_tiff(2, 1, &[3, 250]), 2, &[3, 3, 3, 250, 250, 250]);
        let mut bmp = Vec::new();
        image::DynamicImage::from(image::RgbImage::from_raw(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap())
            .write_to(&mut Cursor::new(&mut bmp), image::ImageFormat::Bmp)
            .unwrap();
        check_rgb(bmp.clone(), 1, &[1, 2, 3, 4, 5, 6]);
        // A negative height: rows from the top.
        bmp[22..26].copy_from_slice(&(-2i32).to_le_bytes());
        check_rgb(bmp, 1, &[4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn a_header_that_claims_more_than_its_file_can_hold_is_damage() {
        let mut jpeg = encode_jpeg(24, 16);
        let frame_header = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]);
        jpeg[frame_header.unwrap() + 5..][..4].fill(0xff);
        let mut png = encode_png(ColorType::Grayscale, BitDepth::Eight, 2, &[5, 9]);
        png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let sum = rawzip::crc32(&png[12..29]);
        png[29..33].copy_from_slice(&sum.to_be_bytes());
        let mut tiff = encode_tiff(2, 1, &[3, 250]);
        let entries = tiff.len() - 4 - 8 * 12;
        tiff[entries + 8..][..2].fill(0xff);
        tiff[entries + 12 + 8..][..2].fill(0xff);
        tiff[entries + 6 * 12 + 8..][..2].fill(0xff); // still one strip
        let mut bmp = b"BM".to_vec();
        bmp.resize(54, 0);
        bmp[14] = 40;
        bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
        (bmp[26], bmp[28]) = (1, 24);
        for (name, bytes) in [
            ("a.jpg", jpeg),
            ("a.png", png),
            ("a.tif", tiff),
            ("a.bmp", bmp),
        ] {
            let n_bytes = bytes.len();
            let error = probe_size(&frame(name, bytes.clone())).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            let found = format!("px in {n_bytes} bytes");
            assert!(error.to_string().contains(&found), "{name}: {error}");
            check_unreadable(name, bytes);
        }
    }

    #[test]
    fn a_png_whose_palette_is_cut_is_damage_and_no_panic() {
        let mut png = encode_png(ColorType::Indexed, BitDepth::Eight, 2, &[1, 2]);
        let palette = png.windows(4).position(|name| name == b"PLTE").unwrap();
        let end = palette + 4 + 12;
        png.remove(end - 1);
        png[palette - 1] = 11;
        let sum = rawzip::crc32(&png[palette..end - 1]);
        png[end - 1..end + 3].copy_from_slice(&sum.to_be_bytes());
        check_unreadable("palette.png", png);
    }

    #[test]
    fn a_tiff_of_more_values_than_bytes_is_damage() {
        let mut tiff = encode_tiff(2, 1, &[3, 250]);
        let entries = tiff.len() - 4 - 8 * 12;
        tiff[entries + 4 * 12 + 4..][..4].copy_from_slice(&[1, 0, 0x61, 0]);
        let error = probe_size(&frame("a.tif", tiff)).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(
            error.to_string().contains("6356993 values of tag 262"),
            "{error}"
        );
    }

    #[test]
    fn a_jpeg_decodes_near_its_pixels() {
        let frame = frame("a.jpg", encode_jpeg(24, 16));
        let decoded = decode_rgb(&frame).unwrap();
        assert_eq!((decoded.width, decoded.height), (24, 16));
        assert_eq!(decoded.pixels.len(), 24 * 16 * 3);
        assert_eq!(probe_size(&frame).unwrap(), (24, 16));
    }

    #[test]
    fn an_unreadable_frame_is_damage_and_is_named() {
        let jpeg = encode_jpeg(64, 64);
        check_unreadable("cut.jpg", jpeg[..jpeg.len() / 2].to_vec());
        check_unreadable("header_only.jpg", jpeg[..20].to_vec());
        let png = encode_png(ColorType::Grayscale, BitDepth::Eight, 4, &[1; 64]);
        check_unreadable("cut.png", png[..png.len() / 2].to_vec());
        let tiff = encode_tiff(4, 4, &[1; 16]);
        check_unreadable("cut.tif", tiff[..20].to_vec());
        check_unreadable("text.jpg", b"not a picture".to_vec());
        check_unreadable("empty.jpg", Vec::new());
    }

    #[test]
    fn indices_are_the_stored_numbers() {
        let palette = encode_png(ColorType::Indexed, BitDepth::Eight, 3, &[0, 1, 3]);
        assert_eq!(decode_indices(&palette).unwrap().indices, [0, 1, 3]);
        // Three pixels of two bits a row: 0 1 3 and 2 0 1.
        let packed = encode_png(
            ColorType::Indexed,
            BitDepth::Two,
            3,
            &[0b0001_1100, 0b1000_0100],
        );
        let map = decode_indices(&packed).unwrap();
        assert_eq!((map.width, map.height), (3, 2));
        assert_eq!(map.indices, [0, 1, 3, 2, 0, 1]);
        let gray = encode_png(ColorType::Grayscale, BitDepth::One, 3, &[0b0100_0000]);
        assert_eq!(decode_indices(&gray).unwrap().indices, [0, 1, 0]);
    }

    #[test]
    fn a_picture_holds_no_indices() {
        let colours = encode_png(ColorType::Rgb, BitDepth::Eight, 1, &[1, 2, 3]);
        let error = decode_indices(&colours).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("Rgb of 8 bits"), "{error}");
        assert_eq!(decode_indices(b"x").unwrap_err().exit_code(), 3);
    }
}
