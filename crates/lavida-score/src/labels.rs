//! What a benchmark says is true of a video: one rule for frames, one for pixels.
//!
//! A frame is anomalous where the benchmark's own label says so; a benchmark without labels of frames says it by masks of
//! anomalies. Pixels are labelled where each frame that is labelled anomalous has a mask of its anomaly; beside such videos
//! those of a normal video are all normal. Where a benchmark has no mask at all, the pixels of its normal videos are of no use
//! either, and where a frame is anomalous and has none, where the anomaly is cannot be guessed.

use lavida_data::{Result, clip::ObjectTrack, mask::RleMask};

use crate::{
    benchmark::{Benchmark, BenchmarkVideo},
    pixels::paint,
    protocols::Labels,
    scored::{ScoredPixels, ScoredVideo},
};

/// A video's labels, with room for what the model will say of it.
///
/// # Errors
///
/// Those of reading its rows.
pub(crate) async fn labelled(
    benchmark: &Benchmark,
    video: &BenchmarkVideo,
    labels: Labels,
) -> Result<ScoredVideo> {
    let mut frame_labels = vec![false; video.n_frames];
    let mut masks = Vec::new();
    let mut has_pixels = labels == Labels::FramesAndPixels && benchmark.has_masks();
    for (first, row) in &video.rows {
        let clip = benchmark.catalog.read(*row).await?;
        for t in 0..clip.frames.len() {
            let frame = first + t;
            frame_labels[frame] = frame_label(clip.frame_labels.as_deref(), &clip.objects, t);
            has_pixels &= !frame_labels[frame] || shows_anomaly(&clip.objects, t);
            for object in &clip.objects {
                if let Some(mask) = &object.masks[t] {
                    let is_anomaly = object.anomalous == Some(true);
                    masks.push((frame, is_anomaly, mask.clone()));
                }
            }
        }
    }
    let pixels = if has_pixels {
        Some(labelled_pixels(
            benchmark.grid_of(video),
            video.n_frames,
            &masks,
        )?)
    } else {
        None
    };
    Ok(ScoredVideo {
        video: video.name.clone(),
        object_logits: vec![0.0; video.n_frames],
        frame_labels,
        swapped_object_logits: None,
        pixels,
    })
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

/// The masks of a video, each with its frame and whether it is the anomaly's, on a grid.
fn labelled_pixels(
    grid: [usize; 2],
    n_frames: usize,
    masks: &[(usize, bool, RleMask)],
) -> Result<ScoredPixels> {
    let n_pixels = grid[0] * grid[1];
    let unpainted = || vec![false; n_frames * n_pixels];
    let (mut labels, mut others) = (unpainted(), None);
    for (frame, is_anomaly, mask) in masks {
        let painted = if *is_anomaly {
            &mut labels
        } else {
            others.get_or_insert_with(unpainted)
        };
        paint(mask, grid, &mut painted[frame * n_pixels..][..n_pixels])?;
    }
    Ok(ScoredPixels {
        n_pixels,
        has_masks: masks.iter().any(|(_, is_anomaly, _)| *is_anomaly),
        mask_logits: vec![0.0; n_frames * n_pixels],
        labels,
        other_objects: others,
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
        let masks = [
            (1, true, mask(&[1, 0, 0, 0])),
            (1, true, mask(&[1, 1, 0, 0])),
            (0, false, mask(&[0, 0, 0, 1])),
        ];
        let pixels = labelled_pixels([2, 2], 2, &masks).unwrap();
        assert!(pixels.has_masks);
        let labels = pixels.labels.iter().map(|label| u8::from(*label));
        assert_eq!(labels.collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 0, 0]);
        let others = pixels.other_objects.unwrap();
        assert_eq!(others.iter().position(|other| *other), Some(3));
        let normal = labelled_pixels([2, 2], 2, &masks[2..]).unwrap();
        assert!(!normal.has_masks && !normal.labels.contains(&true));
    }
}
