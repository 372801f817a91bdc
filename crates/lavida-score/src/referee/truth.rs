//! The truth of a built benchmark, as the referee takes it: labels of frames, masks of pixels, boxes of tracks.

use std::path::{Path, PathBuf};

use lavida_data::{Error, Result, manifest::MANIFEST_KEY};
use lavida_store::Store;
use serde::Serialize;

use super::{
    regions::TrackedRegion,
    values::{FrameValues, VideoValues, files, name_of, npy::NpyReader, video_name},
};
use crate::{
    benchmark::{Benchmark, BenchmarkVideo},
    labels::{PixelLabels, labelled},
    pixel_ranking::{PixelAuc, PixelRanking},
    pixels::{PIXEL_GRID, grid_of, resized},
    protocols::Labels,
};

/// The set at `uri` as the truth; none where no set is there. What is asked of a model is of no matter here.
///
/// # Errors
///
/// Those of a store that cannot be read, and of a set that is no benchmark.
pub async fn built(uri: &str) -> Result<Option<Benchmark>> {
    let is_local = !uri.contains("://");
    if is_local && !Path::new(uri).join(MANIFEST_KEY).is_file() {
        return Ok(None);
    }
    if Store::open(uri)?.try_get(MANIFEST_KEY).await?.is_none() {
        return Ok(None);
    }
    Benchmark::open(uri, Some(Vec::new())).await.map(Some)
}

/// Labels of every frame. Rows are read only where their masks say what is anomalous.
///
/// # Errors
///
/// Those of reading its rows.
pub async fn frame_labels(benchmark: &Benchmark) -> Result<FrameValues> {
    let mut videos = Vec::with_capacity(benchmark.videos.len());
    for video in &benchmark.videos {
        let mut labels = vec![false; video.n_frames];
        let mut is_known = true;
        for (first, row) in &video.rows {
            match &benchmark.catalog.entry(*row).frame_labels {
                Some(known) => labels[*first..][..known.len()].copy_from_slice(known),
                None => is_known = false,
            }
        }
        if !is_known {
            labels = labelled(benchmark, video, Labels::Frames).await?.frames;
        }
        videos.push(VideoValues {
            name: video.name.clone(),
            values: labels
                .into_iter()
                .map(|label| f64::from(u8::from(label)))
                .collect(),
        });
    }
    Ok(FrameValues::Videos(videos))
}

/// Boxes around the masks of every anomaly, one a frame.
///
/// # Errors
///
/// Those of reading its rows.
pub async fn tracked_regions(benchmark: &Benchmark) -> Result<Vec<TrackedRegion>> {
    let mut regions = Vec::new();
    for video in &benchmark.videos {
        for (first, row) in &video.rows {
            let clip = benchmark.catalog.read(*row).await?;
            for object in clip.objects.iter().filter(|o| o.anomalous == Some(true)) {
                for (t, mask) in object.masks.iter().enumerate() {
                    let Some(found) = mask
                        .as_ref()
                        .map(|mask| mask.bounding_box())
                        .transpose()?
                        .flatten()
                    else {
                        continue;
                    };
                    let (left, top) = (f64::from(found.x), f64::from(found.y));
                    let right = left + f64::from(found.width) - 1.0;
                    let bottom = top + f64::from(found.height) - 1.0;
                    regions.push(TrackedRegion {
                        video: video.name.clone(),
                        track: object.id.clone(),
                        frame: (first + t) as u64,
                        corners: [left, top, right, bottom],
                    });
                }
            }
        }
    }
    Ok(regions)
}

/// Figures of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PixelFigures {
    /// Videos whose pixels are scored and labelled.
    pub videos: usize,
    /// Pixels of the maps as they are.
    pub pixels: u64,
    /// Area under the ROC curve over them; none unless both labels occur.
    pub pixel_auc: Option<f64>,
    /// How far the exact area may lie from it, at most; 0 where it is exact.
    pub pixel_auc_bound: Option<f64>,
    /// The same with maps and masks resized by the nearest to at most 158 × 238 px, as LAVIDA's reference evaluates.
    pub reference_grid_pixel_auc: Option<f64>,
    /// Its bound.
    pub reference_grid_pixel_auc_bound: Option<f64>,
}

