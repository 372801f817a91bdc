//! COCO's three ways to write a segmentation, and the frame-sized mask each becomes.
//!
//! Polygons of one annotation are OR-ed (the reference adds them, so overlapping parts count twice there). Run lengths come
//! as a list or as COCO's compressed string.

use lavida_data::mask::RleMask;
use serde::Deserialize;

use crate::read::pictures::found;
use crate::skip::{Reason, Skip};

/// The `segmentation` of an annotation as it stands in the JSON file.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Segmentation {
    /// `[[x, y, x, y, …], …]` in px.
    Polygons(Vec<Vec<f64>>),
    /// `{"size": [height, width], "counts": …}`.
    Rle(RunLengths),
    /// Anything else: recorded, not fatal.
    Unknown(serde_json::Value),
}

/// `{"size": [height, width], "counts": …}`
#[derive(Clone, Debug, Deserialize)]
pub struct RunLengths {
    /// Height and width in px.
    pub size: [u32; 2],
    /// The runs, column by column, background first.
    pub counts: Counts,
}

/// Run lengths, plain or compressed.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// COCO's compressed string.
    Text(String),
    /// One number a run.
    List(Vec<u32>),
}

/// The mask of a segmentation on a frame of `width × height` px; `None` when nothing is left, with the reasons in `skips`.
pub fn segmentation_mask(
    segmentation: Option<&Segmentation>,
    what: &str,
    width: u32,
    height: u32,
    skips: &mut Vec<Skip>,
) -> Option<RleMask> {
    match segmentation {
        Some(Segmentation::Polygons(polygons)) if !polygons.is_empty() => {
            polygons_mask(polygons, what, width, height, skips)
        }
        Some(Segmentation::Rle(rle)) => match run_lengths_mask(rle, what, width, height) {
            Ok(mask) => Some(mask),
            Err(skip) => {
                skips.push(skip);
                None
            }
        },
        other => {
            let found = match other {
                Some(Segmentation::Unknown(value)) => abbreviate(&value.to_string()),
                Some(_) => "an empty list".to_owned(),
                None => "none".to_owned(),
            };
            skips.push(Skip::new(
                Reason::SegmentationMissing,
                what,
                "polygons or run lengths",
                found,
            ));
            None
        }
    }
}

fn polygons_mask(
    polygons: &[Vec<f64>],
    what: &str,
    width: u32,
    height: u32,
    skips: &mut Vec<Skip>,
) -> Option<RleMask> {
    let n_before = skips.len();
    let mut parts: Vec<RleMask> = Vec::new();
    for (part_idx, polygon) in polygons.iter().enumerate() {
        let what = format!("{what}: polygon {part_idx}");
        if polygon.len() % 2 != 0 || polygon.iter().any(|value| !value.is_finite()) {
            skips.push(Skip::new(
                Reason::PolygonInvalid,
                what,
                "pairs of finite numbers",
                format!("{} numbers", polygon.len()),
            ));
        } else if polygon.len() < 6 {
            let found = format!("{} points", polygon.len() / 2);
            skips.push(Skip::new(
                Reason::PolygonTooShort,
                what,
                "at least 3 points",
                found,
            ));
        } else {
            match RleMask::from_polygons(std::slice::from_ref(polygon), height, width) {
                Ok(mask) => parts.push(mask),
                Err(error) => skips.push(Skip::new(
                    Reason::PolygonInvalid,
                    what,
                    "a polygon with an area",
                    found(error),
                )),
            }
        }
    }
    if parts.is_empty() {
        return None;
    }
    let mask = union(&parts.iter().collect::<Vec<_>>(), what, skips)?;
    if mask.is_empty() && skips.len() == n_before {
        skips.push(empty(what));
    }
    (!mask.is_empty()).then_some(mask)
}

/// The mask of run lengths that must be `width × height` px and hold at least one pixel.
///
/// # Errors
///
/// The [`Skip`] to record.
pub fn run_lengths_mask(
    rle: &RunLengths,
    what: &str,
    width: u32,
    height: u32,
) -> Result<RleMask, Skip> {
    let [mask_height, mask_width] = rle.size;
    if (mask_width, mask_height) != (width, height) {
        return Err(Skip::new(
            Reason::MaskSizeMismatch,
            what,
            format!("a mask of {width}×{height} px like its frame"),
            format!("{mask_width}×{mask_height} px"),
        ));
    }
    let mask = match &rle.counts {
        Counts::Text(counts) => RleMask::from_coco(counts, height, width),
        Counts::List(counts) => RleMask::from_counts(counts, height, width),
    }
    .map_err(|error| {
        Skip::new(
            Reason::RleInvalid,
            what,
            format!("runs that add up to {width}×{height} px"),
            found(error),
        )
    })?;
    if mask.is_empty() {
        Err(empty(what))
    } else {
        Ok(mask)
    }
}

/// The OR of masks of one size; `None` (and a skip) when they cannot be combined.
pub fn union(masks: &[&RleMask], what: &str, skips: &mut Vec<Skip>) -> Option<RleMask> {
    match RleMask::union(masks) {
        Ok(mask) => Some(mask),
        Err(error) => {
            skips.push(Skip::new(
                Reason::RleInvalid,
                what,
                "masks of one size",
                found(error),
            ));
            None
        }
    }
}

fn empty(what: &str) -> Skip {
    Skip::new(Reason::EmptyMask, what, "at least one pixel", "none")
}

fn abbreviate(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
