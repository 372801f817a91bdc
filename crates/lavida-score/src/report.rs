//! The figures that a benchmark reports: from scored videos to rankings, and from these to one document.
//!
//! Frame AUC and average precision rank all frames of all videos together; video AUC is the mean over the videos that have both
//! labels; pixel AUC ranks all pixels of all frames, each video on its own grid ([`pixels`](crate::pixels)). Where a benchmark
//! labels frames only, or does so for some videos, pixel figures are over the videos whose pixels are labelled, and the report
//! says how many these are. The reference pads every ranking of frames with two artificial points
//! ([`Metric::ReferencePadded`]).

use std::collections::BTreeSet;

use lavida_data::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{
    benchmark::Benchmark,
    evaluation::EvaluationPlan,
    labels::LabelledPixels,
    metrics::{Ranking, auc, padded},
    pixel_ranking::PixelRanking,
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
    /// Videos that the protocol leaves out: the normal ones, where it scores abnormal videos alone.
    pub left_out_videos: usize,
    /// Area under the ROC curve over all frames; null unless both labels occur.
    pub frame_auc: Option<f64>,
    /// Average precision over all frames.
    pub frame_ap: Option<f64>,
    /// Mean of the per-video areas.
    pub video_auc: Option<f64>,
    /// Area over all pixels of the videos whose pixels are labelled; null unless both labels occur.
    pub pixel_auc: Option<f64>,
    /// How far the exact pixel AUC may lie from it, at most; 0 where it is exact ([`PixelRanking`]).
    pub pixel_auc_bound: Option<f64>,
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
    /// By category that the set says a video shows: the videos that show it, with all normal ones.
    pub per_class: Vec<GroupReport>,
    /// By scene, where the benchmark's names say it.
    pub per_scene: Vec<GroupReport>,
    /// By video, in the benchmark's order.
    pub per_video: Vec<VideoReport>,
}

/// Figures of some of the videos, their frames ranked together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The category or the scene.
    pub name: String,
    /// Videos.
    pub videos: usize,
    /// Frames.
    pub frames: usize,
    /// Area under the ROC curve; null unless both labels occur.
    pub frame_auc: Option<f64>,
    /// Average precision.
    pub frame_ap: Option<f64>,
}

/// The pixels of all videos so far, ranked as they come.
#[derive(Clone, Debug, Default)]
pub struct PixelTally {
    all: PixelRanking,
    on_objects: PixelRanking,
    n_videos: usize,
    n_with_masks: usize,
}

impl PixelTally {
    /// A video whose pixels are labelled.
    pub(crate) fn begin_video(&mut self, has_masks: bool) {
        self.n_videos += 1;
        self.n_with_masks += usize::from(has_masks);
    }

    /// A frame of it.
    pub(crate) fn add_frame(&mut self, mask_logits: &[f32], known: &LabelledPixels) {
        self.all.extend(mask_logits, &known.labels);
        if let Some((scores, labels)) = known.on_objects(mask_logits) {
            self.on_objects.extend(&scores, &labels);
        }
    }
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
    /// Abnormal videos alone are scored, as the reference does on UBnormal.
    pub abnormal_only: bool,
    /// Standard deviation of the Gaussian filter over the scores of a video, in frames; 0 is none.
    pub smoothing_sigma_frames: f64,
    /// Share of visual tokens kept.
    pub keep_ratio: f64,
    /// Whether patches that look like the first frame's are left out.
    pub drop_static_patches: bool,
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
            abnormal_only: protocol.abnormal_only,
            smoothing_sigma_frames: protocol.smoothing.sigma_frames(),
            keep_ratio,
            drop_static_patches: false,
        }
    }
}

impl EvaluationReport {
    /// The figures of a benchmark.
    pub fn new(
        benchmark: String,
        settings: EvaluationSettings,
        videos: &[ScoredVideo],
        pixels: &PixelTally,
    ) -> Self {
        let pads = settings.reference_metrics;
        let frames = pooled(videos, pads, |v| Some(&v.object_logits));
        let per_video: Vec<_> = videos.iter().map(|v| VideoReport::new(v, pads)).collect();
        let aucs: Vec<f64> = per_video.iter().filter_map(|v| v.frame_auc).collect();
        let swapped = pooled(videos, pads, |v| v.swapped_object_logits.as_deref());
        let pixel_auc = pixels.all.auc();
        Self {
            benchmark,
            frames: videos.iter().map(|v| v.object_logits.len()).sum(),
            // One that no window reached is no video of these figures.
            videos: videos
                .iter()
                .filter(|video| !video.object_logits.is_empty())
                .count(),
            frame_auc: frames.auc(),
            frame_ap: frames.average_precision(),
            video_auc: (!aucs.is_empty()).then(|| aucs.iter().sum::<f64>() / aucs.len() as f64),
            pixel_auc: pixel_auc.map(|found| found.area),
            pixel_auc_bound: pixel_auc.map(|found| found.bound),
            pixel_videos: pixels.n_videos,
            mask_videos: pixels.n_with_masks,
            target_vs_others_pixel_auc: pixels.on_objects.auc().map(|found| found.area),
            swapped_frame_auc: swapped.auc(),
            settings,
            left_out_videos: 0,
            per_class: Vec::new(),
            per_scene: Vec::new(),
            per_video,
        }
    }

