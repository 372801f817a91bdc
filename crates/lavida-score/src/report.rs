//! The figures that a benchmark reports: from scored videos to rankings, and from these to one document.
//!
//! Frame AUC and average precision rank all frames of all videos together; video AUC is the mean over the videos that have both
//! labels; pixel AUC ranks all pixels of all frames, each video on its own grid ([`pixels`](crate::pixels)). Where a benchmark
//! labels frames only, or does so for some videos, pixel figures are over the videos whose pixels are labelled, and the report
//! says how many these are. The reference pads every ranking of frames with two artificial points
//! ([`Metric::ReferencePadded`]).

use serde::{Deserialize, Serialize};

use crate::{
    evaluation::EvaluationPlan,
    metrics::{Ranking, auc, padded},
    protocols::Metric,
    scored::ScoredVideo,
    windows::Tail,
};

/// What `lavida eval --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Name of the evaluation set.
    pub benchmark: String,
    /// Frames scored.
    pub frames: usize,
    /// Videos scored.
    pub videos: usize,
    /// Area under the ROC curve over all frames; null unless both labels occur.
    pub frame_auc: Option<f64>,
    /// Average precision over all frames.
    pub frame_ap: Option<f64>,
    /// Mean of the per-video areas.
    pub video_auc: Option<f64>,
    /// Area over all pixels of the videos whose pixels are labelled; null unless both labels occur.
    pub pixel_auc: Option<f64>,
    /// Videos whose pixels are labelled: the pixel figures are over these.
    pub pixel_videos: usize,
    /// Those of them with a mask of an anomaly; the others are normal throughout.
    pub mask_videos: usize,
    /// Area over the pixels of anomalous objects against those of other objects.
    pub target_vs_others_pixel_auc: Option<f64>,
    /// Frame AUC with each video's true category swapped for an absent one: 0.5 when the text steers.
    pub swapped_frame_auc: Option<f64>,
    /// How this was scored.
    pub settings: EvaluationSettings,
    /// By video, in the benchmark's order.
    pub per_video: Vec<VideoReport>,
}

/// Figures of one video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoReport {
    /// Its name.
    pub video: String,
    /// Frames scored.
    pub frames: usize,
    /// Frames labelled anomalous.
    pub anomalous_frames: usize,
    /// Area under its own ROC curve; null unless both labels occur.
    pub frame_auc: Option<f64>,
    /// Mean score of its frames; null where none is scored.
    pub mean_score: Option<f64>,
}

/// How a benchmark is scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Categories asked for.
    pub categories: Vec<String>,
    /// Frames of a window.
    pub n_frames: usize,
    /// Every how many frames one is scored.
    pub interval: usize,
    /// The reference's artificial end points.
    pub reference_metrics: bool,
    /// The reference's windows: tails and short videos dropped.
    pub reference_windows: bool,
    /// Share of visual tokens kept.
    pub keep_ratio: f64,
}

impl EvaluationSettings {
    /// How a plan scores, asking for these categories of a model that keeps this share of its visual tokens.
    pub fn of(plan: &EvaluationPlan, categories: &[String], keep_ratio: f64) -> Self {
        let protocol = plan.protocol;
        Self {
            categories: categories.to_vec(),
            n_frames: plan.n_frames,
            interval: protocol.interval,
            reference_metrics: protocol.metric == Metric::ReferencePadded,
            reference_windows: protocol.tail == Tail::Dropped,
            keep_ratio,
        }
    }
}

