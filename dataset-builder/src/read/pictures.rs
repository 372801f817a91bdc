//! Image and mask files of a source: read, decoded once to prove that they can be, and kept as they came.
//!
//! A shard never holds a frame that cannot be decoded, so training and evaluation never meet one.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use lavida_data::clip::EncodedFrame;
use lavida_data::frame::{IndexMap, decode_indices, decode_rgb};
use lavida_data::mask::RleMask;
use lavida_store::{Error, Result};

use crate::read::files;
use crate::skip::{Reason, Skip};

/// Endings of image files that frames may have.
pub const IMAGE_ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "tif", "tiff", "bmp"];

/// An image file whose bytes decode.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// The file's bytes, unchanged.
    pub frame: EncodedFrame,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
}

/// Reads an image and decodes it fully; the decoded pixels are thrown away.
///
/// # Errors
///
/// The [`Skip`] to record when the file is missing or does not decode.
pub fn load_picture(path: &Path) -> Result<ImageFile, Skip> {
    let bytes = files::read(path).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => Reason::MissingImage,
            _ => Reason::UnreadableImage,
        };
        Skip::new(reason, path.display(), "an image file", error)
    })?;
    let frame = EncodedFrame {
        path: files::name(path),
        bytes: Bytes::from(bytes),
    };
    let rgb = decode_rgb(&frame).map_err(|error| {
        Skip::new(
            Reason::UnreadableImage,
            path.display(),
            "an image that decodes",
            found(error),
        )
    })?;
    Ok(ImageFile {
        frame,
        width: rgb.width,
        height: rgb.height,
    })
}

/// Reads a mask file of indices (palette or gray PNG) that must be `width × height` px.
///
/// # Errors
///
/// The [`Skip`] to record when the file is missing, does not decode or has another size.
pub fn load_index_map(path: &Path, width: u32, height: u32) -> Result<IndexMap, Skip> {
    let bytes = read_mask(path)?;
    let map = decode_indices(&bytes).map_err(|error| {
        Skip::new(
            Reason::UnreadableMask,
            path.display(),
            "a palette or gray PNG",
            found(error),
        )
    })?;
    check_size(path, (map.width, map.height), (width, height))?;
    Ok(map)
}

/// Reads a black-and-white mask file of any image format: a pixel above 0 belongs to the mask.
///
/// # Errors
///
/// As [`load_index_map`].
pub fn load_binary_mask(path: &Path, width: u32, height: u32) -> Result<Option<RleMask>, Skip> {
    let frame = EncodedFrame {
        path: files::name(path),
        bytes: Bytes::from(read_mask(path)?),
    };
    let rgb = decode_rgb(&frame).map_err(|error| {
        Skip::new(
            Reason::UnreadableMask,
            path.display(),
            "a mask image",
            found(error),
        )
    })?;
    check_size(path, (rgb.width, rgb.height), (width, height))?;
    let raster: Vec<u8> = rgb
        .pixels
        .chunks_exact(3)
        .map(|px| u8::from(px.iter().any(|v| *v > 0)))
        .collect();
    Ok(raster
        .contains(&1)
        .then(|| RleMask::from_raster(&raster, height, width)))
}

fn read_mask(path: &Path) -> Result<Vec<u8>, Skip> {
    files::read(path).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => Reason::MissingMask,
            _ => Reason::UnreadableMask,
        };
        Skip::new(reason, path.display(), "a mask file", error)
    })
}

/// The [`Skip`] to record when a mask is not of its frame's size (width, height).
pub fn check_size(path: &Path, mask: (u32, u32), frame: (u32, u32)) -> Result<(), Skip> {
    if mask == frame {
        return Ok(());
    }
    Err(Skip::new(
        Reason::MaskSizeMismatch,
        path.display(),
        format!("a mask of {}×{} px like its frame", frame.0, frame.1),
        format!("{}×{} px", mask.0, mask.1),
    ))
}

/// What an error found, without repeating the file that the skip already names.
pub fn found(error: Error) -> String {
    match error {
        Error::Invalid { found, .. } | Error::Corrupt { found, .. } => found,
        other => other.to_string(),
    }
}

/// One mask per index that occurs in `map`, by index.
pub fn masks_by_index(map: &IndexMap) -> BTreeMap<u8, RleMask> {
    let mut seen = [false; 256];
    for index in &map.indices {
        seen[usize::from(*index)] = true;
    }
    (0..=u8::MAX)
        .filter(|index| seen[usize::from(*index)])
        .map(|index| {
            let raster: Vec<u8> = map.indices.iter().map(|i| u8::from(*i == index)).collect();
            (index, RleMask::from_raster(&raster, map.height, map.width))
        })
        .collect()
}
