//! Evaluation: every video of a benchmark is scored, and the scores are held against its labels by its protocol.

use lavida_data::Result;

use crate::{
    benchmark::{Benchmark, BenchmarkVideo},
    labels::{VideoLabels, labelled},
    model::ScoringModel,
    pixels::nearest,
    protocols::Protocol,
    report::{EvaluationReport, EvaluationSettings, PixelTally},
    scored::{ScoredPixels, ScoredVideo},
    windows::Windowing,
};

/// How a benchmark is to be scored.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationPlan {
    /// The rules.
    pub protocol: Protocol,
    /// Frames of a window.
    pub n_frames: usize,
    /// What else is asked of each video.
    pub control: Control,
    /// Whether the pixels of every video are held for whoever shows them, which is much memory for a large set.
    pub holds_pixels: bool,
}

/// What a benchmark is asked beside its question, to see what steers the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    #[default]
    None,
    /// Each video is scored again with its true categories out of the prompt, so that only absent ones are asked for.
    SwappedCategories,
}

/// A benchmark, scored.
pub struct Evaluation {
    /// The figures.
    pub report: EvaluationReport,
    /// What they were computed from, in the benchmark's order.
    pub videos: Vec<ScoredVideo>,
}

/// What becomes of an evaluation as it goes on, for whoever waits for it.
#[derive(Clone, Copy, Debug)]
pub enum EvaluationEvent<'a> {
    /// So many frames will be scored, a control's included.
    Begun {
        /// Frames.
        n_frames: usize,
    },
    /// A video is begun.
    Video {
        /// Its number, from 0.
        index: usize,
        /// Videos in all.
        n_videos: usize,
        /// Its name.
        name: &'a str,
    },
    /// One more frame is scored.
    Frame,
    /// A video is done. Of its frames those count, too, which no window reached.
    VideoDone {
        /// Frames of the videos up to here.
        n_frames_done: usize,
    },
}

/// Scores every video of a benchmark. `on` is told how far it is.
///
/// # Errors
///
/// [`Error::Invalid`](lavida_data::Error::Invalid) for a control that the set does not allow, and for a category that no prompt
/// can name; those of reading frames and of the model.
pub async fn evaluate(
    model: &ScoringModel,
    benchmark: &Benchmark,
    plan: &EvaluationPlan,
    on: &(dyn Fn(EvaluationEvent<'_>) + Sync),
) -> Result<Evaluation> {
    let n_passes = match plan.control {
        Control::None => 1,
        Control::SwappedCategories => {
            benchmark.check_swap_control()?;
            2
        }
    };
    let n_videos = benchmark.videos.len();
    let n_frames: usize = benchmark.videos.iter().map(|video| video.n_frames).sum();
    on(EvaluationEvent::Begun {
        n_frames: n_passes * n_frames,
    });
    let mut n_frames_done = 0;
    let mut n_left_out = 0;
    let mut videos = Vec::with_capacity(n_videos);
    let mut pixels = PixelTally::default();
    for (index, video) in benchmark.videos.iter().enumerate() {
        on(EvaluationEvent::Video {
            index,
            n_videos,
            name: &video.name,
        });
        let labels = labelled(benchmark, video, plan.protocol.labels).await?;
        if plan.protocol.abnormal_only && !labels.frames.contains(&true) {
            n_left_out += 1;
        } else {
            let asked = Asked {
                model,
                benchmark,
                video,
                plan,
            };
            videos.push(score_video(asked, labels, &mut pixels, on).await?);
        }
        n_frames_done += n_passes * video.n_frames;
        on(EvaluationEvent::VideoDone { n_frames_done });
    }
    let keep_ratio = model.settings.compression.keep_ratio.get();
    let mut settings = EvaluationSettings::of(plan, &benchmark.categories, keep_ratio);
    settings.drop_static_patches = model.settings.compression.drop_static_patches;
    let mut report = EvaluationReport::new(benchmark.name.clone(), settings, &videos, &pixels);
    report.left_out_videos = n_left_out;
    report.group(benchmark, &videos);
    Ok(Evaluation { report, videos })
}

/// A video and what is asked of it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    model: &'a ScoringModel,
    benchmark: &'a Benchmark,
    video: &'a BenchmarkVideo,
    plan: &'a EvaluationPlan,
}

async fn score_video(
    asked: Asked<'_>,
    labels: VideoLabels,
    pixels: &mut PixelTally,
    on: &(dyn Fn(EvaluationEvent<'_>) + Sync),
) -> Result<ScoredVideo> {
    let Asked {
        model,
        benchmark,
        video,
        plan,
    } = asked;
    let protocol = plan.protocol;
    let windowing = Windowing {
        n_frames: plan.n_frames,
        interval: protocol.interval,
        tail: protocol.tail,
    };
    let n_frames = video.n_frames;
    let held = labels.pixels.as_ref().filter(|_| plan.holds_pixels);
    let mut scored = ScoredVideo {
        video: video.name.clone(),
        object_logits: vec![0.0; n_frames],
        frame_labels: labels.frames,
        frames: (0..n_frames).collect(),
        swapped_object_logits: None,
        pixels: held.map(|_| ScoredPixels {
            mask_logits: vec![Vec::new(); n_frames],
            labels: vec![Vec::new(); n_frames],
        }),
    };
    let grid = benchmark.grid_of(video);
    let mut is_scored = vec![false; n_frames];
    let mut painted = Ok(());
    if let Some(labels) = &labels.pixels {
        pixels.begin_video(labels.has_masks);
    }
    let mut source = benchmark.source(video);
    let scoring = model.score(&mut source, windowing, &benchmark.categories, |frame| {
        on(EvaluationEvent::Frame);
        scored.object_logits[frame.frame] = frame.object_logit;
        is_scored[frame.frame] = true;
        let Some(known) = labels.pixels.as_ref().filter(|_| painted.is_ok()) else {
            return;
        };
        match known.frame(frame.frame, grid) {
            Ok(known) => {
                let mask_logits = nearest(frame.mask_logits, frame.side, grid);
                pixels.add_frame(&mask_logits, &known);
                if let Some(held) = &mut scored.pixels {
                    held.mask_logits[frame.frame] = mask_logits;
                    held.labels[frame.frame] = known.labels;
                }
            }
            Err(error) => painted = Err(error),
        }
    });
    scoring.await?;
    painted?;
    if plan.control == Control::SwappedCategories {
        let absent = benchmark.absent_categories(video);
        let mut swapped = vec![0.0; n_frames];
        let mut source = benchmark.source(video);
        let scoring = model.score(&mut source, windowing, &absent, |frame| {
            on(EvaluationEvent::Frame);
            swapped[frame.frame] = frame.object_logit;
        });
        scoring.await?;
        scored.swapped_object_logits = Some(swapped);
    }
    scored.keep(&is_scored);
    protocol.smoothing.apply(&mut scored.object_logits);
    if let Some(swapped) = &mut scored.swapped_object_logits {
        protocol.smoothing.apply(swapped);
    }
    Ok(scored)
}