    /// Adds the figures by category and by scene, as far as the benchmark knows them.
    pub fn group(&mut self, benchmark: &Benchmark, videos: &[ScoredVideo]) {
        let pads = self.settings.reference_metrics;
        let report = |name: &str, of: &dyn Fn(&ScoredVideo) -> bool| {
            let chosen: Vec<&ScoredVideo> = videos.iter().filter(|video| of(video)).collect();
            let ranking = pooled(chosen.iter().copied(), pads, |v| Some(&v.object_logits));
            GroupReport {
                name: name.to_owned(),
                videos: chosen.len(),
                frames: chosen.iter().map(|video| video.object_logits.len()).sum(),
                frame_auc: ranking.auc(),
                frame_ap: ranking.average_precision(),
            }
        };
        let shows = |video: &ScoredVideo, category: &String| {
            let shown = benchmark.true_categories.get(&video.video);
            shown.is_some_and(|shown| shown.contains(category))
        };
        let is_normal = |video: &ScoredVideo| !video.frame_labels.contains(&true);
        let known: BTreeSet<&String> = benchmark.true_categories.values().flatten().collect();
        self.per_class = known
            .into_iter()
            .filter(|category| videos.iter().any(|video| shows(video, category)))
            .map(|category| {
                report(category, &|video| {
                    shows(video, category) || is_normal(video)
                })
            })
            .collect();
        let scene = |video: &ScoredVideo| benchmark.scene_of(&video.video).map(str::to_owned);
        let scenes: BTreeSet<String> = videos.iter().filter_map(scene).collect();
        self.per_scene = scenes
            .iter()
            .map(|name| report(name, &|video| scene(video).as_ref() == Some(name)))
            .collect();
    }
}

/// `video,frame,score,label`, a line a scored frame.
///
/// # Errors
///
/// [`Error::Internal`] when the table cannot be made: a bug.
pub fn scores_table(videos: &[ScoredVideo]) -> Result<Vec<u8>> {
    let failed =
        |error: &dyn std::fmt::Display| Error::Internal(format!("a table of scores: {error}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    let mut write = |record: [&str; 4]| table.write_record(record).map_err(|error| failed(&error));
    write(["video", "frame", "score", "label"])?;
    for video in videos {
        let frames = video
            .frames
            .iter()
            .zip(&video.object_logits)
            .zip(&video.frame_labels);
        for ((frame, score), label) in frames {
            let label = if *label { "1" } else { "0" };
            write([&video.video, &frame.to_string(), &score.to_string(), label])?;
        }
    }
    table.into_inner().map_err(|error| failed(&error))
}

/// The frames of all videos that have such scores, in one ranking; padded once, over the concatenation.
fn pooled<'a>(
    videos: impl IntoIterator<Item = &'a ScoredVideo>,
    pads: bool,
    pick: fn(&ScoredVideo) -> Option<&[f32]>,
) -> Ranking {
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

    fn settings() -> EvaluationSettings {
        EvaluationSettings {
            categories: vec!["car".into()],
            n_frames: 4,
            interval: 1,
            reference_metrics: false,
            reference_windows: false,
            abnormal_only: false,
            smoothing_sigma_frames: 0.0,
            keep_ratio: 0.5,
            drop_static_patches: false,
        }
    }

    #[test]
    fn target_against_others_ignores_the_background() {
        let video = ScoredVideo {
            video: "v".into(),
            object_logits: vec![1.0, -1.0],
            frame_labels: vec![true, false],
            swapped_object_logits: Some(vec![0.0, 0.0]),
            ..ScoredVideo::default()
        };
        let labels_only = ScoredVideo {
            object_logits: vec![2.0],
            frame_labels: vec![true],
            ..ScoredVideo::default()
        };
        let mut pixels = PixelTally::default();
        pixels.begin_video(true);
        for (mask_logits, labels, others) in [
            ([0.1, 0.2], [true, false], [false, true]),
            ([0.9, 0.3], [false, false], [false, false]),
        ] {
            let known = LabelledPixels {
                labels: labels.to_vec(),
                others: Some(others.to_vec()),
            };
            pixels.add_frame(&mask_logits, &known);
        }
        let videos = [video, labels_only];
        let report = EvaluationReport::new("b".into(), settings(), &videos, &pixels);
        assert_eq!((report.videos, report.pixel_videos), (2, 1));
        assert_eq!(report.target_vs_others_pixel_auc, Some(0.0));
        assert_eq!(
            (report.pixel_auc, report.pixel_auc_bound),
            (Some(0.0), Some(0.0))
        );
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
        let pixels = PixelTally::default();
        let report = EvaluationReport::new("b".into(), settings(), &[video], &pixels);
        assert_eq!((report.frame_auc, report.pixel_auc), (None, None));
        assert_eq!((report.frames, report.pixel_videos), (1, 0));
    }
}