impl EvaluationReport {
    /// The figures of a benchmark.
    pub fn new(benchmark: String, settings: EvaluationSettings, videos: &[ScoredVideo]) -> Self {
        let pads = settings.reference_metrics;
        let frames = pooled(videos, pads, |v| Some(&v.object_logits));
        let per_video: Vec<_> = videos.iter().map(|v| VideoReport::new(v, pads)).collect();
        let aucs: Vec<f64> = per_video.iter().filter_map(|v| v.frame_auc).collect();
        let swapped = pooled(videos, pads, |v| v.swapped_object_logits.as_deref());
        let mut pixels = Ranking::default();
        let mut objects = Ranking::default();
        let (mut pixel_videos, mut mask_videos) = (0, 0);
        // One that no window reached is no video of these figures.
        let scored = || videos.iter().filter(|v| !v.object_logits.is_empty());
        for video in scored().filter_map(|video| video.pixels.as_ref()) {
            pixel_videos += 1;
            mask_videos += usize::from(video.has_masks);
            pixels.extend(&video.mask_logits, &video.labels);
            if let Some((scores, labels)) = video.on_objects() {
                objects.extend(&scores, &labels);
            }
        }
        Self {
            benchmark,
            frames: videos.iter().map(|v| v.object_logits.len()).sum(),
            videos: scored().count(),
            frame_auc: frames.auc(),
            frame_ap: frames.average_precision(),
            video_auc: (!aucs.is_empty()).then(|| aucs.iter().sum::<f64>() / aucs.len() as f64),
            pixel_auc: pixels.auc(),
            pixel_videos,
            mask_videos,
            target_vs_others_pixel_auc: objects.auc(),
            swapped_frame_auc: swapped.auc(),
            settings,
            per_video,
        }
    }
}

/// The frames of all videos that have such scores, in one ranking; padded once, over the concatenation.
fn pooled(videos: &[ScoredVideo], pads: bool, pick: fn(&ScoredVideo) -> Option<&[f32]>) -> Ranking {
    let mut ranking = Ranking::default();
    for video in videos {
        if let Some(scores) = pick(video) {
            ranking.extend(scores, &video.frame_labels);
        }
    }
    if pads && !ranking.is_empty() {
        ranking.extend(&[0.0, 1.0], &[false, true]);
    }
    ranking
}

impl VideoReport {
    fn new(video: &ScoredVideo, pads: bool) -> Self {
        let n = video.object_logits.len();
        let sum: f64 = video.object_logits.iter().map(|s| f64::from(*s)).sum();
        let (scores, labels) = if pads {
            padded(&video.object_logits, &video.frame_labels)
        } else {
            (video.object_logits.clone(), video.frame_labels.clone())
        };
        Self {
            video: video.video.clone(),
            frames: n,
            anomalous_frames: video.frame_labels.iter().filter(|l| **l).count(),
            frame_auc: auc(&scores, &labels),
            mean_score: (n > 0).then(|| sum / n as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scored::ScoredPixels;

    fn settings() -> EvaluationSettings {
        EvaluationSettings {
            categories: vec!["car".into()],
            n_frames: 4,
            interval: 1,
            reference_metrics: false,
            reference_windows: false,
            keep_ratio: 0.5,
        }
    }

    #[test]
    fn target_against_others_ignores_the_background() {
        let video = ScoredVideo {
            video: "v".into(),
            object_logits: vec![1.0, -1.0],
            frame_labels: vec![true, false],
            swapped_object_logits: Some(vec![0.0, 0.0]),
            pixels: Some(ScoredPixels {
                n_pixels: 2,
                has_masks: true,
                mask_logits: vec![0.1, 0.2, 0.9, 0.3],
                labels: vec![true, false, false, false],
                other_objects: Some(vec![false, true, false, false]),
            }),
        };
        let labels_only = ScoredVideo {
            object_logits: vec![2.0],
            frame_labels: vec![true],
            ..ScoredVideo::default()
        };
        let report = EvaluationReport::new("b".into(), settings(), &[video, labels_only]);
        assert_eq!((report.videos, report.pixel_videos), (2, 1));
        assert_eq!(report.target_vs_others_pixel_auc, Some(0.0));
        assert_eq!(report.pixel_auc, Some(0.0));
        assert_eq!(report.frame_auc, Some(1.0));
        assert_eq!(report.swapped_frame_auc, Some(0.5));
    }

    #[test]
    fn a_benchmark_without_anomalies_has_no_auc_but_a_report() {
        let video = ScoredVideo {
            object_logits: vec![0.5],
            frame_labels: vec![false],
            ..ScoredVideo::default()
        };
        let report = EvaluationReport::new("b".into(), settings(), &[video]);
        assert_eq!((report.frame_auc, report.pixel_auc), (None, None));
        assert_eq!((report.frames, report.pixel_videos), (1, 0));
    }
}
