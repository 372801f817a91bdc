//! Evaluation: every video of a benchmark is scored, and the scores are held against its labels by its protocol.

use lavida_data::Result;

use crate::{
    benchmark::{Benchmark, BenchmarkVideo},
    labels::labelled,
    model::ScoringModel,
    pixels::nearest,
    protocols::Protocol,
    report::{EvaluationReport, EvaluationSettings},
    scored::ScoredVideo,
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
    let mut videos = Vec::with_capacity(n_videos);
    for (index, video) in benchmark.videos.iter().enumerate() {
        on(EvaluationEvent::Video {
            index,
            n_videos,
            name: &video.name,
        });
        videos.push(score_video(model, benchmark, video, plan, on).await?);
        n_frames_done += n_passes * video.n_frames;
        on(EvaluationEvent::VideoDone { n_frames_done });
    }
    let keep_ratio = model.settings.compression.keep_ratio.get();
    let settings = EvaluationSettings::of(plan, &benchmark.categories, keep_ratio);
    Ok(Evaluation {
        report: EvaluationReport::new(benchmark.name.clone(), settings, &videos),
        videos,
    })
}

async fn score_video(
    model: &ScoringModel,
    benchmark: &Benchmark,
    video: &BenchmarkVideo,
    plan: &EvaluationPlan,
    on: &(dyn Fn(EvaluationEvent<'_>) + Sync),
) -> Result<ScoredVideo> {
    let protocol = plan.protocol;
    let windowing = Windowing {
        n_frames: plan.n_frames,
        interval: protocol.interval,
        tail: protocol.tail,
    };
    let mut scored = labelled(benchmark, video, protocol.labels).await?;
    let grid = benchmark.grid_of(video);
    let mut is_scored = vec![false; video.n_frames];
    let mut source = benchmark.source(video);
    let scoring = model.score(&mut source, windowing, &benchmark.categories, |frame| {
        on(EvaluationEvent::Frame);
        scored.object_logits[frame.frame] = frame.object_logit;
        is_scored[frame.frame] = true;
        if let Some(pixels) = &mut scored.pixels {
            let n = pixels.n_pixels;
            pixels.mask_logits[frame.frame * n..][..n].copy_from_slice(&nearest(
                frame.mask_logits,
                frame.side,
                grid,
            ));
        }
    });
    scoring.await?;
    if plan.control == Control::SwappedCategories {
        let absent = benchmark.absent_categories(video);
        let mut swapped = vec![0.0; video.n_frames];
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