/// The labels of pixels.
pub enum PixelTruth<'a> {
    /// Masks of a built benchmark.
    Built(&'a Benchmark),
    /// `.npy` files `[T, H, W]`, one a video, anomalous where not 0.
    Files(&'a [PathBuf]),
}

/// Figures of maps of scores, `.npy` files `[T, H, W]` with one value a pixel, one file a video. One frame is held at a time.
///
/// # Errors
///
/// [`Error::Invalid`] for maps that do not fit the truth in frames or size, and for videos that it does not have.
pub async fn pixel_figures(maps: &[PathBuf], truth: PixelTruth<'_>) -> Result<PixelFigures> {
    let (mut own, mut reference) = (PixelRanking::default(), PixelRanking::default());
    let (mut n_videos, mut n_pixels) = (0, 0);
    let truth_files = match truth {
        PixelTruth::Files(paths) => files(paths)?,
        PixelTruth::Built(_) => Vec::new(),
    };
    for path in files(maps)? {
        let mut map = NpyReader::open(&path)?;
        let [n_frames, height, width] = map.shape[..] else {
            let found = format!("an array of shape {:?}", map.shape);
            return Err(Error::invalid(
                path.display(),
                "a map [frames, height, width]",
                found,
            ));
        };
        let name = name_of(&path);
        let mut labels = match truth {
            PixelTruth::Built(benchmark) => of_built(benchmark, &name, &path).await?,
            PixelTruth::Files(_) => of_files(&truth_files, &name, &path)?,
        };
        let Some(labels) = &mut labels else {
            continue;
        };
        if labels.n_frames() != n_frames {
            let expected = format!(
                "a map of {} frames, as the truth of video {name}",
                labels.n_frames()
            );
            return Err(Error::invalid(path.display(), expected, n_frames));
        }
        n_videos += 1;
        n_pixels += (n_frames * height * width) as u64;
        let small = grid_of(height as u32, width as u32);
        for frame in 0..n_frames {
            let scores: Vec<f32> = map
                .next(height * width)?
                .into_iter()
                .map(|s| s as f32)
                .collect();
            if scores.iter().any(|score| !score.is_finite()) {
                let what = format!("{}: frame {frame}", path.display());
                return Err(Error::invalid(what, "finite scores", "one that is not"));
            }
            let known = labels.frame(frame, [height, width])?;
            own.extend(&scores, &known);
            reference.extend(
                &resized(&scores, [height, width], small),
                &resized(&known, [height, width], small),
            );
        }
    }
    let (own, reference) = (own.auc(), reference.auc());
    let area = |auc: Option<PixelAuc>| auc.map(|auc| auc.area);
    let bound = |auc: Option<PixelAuc>| auc.map(|auc| auc.bound);
    Ok(PixelFigures {
        videos: n_videos,
        pixels: n_pixels,
        pixel_auc: area(own),
        pixel_auc_bound: bound(own),
        reference_grid_pixel_auc: area(reference),
        reference_grid_pixel_auc_bound: bound(reference),
    })
}

/// The reference's grid in words.
pub fn reference_grid() -> String {
    format!("{} × {} px", PIXEL_GRID[0], PIXEL_GRID[1])
}

enum VideoPixels {
    Masks(usize, PixelLabels),
    Array(NpyReader, PathBuf),
}

impl VideoPixels {
    fn n_frames(&self) -> usize {
        match self {
            Self::Masks(n_frames, _) => *n_frames,
            Self::Array(array, _) => array.shape.first().copied().unwrap_or_default(),
        }
    }

    /// The labels of a frame; frames are asked for in order.
    fn frame(&mut self, frame: usize, grid: [usize; 2]) -> Result<Vec<bool>> {
        match self {
            Self::Masks(_, labels) => Ok(labels.frame(frame, grid)?.labels),
            Self::Array(array, path) => {
                if array.shape[1..] != grid {
                    let expected = format!("masks of {grid:?} px, as the map of scores");
                    return Err(Error::invalid(
                        path.display(),
                        expected,
                        format!("{:?}", &array.shape[1..]),
                    ));
                }
                let values = array.next(grid[0] * grid[1])?;
                Ok(values.into_iter().map(|value| value != 0.0).collect())
            }
        }
    }
}

/// The masks of a video; none where only its frames are labelled.
async fn of_built(benchmark: &Benchmark, name: &str, path: &Path) -> Result<Option<VideoPixels>> {
    let is_it = |video: &&BenchmarkVideo| video_name(&video.name) == name;
    let Some(video) = benchmark.videos.iter().find(is_it) else {
        let expected = format!("a video of {}", benchmark.name);
        return Err(Error::invalid(
            path.display(),
            expected,
            format!("{name}, which it does not have"),
        ));
    };
    let labels = labelled(benchmark, video, Labels::FramesAndPixels).await?;
    Ok(labels
        .pixels
        .map(|pixels| VideoPixels::Masks(video.n_frames, pixels)))
}

fn of_files(truth: &[PathBuf], name: &str, path: &Path) -> Result<Option<VideoPixels>> {
    let Some(found) = truth.iter().find(|path| name_of(path) == name) else {
        let expected = "masks of the same name in --pixel-truth";
        return Err(Error::invalid(path.display(), expected, "none"));
    };
    let array = NpyReader::open(found)?;
    if array.shape.len() != 3 {
        let shown = format!("an array of shape {:?}", array.shape);
        return Err(Error::invalid(
            found.display(),
            "masks [frames, height, width]",
            shown,
        ));
    }
    Ok(Some(VideoPixels::Array(array, found.clone())))
}
