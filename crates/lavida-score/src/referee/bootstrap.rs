//! Intervals by a bootstrap over videos: the videos are drawn again with replacement, and each figure is computed anew.
//!
//! Frames of one video are alike, so drawing frames would make intervals far too narrow. A resample is a number per video; so
//! that a thousand of them over a million frames take a fraction of a second, the ranking is cut into blocks of at most
//! 1/256 of the anomalous and of the normal frames (ties are never cut), and frames of a block count as tied. That moves the end
//! of an interval of an AUC by at most 1/512; the figures themselves are exact and computed elsewhere. Up to 256 frames of
//! either label nothing is blocked.
//!
//! Letters: `V` videos, `B` blocks, `R` resamples.

use lavida_data::seed::StageRng;

use super::ranking::{RankedFrame, VideoAreas};

/// Share of the frames of a label that a block may hold, inverted.
const N_BLOCKS: u64 = 256;
/// Resamples computed side by side, so that a block's counts are read once for all of them.
const N_LANES: usize = 16;
/// The interval holds this share of the resamples.
const COVERAGE: f64 = 0.95;

/// How often each video is drawn, by resample: `[R]` times `[V]`.
pub(super) struct Resamples {
    weights: Vec<Vec<f32>>,
}

/// Lower and upper end of each figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Intervals {
    pub auc: Option<[f64; 2]>,
    pub auc_padded: Option<[f64; 2]>,
    pub video_auc: Option<[f64; 2]>,
    pub video_auc_padded: Option<[f64; 2]>,
    pub average_precision: Option<[f64; 2]>,
    pub average_precision_padded: Option<[f64; 2]>,
    pub trapezoid: Option<[f64; 2]>,
}

/// Frames of a block, by label: all of them, then by video.
#[derive(Default)]
struct Block {
    anomalous: Vec<f32>,
    normal: Vec<f32>,
    /// The artificial frames that stand in it.
    padding: [f64; 2],
}

impl Resamples {
    /// Draws `n_resamples` resamples of `n_videos` videos. One video has none: it would be drawn alone every time.
    pub(super) fn draw(n_resamples: usize, n_videos: usize, seed: u64) -> Self {
        let n_resamples = if n_videos > 1 { n_resamples } else { 0 };
        let weights = (0..n_resamples).map(|resample| {
            let mut rng = StageRng::new(seed, "bootstrap over videos", &[&(resample as u64)]);
            let mut weights = vec![0.0; n_videos];
            for _ in 0..n_videos {
                weights[rng.below(n_videos)] += 1.0;
            }
            weights
        });
        Self {
            weights: weights.collect(),
        }
    }

    /// The intervals of the figures of a ranking.
    pub(super) fn intervals(
        &self,
        frames: &[RankedFrame],
        by_video: &[VideoAreas],
        padding: [usize; 2],
    ) -> Intervals {
        if self.weights.is_empty() {
            return Intervals::default();
        }
        let blocks = blocks(frames, by_video.len(), padding);
        let mut figures: [Vec<f64>; 7] = Default::default();
        for weights in self.weights.chunks(N_LANES) {
            for (lane, counts) in counted(&blocks, weights).iter().enumerate() {
                let [auc, ap, trapezoid] = sweep(counts.iter().copied());
                let with_padding = counts.iter().zip(&blocks).map(|(counts, block)| {
                    [counts[0] + block.padding[0], counts[1] + block.padding[1]]
                });
                let [auc_padded, ap_padded, _] = sweep(with_padding);
                let mean = |area: fn(&VideoAreas) -> Option<f64>| {
                    let (mut sum, mut n) = (0.0, 0.0);
                    for (areas, weight) in by_video.iter().zip(&weights[lane]) {
                        if let Some(area) = area(areas) {
                            sum += f64::from(*weight) * area;
                            n += f64::from(*weight);
                        }
                    }
                    (n > 0.0).then(|| sum / n)
                };
                let found = [
                    auc,
                    auc_padded,
                    mean(|areas| areas.auc),
                    mean(|areas| Some(areas.padded)),
                    ap,
                    ap_padded,
                    trapezoid,
                ];
                for (values, value) in figures.iter_mut().zip(found) {
                    values.extend(value);
                }
            }
        }
        let [
            auc,
            auc_padded,
            video_auc,
            video_auc_padded,
            ap,
            ap_padded,
            trapezoid,
        ] = figures.map(interval);
        Intervals {
            auc,
            auc_padded,
            video_auc,
            video_auc_padded,
            average_precision: ap,
            average_precision_padded: ap_padded,
            trapezoid,
        }
    }
}

