//! What a benchmark says is true of a video: one rule for frames, one for pixels.
//!
//! A frame is anomalous where the benchmark's own label says so; a benchmark without labels of frames says it by masks of
//! anomalies. Pixels are labelled where each frame that is labelled anomalous has a mask of its anomaly; beside such videos
//! those of a normal video are all normal. Where a benchmark has no mask at all, the pixels of its normal videos are of no use
//! either, and where a frame is anomalous and has none, where the anomaly is cannot be guessed.

use std::collections::BTreeMap;

use lavida_data::{Result, clip::ObjectTrack, mask::RleMask};

use crate::{
    benchmark::{Benchmark, BenchmarkVideo},
    pixels::paint,
    protocols::Labels,
};

/// What a benchmark says of a video.
pub(crate) struct VideoLabels {
    /// y^f by frame.
    pub frames: Vec<bool>,
    /// y^p; none where only its frames are labelled.
    pub pixels: Option<PixelLabels>,
}

/// The masks of a video, which are painted on a grid frame by frame: painted all at once they would fill the memory.
pub(crate) struct PixelLabels {
    /// Whether a mask says where an anomaly is; without one the video is normal throughout.
    pub has_masks: bool,
    has_others: bool,
    /// Masks of a frame, each with whether it is the anomaly's.
    by_frame: BTreeMap<usize, Vec<(bool, RleMask)>>,
}

/// The labelled pixels of a frame on a grid.
#[derive(Debug, PartialEq)]
pub(crate) struct LabelledPixels {
    /// y^p
    pub labels: Vec<bool>,
    /// Where other annotated objects are; none where the video has none.
    pub others: Option<Vec<bool>>,
}

/// A video's labels.
///
/// # Errors
///
/// Those of reading its rows.
pub(crate) async fn labelled(
    benchmark: &Benchmark,
    video: &BenchmarkVideo,
    labels: Labels,
) -> Result<VideoLabels> {
    let mut frames = vec![false; video.n_frames];
    let mut masks = Vec::new();
    let mut has_pixels = labels == Labels::FramesAndPixels && benchmark.has_masks();
    for (first, row) in &video.rows {
        let clip = benchmark.catalog.read(*row).await?;
        for t in 0..clip.frames.len() {
            let frame = first + t;
            frames[frame] = frame_label(clip.frame_labels.as_deref(), &clip.objects, t);
            has_pixels &= !frames[frame] || shows_anomaly(&clip.objects, t);
            for object in &clip.objects {
                if let Some(mask) = &object.masks[t] {
                    let is_anomaly = object.anomalous == Some(true);
                    masks.push((frame, is_anomaly, mask.clone()));
                }
            }
        }
    }
    Ok(VideoLabels {
        frames,
        pixels: has_pixels.then(|| PixelLabels::of(masks)),
    })
}

impl PixelLabels {
    /// Masks, each with its frame and whether it is the anomaly's.
    fn of(masks: Vec<(usize, bool, RleMask)>) -> Self {
        let mut labels = Self {
            has_masks: masks.iter().any(|(_, is_anomaly, _)| *is_anomaly),
            has_others: masks.iter().any(|(_, is_anomaly, _)| !is_anomaly),
            by_frame: BTreeMap::new(),
        };
        for (frame, is_anomaly, mask) in masks {
            labels
                .by_frame
                .entry(frame)
                .or_default()
                .push((is_anomaly, mask));
        }
        labels
    }

    /// A frame's pixels on a grid.
    ///
    /// # Errors
    ///
    /// Those of a mask that is none.
    pub(crate) fn frame(&self, frame: usize, grid: [usize; 2]) -> Result<LabelledPixels> {
        let unpainted = || vec![false; grid[0] * grid[1]];
        let (mut labels, mut others) = (unpainted(), self.has_others.then(unpainted));
        for (is_anomaly, mask) in self.by_frame.get(&frame).into_iter().flatten() {
            let painted = if *is_anomaly {
                &mut labels
            } else {
                others.get_or_insert_with(unpainted)
            };
            paint(mask, grid, painted)?;
        }
        Ok(LabelledPixels { labels, others })
    }
}

impl LabelledPixels {
    /// Scores of the pixels of annotated objects, and whether each is the anomaly's; none without other objects.
    pub(crate) fn on_objects(&self, scores: &[f32]) -> Option<(Vec<f32>, Vec<bool>)> {
        let others = self.others.as_ref()?;
        let pixels = scores.iter().zip(&self.labels).zip(others);
        let on_objects = pixels.filter(|((_, label), other)| **label || **other);
        Some(
            on_objects
                .map(|((score, label), _)| (*score, *label))
                .unzip(),
        )
    }
}

/// y^f of frame `t` of a clip, by the benchmark's own labels or else by its masks.
fn frame_label(labels: Option<&[bool]>, objects: &[ObjectTrack], t: usize) -> bool {
    match labels {
        Some(labels) => labels[t],
        None => shows_anomaly(objects, t),
    }
}

/// Whether a mask says where the anomaly is in frame `t`.
fn shows_anomaly(objects: &[ObjectTrack], t: usize) -> bool {
    let mut anomalies = objects.iter().filter(|o| o.anomalous == Some(true));
    anomalies.any(|object| {
        object.masks[t]
            .as_ref()
            .is_some_and(|mask| !mask.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(anomalous: bool, masks: [Option<&[u8]>; 3]) -> ObjectTrack {
        let mask = |raster: &[u8]| RleMask::from_raster(raster, 2, 2);
        ObjectTrack {
            id: "o".into(),
            category: None,
            descriptions: Vec::new(),
            masks: masks.into_iter().map(|raster| raster.map(mask)).collect(),
            anomalous: Some(anomalous),
        }
    }

    #[test]
    fn a_benchmarks_own_labels_go_before_its_masks() {
        let objects = [
            object(true, [Some(&[1, 0, 0, 0]), None, Some(&[0, 0, 0, 0])]),
            object(false, [None, Some(&[1, 1, 1, 1]), None]),
        ];
        let labels = |own: Option<&[bool]>| [0, 1, 2].map(|t| frame_label(own, &objects, t));
        assert_eq!(labels(None), [true, false, false]);
        assert_eq!(labels(Some(&[true, true, false])), [true, true, false]);
        assert!(!shows_anomaly(&objects, 1), "no mask says where");
    }

    #[test]
    fn masks_of_several_objects_are_joined_and_others_kept_apart() {
        let mask = |raster: &[u8]| RleMask::from_raster(raster, 2, 2);
        let masks = vec![
            (1, true, mask(&[1, 0, 0, 0])),
            (1, true, mask(&[1, 1, 0, 0])),
            (0, false, mask(&[0, 0, 0, 1])),
        ];
        let pixels = PixelLabels::of(masks.clone());
        assert!(pixels.has_masks);
        let frame = |frame| pixels.frame(frame, [2, 2]).unwrap();
        assert_eq!(frame(1).labels, [true, true, false, false]);
        assert_eq!(frame(1).others, Some(vec![false; 4]));
        assert_eq!(frame(0).labels, [false; 4]);
        let on_objects = frame(0).on_objects(&[0.1, 0.2, 0.3, 0.4]);
        assert_eq!(on_objects, Some((vec![0.4], vec![false])));
        let normal = PixelLabels::of(masks[..2].to_vec());
        assert_eq!(normal.frame(1, [2, 2]).unwrap().others, None);
        assert!(!PixelLabels::of(masks[2..].to_vec()).has_masks);
    }
}
