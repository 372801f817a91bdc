//! Region-based and track-based detection criteria (RBDC, TBDC; Ramachandra and Jones, "Street Scene", WACV 2020).
//!
//! A detection is a box in a frame with a score. From the highest score down, a detection finds the boxes of the truth in its
//! frame that it overlaps by an intersection over union of at least β, and a track is found once it is so in at least a share α
//! of its frames; a detection that overlaps none is a false one. RBDC and TBDC are the areas under the share of boxes, and of
//! tracks, against false detections a frame, up to one. Numbers are those of AED's `compute_tbdc_rbdc.py`: boxes hold their
//! corner pixels, α = β = 0.1, a curve that ends before one false detection a frame goes on level. Detections of equal score
//! are taken in the order of the files.

use std::collections::BTreeMap;

use lavida_data::{Error, Result};
use serde::Serialize;

/// Share of a track's frames in which it has to be found.
pub const ALPHA: f64 = 0.1;
/// Least intersection over union.
pub const BETA: f64 = 0.1;

/// A box of a frame: left, top, right and bottom px, all of them inside.
pub type Corners = [f64; 4];

/// A box of the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackedRegion {
    /// Video.
    pub video: String,
    /// Its object in the video.
    pub track: String,
    /// Number of the frame.
    pub frame: u64,
    /// Where.
    pub corners: Corners,
}

/// A box that somebody found anomalous.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectedRegion {
    /// Video.
    pub video: String,
    /// Number of the frame.
    pub frame: u64,
    /// Where.
    pub corners: Corners,
    /// How anomalous.
    pub score: f64,
}

/// Both criteria.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionFigures {
    /// Region-based detection criterion.
    pub rbdc: f64,
    /// Track-based detection criterion.
    pub tbdc: f64,
    /// Boxes of the truth.
    pub regions: usize,
    /// Tracks of the truth.
    pub tracks: usize,
    /// Detections.
    pub detections: usize,
    /// False detections a frame that the curve reaches; where it is below 1 the rest of the area is level.
    pub reaches: f64,
}

/// Both criteria over videos of `n_frames` frames together.
///
/// # Errors
///
/// [`Error::Invalid`] for a truth without a box, and for detections of a video of which the truth has none and no frame.
pub fn region_figures(
    truth: &[TrackedRegion],
    mut detections: Vec<DetectedRegion>,
    n_frames: usize,
) -> Result<RegionFigures> {
    if truth.is_empty() || n_frames == 0 {
        return Err(Error::invalid(
            "tracks",
            "at least one box in at least one frame",
            "none",
        ));
    }
    // A track has one box a frame: the last one said, as the script's dictionary keeps it.
    let mut tracks: BTreeMap<(&str, &str), BTreeMap<u64, Corners>> = BTreeMap::new();
    for region in truth {
        let track = tracks.entry((&region.video, &region.track)).or_default();
        track.insert(region.frame, region.corners);
    }
    // Of each frame the track, its box, and whether it was found.
    type Regions = Vec<(usize, Corners, bool)>;
    let mut by_frame: BTreeMap<(&str, u64), Regions> = BTreeMap::new();
    let mut n_regions = 0;
    for (track_idx, ((video, _), boxes)) in tracks.iter().enumerate() {
        for (frame, corners) in boxes {
            n_regions += 1;
            let regions = by_frame.entry((video, *frame)).or_default();
            regions.push((track_idx, *corners, false));
        }
    }
    let lengths: Vec<usize> = tracks.values().map(BTreeMap::len).collect();
    let mut n_found = vec![0usize; lengths.len()];
    let is_found = |n_found: usize, length: usize| n_found as f64 / length as f64 >= ALPHA;
    let (mut n_regions_found, mut n_tracks_found, mut n_false) = (0usize, 0usize, 0usize);
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut curve = vec![[0.0; 3]];
    for detection in &detections {
        let regions = by_frame.get_mut(&(detection.video.as_str(), detection.frame));
        let mut overlaps = false;
        for (track, corners, is_taken) in regions.into_iter().flatten() {
            if intersection_over_union(corners, &detection.corners) < BETA {
                continue;
            }
            overlaps = true;
            if !std::mem::replace(is_taken, true) {
                n_regions_found += 1;
                let before = is_found(n_found[*track], lengths[*track]);
                n_found[*track] += 1;
                n_tracks_found +=
                    usize::from(!before && is_found(n_found[*track], lengths[*track]));
            }
        }
        n_false += usize::from(!overlaps);
        curve.push([
            n_false as f64 / n_frames as f64,
            n_regions_found as f64 / n_regions as f64,
            n_tracks_found as f64 / lengths.len() as f64,
        ]);
    }
    let reaches = curve.last().map_or(0.0, |point| point[0]);
    curve.retain(|point| point[0] <= 1.0);
    if let Some(last) = curve.last().copied() {
        curve.push([1.0, last[1], last[2]]);
    }
    let area = |value: usize| {
        let pairs = curve.windows(2);
        pairs
            .map(|pair| (pair[1][0] - pair[0][0]) * (pair[0][value] + pair[1][value]) / 2.0)
            .sum()
    };
    Ok(RegionFigures {
        rbdc: area(1),
        tbdc: area(2),
        regions: n_regions,
        tracks: lengths.len(),
        detections: detections.len(),
        reaches,
    })
}