/// `padding` says how many frames are ranked before each artificial one.
fn blocks(frames: &[RankedFrame], n_videos: usize, padding: [usize; 2]) -> Vec<Block> {
    let n_anomalous = frames.iter().filter(|frame| frame.is_anomalous).count() as u64;
    let n_normal = frames.len() as u64 - n_anomalous;
    let (most_anomalous, most_normal) = (n_anomalous / N_BLOCKS, n_normal / N_BLOCKS);
    let empty = || Block {
        anomalous: vec![0.0; n_videos],
        normal: vec![0.0; n_videos],
        padding: [0.0; 2],
    };
    let mut blocks = Vec::new();
    let (mut block, mut held) = (empty(), [0u64; 2]);
    let mut n_before = 0;
    let mut is_padded = [false; 2];
    for tied in frames.chunk_by(|a, b| a.is_tied_with(b)) {
        let anomalous = tied.iter().filter(|frame| frame.is_anomalous).count() as u64;
        let normal = tied.len() as u64 - anomalous;
        let is_full = held[0] + anomalous > most_anomalous || held[1] + normal > most_normal;
        if is_full && held != [0, 0] {
            blocks.push(std::mem::replace(&mut block, empty()));
            held = [0, 0];
        }
        for (label, at) in padding.iter().enumerate() {
            if !is_padded[label] && n_before >= *at {
                is_padded[label] = true;
                block.padding[label] += 1.0;
            }
        }
        held[0] += anomalous;
        held[1] += normal;
        for frame in tied {
            let counts = if frame.is_anomalous {
                &mut block.anomalous
            } else {
                &mut block.normal
            };
            counts[frame.video as usize] += 1.0;
        }
        n_before += tied.len();
    }
    for (label, is_padded) in is_padded.into_iter().enumerate() {
        block.padding[label] += f64::from(u8::from(!is_padded));
    }
    blocks.push(block);
    blocks
}

/// Anomalous and normal frames of every block in each of up to [`N_LANES`] resamples: `[lanes]` times `[B]`.
fn counted(blocks: &[Block], weights: &[Vec<f32>]) -> Vec<Vec<[f64; 2]>> {
    let n_videos = weights[0].len();
    let mut lanes = vec![[0f32; N_LANES]; n_videos];
    for (lane, weights) in weights.iter().enumerate() {
        for (video, weight) in weights.iter().enumerate() {
            lanes[video][lane] = *weight;
        }
    }
    let weigh = |counts: &[f32]| {
        let mut sums = [0f32; N_LANES];
        for (count, weights) in counts.iter().zip(&lanes) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += count * weight;
            }
        }
        sums
    };
    let mut counts = vec![Vec::with_capacity(blocks.len()); weights.len()];
    for block in blocks {
        let (anomalous, normal) = (weigh(&block.anomalous), weigh(&block.normal));
        for (lane, counts) in counts.iter_mut().enumerate() {
            counts.push([f64::from(anomalous[lane]), f64::from(normal[lane])]);
        }
    }
    counts
}

