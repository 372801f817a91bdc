//! COCO's three ways to write a segmentation, and the frame-sized mask each becomes.
//!
//! Polygons of one annotation are OR-ed (the reference adds them, so overlapping parts count twice there). Run lengths come
//! as a list or as COCO's compressed string.

use lavida_data::mask::RleMask;
use serde::Deserialize;

use crate::read::lenient::{Coordinate, Whole};
use crate::read::pictures::found;
use crate::skip::{Reason, Skip};

/// The `segmentation` of an annotation as it stands in the JSON file.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Segmentation {
    /// `[[x, y, x, y, …], …]` in px.
    Polygons(Vec<Vec<Coordinate>>),
    /// `{"size": [height, width], "counts": …}`.
    Rle(RunLengths),
    /// Run lengths whose masks are OR-ed, as refCLEF writes them.
    Rles(Vec<RunLengths>),
    /// Anything else: recorded, not fatal.
    Unknown(serde_json::Value),
}

impl Segmentation {
    /// Whether there is any: an empty list is none.
    pub fn is_given(&self) -> bool {
        match self {
            Self::Polygons(polygons) => !polygons.is_empty(),
            Self::Unknown(value) => !value.is_null(),
            Self::Rle(_) | Self::Rles(_) => true,
        }
    }
}

/// `{"size": [height, width], "counts": …}`
#[derive(Clone, Debug, Deserialize)]
pub struct RunLengths {
    /// Height and width in px.
    pub size: [Whole; 2],
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
    List(Vec<Whole>),
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
        Some(Segmentation::Rles(parts)) => {
            let mut masks = Vec::new();
            for (part_idx, rle) in parts.iter().enumerate() {
                match run_lengths_mask(rle, &format!("{what}: part {part_idx}"), width, height) {
                    Ok(mask) => masks.push(mask),
                    Err(skip) => skips.push(skip),
                }
            }
            match masks.len() {
                0 => None,
                _ => union(&masks.iter().collect::<Vec<_>>(), what, skips),
            }
        }
        Some(Segmentation::Unknown(value)) if is_flat(value) => {
            skips.push(Skip::new(
                Reason::PolygonInvalid,
                what,
                "a list of polygons, `[[x, y, …], …]`",
                "one flat list of numbers",
            ));
            None
        }
        Some(Segmentation::Unknown(value)) if value.get("counts").is_some() => {
            skips.push(Skip::new(
                Reason::RleInvalid,
                what,
                "`size` and `counts` of whole numbers, or COCO's text",
                abbreviate(&value.to_string()),
            ));
            None
        }
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

fn is_flat(value: &serde_json::Value) -> bool {
    value
        .as_array()
        .is_some_and(|list| list.iter().all(|item| item.is_number() || item.is_null()))
}

fn polygons_mask(
    polygons: &[Vec<Coordinate>],
    what: &str,
    width: u32,
    height: u32,
    skips: &mut Vec<Skip>,
) -> Option<RleMask> {
    if polygons.len() > 2 && polygons.iter().all(|point| point.len() == 2) {
        skips.push(Skip::new(
            Reason::PolygonInvalid,
            what,
            "a list of polygons, `[[x, y, …], …]`",
            "a list of points, `[[x, y], …]`",
        ));
        return None;
    }
    let n_before = skips.len();
    let mut parts: Vec<RleMask> = Vec::new();
    for (part_idx, polygon) in polygons.iter().enumerate() {
        let polygon: Vec<f64> = polygon.iter().map(|number| number.0).collect();
        let what = format!("{what}: polygon {part_idx}");
        if !polygon.len().is_multiple_of(2) || polygon.iter().any(|value| !value.is_finite()) {
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
            match RleMask::from_polygons(std::slice::from_ref(&polygon), height, width) {
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
    let [Whole(mask_height), Whole(mask_width)] = rle.size;
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
        Counts::List(counts) => {
            let counts: Vec<u32> = counts.iter().map(|run| run.0).collect();
            RleMask::from_counts(&counts, height, width)
        }
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
