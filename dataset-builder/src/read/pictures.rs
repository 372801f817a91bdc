//! Image and mask files of a source: read, decoded once to prove that they can be, and kept as they came.
//!
//! A shard never holds a frame that cannot be decoded, so training and evaluation never meet one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use lavida_data::clip::EncodedFrame;
use lavida_data::frame::{IndexMap, decode_indices, decode_rgb, decode_whole};
use lavida_data::mask::RleMask;
use lavida_store::{Error, Result};

use crate::read::regions::masks_by_label;
use crate::read::{files, orientation};
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
/// A photo that its camera asks to be turned (EXIF orientation) is turned, as every viewer shows it.
///
/// # Errors
///
/// The [`Skip`] to record when the file is missing or does not decode.
pub fn load_picture(path: &Path, skips: &mut Vec<Skip>) -> Result<ImageFile, Skip> {
    load_picture_of(path, None, skips)
}

/// [`load_picture`] of a photo whose annotations are of a size (width, height in px): they were drawn on what viewers show,
/// which is turned, unless only the unturned photo has their size. Then the photo's request to be turned is taken out, so that
/// no reader of the shard follows it. What was done to a photo is in `skips`.
///
/// # Errors
///
/// As [`load_picture`].
pub fn load_picture_of(
    path: &Path,
    said: Option<(u32, u32)>,
    skips: &mut Vec<Skip>,
) -> Result<ImageFile, Skip> {
    let bytes = files::read(path).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => Reason::MissingImage,
            _ => Reason::UnreadableImage,
        };
        let found = match (reason, path.parent()) {
            (Reason::MissingImage, Some(folder)) => format!(
                "{error}: {} is {}",
                folder.display(),
                files::describe(folder)
            ),
            _ => error.to_string(),
        };
        Skip::new(reason, path.display(), "an image file", found)
    })?;
    let unreadable = |error: Error| {
        Skip::new(
            Reason::UnreadableImage,
            path.display(),
            "an image that decodes",
            found(error),
        )
    };
    let mut frame = EncodedFrame {
        path: files::name(path),
        bytes: Bytes::from(bytes),
    };
    let rgb = decode_whole(&frame).map_err(unreadable)?;
    let (mut width, mut height) = (rgb.width, rgb.height);
    if let Some(turn) = orientation::of(&frame.bytes) {
        let turned = orientation::turned_size(turn, (width, height));
        if said == Some((width, height)) && said != Some(turned) {
            frame.bytes = Bytes::from(orientation::without(&frame.bytes));
        } else {
            frame.bytes = Bytes::from(orientation::upright(&rgb, turn).map_err(unreadable)?);
            (width, height) = turned;
            skips.push(Skip::new(
                Reason::TurnedUpright,
                path.display(),
                "a picture that is stored upright",
                format!(
                    "EXIF orientation {}: turned, and compressed anew",
                    turn.to_exif()
                ),
            ));
        }
    }
    Ok(ImageFile {
        frame,
        width,
        height,
    })
}

/// Reads a mask file of indices (palette or gray PNG) that must be `width × height` px.
///
/// # Errors
///
/// The [`Skip`] to record when the file is missing, does not decode or has another size.
pub fn load_index_map(path: &Path, width: u32, height: u32) -> Result<IndexMap, Skip> {
    let map = load_index_map_of_any_size(path)?;
    check_size(path, (map.width, map.height), (width, height))?;
    Ok(map)
}

/// Reads a mask file of indices (palette or gray PNG).
///
/// # Errors
///
/// The [`Skip`] to record when the file is missing or does not decode.
pub fn load_index_map_of_any_size(path: &Path) -> Result<IndexMap, Skip> {
    let bytes = read_mask(path)?;
    decode_indices(&bytes).map_err(|error| {
        Skip::new(
            Reason::UnreadableMask,
            path.display(),
            "a palette or gray PNG of at most 8 bits, whose values are indices",
            format!(
                "{} (a mask that was saved anew as a picture has lost its indices)",
                found(error)
            ),
        )
    })
}

/// Most different values of a gray map that are taken for numbers of objects and not for shades.
const MOST_GRAY_INDICES: usize = 16;

/// [`load_index_map`] of a video's objects. A gray map may be one object with a soft rim, as a mask becomes that was resized
/// with smoothing: then half of white and more is the object (255) and the rest nothing.
///
/// # Errors
///
/// As [`load_index_map`], and where a gray map has too many shades to be one or the other.
pub fn load_object_map(path: &Path, width: u32, height: u32) -> Result<IndexMap, Skip> {
    let mut map = load_index_map(path, width, height)?;
    if map.is_palette {
        return Ok(map);
    }
    let mut n_of = [0u64; 256];
    for index in &map.indices {
        n_of[usize::from(*index)] += 1;
    }
    let n_values = n_of[1..].iter().filter(|n| **n > 0).count();
    let n_between: u64 = n_of[1..255].iter().sum();
    let has_white = n_of[250..].iter().any(|n| *n > 0);
    if n_values > 1 && n_of[255] > n_between || n_values > MOST_GRAY_INDICES && has_white {
        for index in &mut map.indices {
            *index = if *index >= 128 { 255 } else { 0 };
        }
    } else if n_values > MOST_GRAY_INDICES {
        return Err(Skip::new(
            Reason::UnreadableMask,
            path.display(),
            "a palette PNG, or a gray one whose values are indices",
            format!("{n_values} shades of gray"),
        ));
    }
    Ok(map)
}

/// Reads a black-and-white mask file of any image format. White belongs to the mask: any value where there is only one beside
/// 0, else those from half of white on, since a mask that was compressed with loss has a rim and a floor of small ones.
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
    let values: Vec<u8> = rgb
        .pixels
        .chunks_exact(3)
        .map(|px| px.iter().copied().max().unwrap_or(0))
        .collect();
    let different: BTreeSet<u8> = values.iter().copied().filter(|value| *value > 0).collect();
    let least = match different.len() {
        1 if different.contains(&1) || different.iter().all(|value| *value >= FAINT) => 1,
        _ => 128,
    };
    let raster: Vec<u8> = values
        .iter()
        .map(|value| u8::from(*value >= least))
        .collect();
    Ok(raster
        .contains(&1)
        .then(|| RleMask::from_raster(&raster, height, width)))
}

/// A value that compression may leave in a black mask lies below this.
const FAINT: u8 = 32;

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
    masks_by_label(&map.indices, map.width, map.height)
}