/// AUC, average precision and trapezoid of blocks, highest scores first.
fn sweep(blocks: impl Iterator<Item = [f64; 2]> + Clone) -> [Option<f64>; 3] {
    let n_anomalous: f64 = blocks.clone().map(|block| block[0]).sum();
    let (mut anomalous, mut normal, mut won) = (0.0, 0.0, 0.0);
    let (mut ap, mut trapezoid, mut last_precision) = (0.0, 0.0, 1.0);
    for [tied_anomalous, tied_normal] in blocks {
        won += tied_normal * (anomalous + tied_anomalous / 2.0);
        anomalous += tied_anomalous;
        normal += tied_normal;
        if anomalous + normal > 0.0 {
            let precision = anomalous / (anomalous + normal);
            ap += tied_anomalous * precision;
            trapezoid += tied_anomalous * (precision + last_precision) / 2.0;
            last_precision = precision;
        }
    }
    let has_anomalous = n_anomalous > 0.0;
    [
        (has_anomalous && normal > 0.0).then(|| won / (anomalous * normal)),
        has_anomalous.then(|| ap / n_anomalous),
        has_anomalous.then(|| trapezoid / n_anomalous),
    ]
}

/// The percentiles between which [`COVERAGE`] of the values lie, interpolated as NumPy does; none of fewer than two.
fn interval(mut values: Vec<f64>) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (low, rest) = (place as usize, place.fract());
        let high = (low + 1).min(values.len() - 1);
        values[low] + rest * (values[high] - values[low])
    };
    let outside = (1.0 - COVERAGE) / 2.0;
    Some([at(outside), at(1.0 - outside)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::referee::{
        pairing::PairedVideo,
        ranking::{areas_by_video, ranked},
    };

    fn videos(n_videos: usize, n_frames: usize, ties: f64) -> Vec<PairedVideo> {
        let mut rng = StageRng::new(7, "bootstrap tests", &[]);
        let video = |i: usize| {
            let labels: Vec<bool> = (0..n_frames).map(|t| t % 5 < i % 4).collect();
            let scores = labels
                .iter()
                .map(|label| ((rng.unit() + 0.3 * f64::from(u8::from(*label))) * ties).floor())
                .collect();
            PairedVideo {
                name: i.to_string(),
                scores,
                labels,
            }
        };
        (0..n_videos).map(video).collect()
    }

    /// Each resample's figure from its own frames.
    fn by_hand(videos: &[PairedVideo], resamples: &Resamples) -> Option<[f64; 2]> {
        let areas = resamples.weights.iter().filter_map(|weights| {
            let mut drawn: Vec<PairedVideo> = Vec::new();
            for (video, weight) in videos.iter().zip(weights) {
                drawn.extend((0..*weight as usize).map(|_| video.clone()));
            }
            let scores: Vec<_> = drawn.iter().map(|video| video.scores.clone()).collect();
            crate::referee::ranking::auc(&crate::referee::ranking::steps(&ranked(&drawn, &scores)))
        });
        interval(areas.collect())
    }

    fn check(videos: &[PairedVideo], tolerance: f64) {
        let resamples = Resamples::draw(60, videos.len(), 3);
        let scores: Vec<_> = videos.iter().map(|video| video.scores.clone()).collect();
        let frames = ranked(videos, &scores);
        let areas = areas_by_video(&frames, videos.len());
        let found = resamples.intervals(&frames, &areas, [0, frames.len()]);
        let (found, expected) = (found.auc.unwrap(), by_hand(videos, &resamples).unwrap());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
        assert!(found[0] < found[1]);
    }

    #[test]
    fn few_frames_give_the_interval_of_every_resample_computed_by_hand() {
        check(&videos(9, 20, 12.0), 1e-6);
    }

    #[test]
    fn many_frames_give_it_within_what_the_head_of_this_file_says() {
        check(&videos(6, 2000, 1e6), 1.0 / 512.0);
    }

    #[test]
    fn one_video_has_no_interval() {
        let videos = videos(1, 50, 5.0);
        let resamples = Resamples::draw(60, 1, 3);
        assert!(resamples.weights.is_empty());
        let scores = [videos[0].scores.clone()];
        let frames = ranked(&videos, &scores);
        let found = resamples.intervals(&frames, &areas_by_video(&frames, 1), [0, 0]);
        assert_eq!(found, Intervals::default());
    }
}