fn intersection_over_union(a: &Corners, b: &Corners) -> f64 {
    let side = |low: f64, high: f64| (high - low + 1.0).max(0.0);
    let inside = side(a[0].max(b[0]), a[2].min(b[2])) * side(a[1].max(b[1]), a[3].min(b[3]));
    let area = |of: &Corners| (of[2] - of[0] + 1.0) * (of[3] - of[1] + 1.0);
    inside / (area(a) + area(b) - inside)
}

/// Rows of numbers of AED's text files: `what` names the file, `columns` what a row holds.
///
/// # Errors
///
/// [`Error::Invalid`] naming the line that is no such row.
pub fn rows<const N: usize>(what: &str, text: &str, columns: &str) -> Result<Vec<[f64; N]>> {
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let numbers: Option<Vec<f64>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
        let row = numbers.filter(|n| n.iter().all(|n: &f64| n.is_finite()));
        let row = row.and_then(|numbers| numbers.try_into().ok());
        rows.push(row.ok_or_else(|| {
            let what = format!("{what}: line {line}");
            Error::invalid(what, format!("the numbers {columns}"), text)
        })?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(track: &str, frame: u64, corners: Corners) -> TrackedRegion {
        TrackedRegion {
            video: "v".into(),
            track: track.into(),
            frame,
            corners,
        }
    }

    fn found(frame: u64, corners: Corners, score: f64) -> DetectedRegion {
        DetectedRegion {
            video: "v".into(),
            frame,
            corners,
            score,
        }
    }

    const HERE: Corners = [10.0, 10.0, 19.0, 19.0];
    const THERE: Corners = [50.0, 50.0, 59.0, 59.0];

    #[test]
    fn everything_found_without_a_false_one_is_all_of_the_area() {
        let regions = [
            truth("a", 0, HERE),
            truth("a", 1, HERE),
            truth("b", 1, THERE),
        ];
        let detections = vec![
            found(0, HERE, 0.9),
            found(1, HERE, 0.8),
            found(1, THERE, 0.7),
        ];
        let figures = region_figures(&regions, detections, 10).unwrap();
        assert_eq!((figures.rbdc, figures.tbdc), (1.0, 1.0));
        assert_eq!(
            (figures.regions, figures.tracks, figures.reaches),
            (3, 2, 0.0)
        );
    }

    #[test]
    fn a_box_counts_once_and_false_ones_move_the_curve() {
        let regions = [truth("a", 0, HERE), truth("a", 1, HERE)];
        let detections = vec![
            found(0, HERE, 0.9),
            found(0, HERE, 0.8),
            found(1, THERE, 0.7),
            found(1, HERE, 0.6),
        ];
        // Half the boxes until the false one at 1/2, then rising to all: ½·½ + ½·1 with the step at ½.
        let figures = region_figures(&regions, detections, 2).unwrap();
        assert_eq!(figures.rbdc, 0.25 + 0.5);
        assert_eq!(figures.tbdc, 1.0);
    }

    #[test]
    fn boxes_hold_their_corner_pixels() {
        let one = [0.0, 0.0, 0.0, 0.0];
        assert_eq!(intersection_over_union(&one, &one), 1.0);
        assert_eq!(intersection_over_union(&one, &[1.0, 0.0, 1.0, 0.0]), 0.0);
        assert_eq!(intersection_over_union(&one, &[0.0, 0.0, 1.0, 0.0]), 0.5);
    }

    #[test]
    fn a_line_that_is_no_row_is_named() {
        let read = rows::<3>("f.txt", "1,2,3\n\n4, 5, 6\n", "a, b, c").unwrap();
        assert_eq!(read, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let error = rows::<3>("f.txt", "1,2,3\n1,2\n", "a, b, c").unwrap_err();
        assert!(error.to_string().contains("f.txt: line 2"), "{error}");
    }
}
