//! What a build leaves out, and why.
//!
//! Nothing is dropped silently: every annotation, frame, image or row that a build does not take is a [`Skip`] with a
//! [`Reason`]. Reasons are of two kinds. A *fault* is input that contradicts itself (a polygon of two points, an unreadable
//! JPEG); `--strict` makes the first one fatal. The rest is *by design*: sound input that the shards have no use for (a
//! crowd region, an image of nothing but background).

use std::collections::BTreeMap;

use lavida_data::errors_file::ErrorRow;
use lavida_store::Error;

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A polygon with fewer than three points.
    PolygonTooShort,
    /// Coordinates that are not pairs of finite numbers, or another malformed polygon.
    PolygonInvalid,
    /// An annotation without a segmentation, or with one of an unknown form.
    SegmentationMissing,
    /// Run lengths that cannot be decoded or do not add up to the mask's size.
    RleInvalid,
    /// A mask without a single pixel.
    EmptyMask,
    /// A mask of another size than its frame.
    MaskSizeMismatch,
    /// As many masks as frames were expected.
    MaskCountMismatch,
    /// A mask file that cannot be decoded.
    UnreadableMask,
    /// A mask file without a frame of the same name.
    MaskWithoutFrame,
    /// A frame that should have a mask has no file of its name.
    MissingMask,
    /// An image file that cannot be decoded.
    UnreadableImage,
    /// A frame of another size than the first of its video, or than its annotation file says.
    ImageSizeMismatch,
    /// An image that is listed but not there.
    MissingImage,
    /// An annotation of an image that is not listed.
    UnknownImage,
    /// A category that the dataset does not define.
    UnknownCategory,
    /// The same id twice.
    DuplicateId,
    /// An object that no text names.
    MissingDescription,
    /// A video without frames or without ground truth.
    IncompleteVideo,
    /// A row that breaks a rule of the shards (too large, an id used twice).
    RowInvalid,
    /// A region standing for many objects at once (COCO `iscrowd`).
    Crowd,
    /// An image that shows background categories only.
    BackgroundOnly,
    /// A row in which nothing is segmented.
    NoObject,
    /// A frame of a training video that the dataset leaves unannotated.
    UnannotatedFrame,
    /// A text that, as its dataset says, names nothing in its picture.
    NoTarget,
    /// A photo that was turned as its EXIF orientation asks; nothing is left out.
    TurnedUpright,
}

impl Reason {
    /// The name in manifests, tables and `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PolygonTooShort => "polygon_too_short",
            Self::PolygonInvalid => "polygon_invalid",
            Self::SegmentationMissing => "segmentation_missing",
            Self::RleInvalid => "rle_invalid",
            Self::EmptyMask => "empty_mask",
            Self::MaskSizeMismatch => "mask_size_mismatch",
            Self::MaskCountMismatch => "mask_count_mismatch",
            Self::UnreadableMask => "unreadable_mask",
            Self::MaskWithoutFrame => "mask_without_frame",
            Self::MissingMask => "missing_mask",
            Self::UnreadableImage => "unreadable_image",
            Self::ImageSizeMismatch => "image_size_mismatch",
            Self::MissingImage => "missing_image",
            Self::UnknownImage => "unknown_image",
            Self::UnknownCategory => "unknown_category",
            Self::DuplicateId => "duplicate_id",
            Self::MissingDescription => "missing_description",
            Self::IncompleteVideo => "incomplete_video",
            Self::RowInvalid => "row_invalid",
            Self::Crowd => "crowd",
            Self::BackgroundOnly => "background_only",
            Self::NoObject => "no_object",
            Self::UnannotatedFrame => "unannotated_frame",
            Self::NoTarget => "no_target",
            Self::TurnedUpright => "turned_upright",
        }
    }

    /// True for input that is wrong, false for input the shards have no use for.
    pub fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Crowd
                | Self::BackgroundOnly
                | Self::NoObject
                | Self::UnannotatedFrame
                | Self::NoTarget
                | Self::TurnedUpright
        )
    }
}

/// One thing left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Why.
    pub reason: Reason,
    /// File and row, or file and key.
    pub what: String,
    /// What would have been taken.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl Skip {
    /// A [`Skip`] from anything that prints.
    pub fn new(
        reason: Reason,
        what: impl ToString,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self {
            reason,
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}: expected {}, found {}",
            self.reason.name(),
            self.what,
            self.expected,
            self.found
        )
    }
}

impl From<&Skip> for Error {
    fn from(skip: &Skip) -> Self {
        Self::corrupt(
            &skip.what,
            &skip.expected,
            format!("{} ({})", skip.found, skip.reason.name()),
        )
    }
}

/// Counts by reason; the first one is fatal when `strict`.
#[derive(Debug, Default)]
pub struct SkipLog {
    strict: bool,
    counts: BTreeMap<String, u64>,
    listed: Vec<ErrorRow>,
}

impl SkipLog {
    /// How many of each reason are shown before the rest is only counted.
    pub const N_SHOWN: u64 = 3;

    /// How many of each reason are listed with file and row; the rest is only counted.
    pub const N_LISTED: u64 = 50_000;

    /// An empty log.
    pub fn new(strict: bool) -> Self {
        Self {
            strict,
            ..Self::default()
        }
    }

    /// What was left out, with file and row.
    pub fn listed(&self) -> &[ErrorRow] {
        &self.listed
    }

    /// Counts one skip; true when it is among the first of its reason and worth showing.
    ///
    /// # Errors
    ///
    /// The skip itself as [`Error::Corrupt`], for a fault when the log is strict.
    pub fn record(&mut self, skip: &Skip) -> Result<bool, Error> {
        if self.strict && skip.reason.is_fault() {
            return Err(skip.into());
        }
        let count = self
            .counts
            .entry(skip.reason.name().to_owned())
            .or_default();
        *count += 1;
        if *count <= Self::N_LISTED {
            self.listed.push(ErrorRow {
                reason: skip.reason.name().to_owned(),
                is_fault: skip.reason.is_fault(),
                what: skip.what.clone(),
                expected: skip.expected.clone(),
                found: skip.found.clone(),
            });
        }
        Ok(skip.reason.is_fault() && *count <= Self::N_SHOWN)
    }

    /// Counts so far, by reason.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Counts, by reason.
    pub fn into_counts(self) -> BTreeMap<String, u64> {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_skip_is_counted_and_only_the_first_are_shown() {
        let mut log = SkipLog::new(false);
        let skip = Skip::new(
            Reason::PolygonTooShort,
            "a.json: annotation 7",
            "3 points",
            "2 points",
        );
        let shown: Vec<bool> = (0..5)
            .map(|_| log.record(&skip).expect("not strict"))
            .collect();
        assert_eq!(shown, [true, true, true, false, false]);
        assert_eq!(log.counts()["polygon_too_short"], 5);
    }

    #[test]
    fn strict_stops_at_a_fault_but_not_at_what_is_left_out_by_design() {
        let mut log = SkipLog::new(true);
        let crowd = Skip::new(
            Reason::Crowd,
            "a.json: annotation 7",
            "one object",
            "iscrowd 1",
        );
        assert!(!log.record(&crowd).expect("by design"));
        let fault = Skip::new(Reason::EmptyMask, "a.json: annotation 8", "pixels", "none");
        let error = log.record(&fault).expect_err("fault");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("annotation 8"), "{error}");
    }
}
