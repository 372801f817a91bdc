//! `lavida predict`: one video in, one score a frame out, with pictures of where.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use lavida_data::{Error, video::VideoReader};
use lavida_report::{canvas::Image, overlay::MaskStyle, plot::ScorePlot, sheet::masked_frame};
use lavida_score::{
    frames::FrameSource,
    pixels::mask_of_logits,
    scored::ScoredFrame,
    windows::{EvalWindow, Tail, Windowing},
};
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
};
use serde_json::json;

use crate::{
    output::{Outputs, file_name},
    scoring::{categories, open_model},
};

/// Frames between two pictures, so that they do not all show the same moment: a share of the video.
const PICTURE_SPACING: usize = 40;
/// Largest picture written, px.
const PICTURE_PX: u32 = 960;
/// What is written beside the pictures; the scores last, so that who finds them finds all of it.
const DOCUMENTS: [&str; 3] = ["scores.svg", "scores.png", "scores.json"];

#[derive(Debug, Args)]
pub struct PredictArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// An H.264 mp4 file or a folder of frames
    #[arg(long, value_name = "PATH")]
    pub video: PathBuf,
    /// What to look for, separated by commas
    #[arg(long, value_name = "LIST")]
    pub categories: String,
    /// Folder or bucket for scores.json, scores.svg and pictures; those that predict wrote there before are replaced
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Score every Nth frame and let it stand for those up to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub interval: usize,
    /// Overlay pictures to write, of the highest scores
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub pictures: usize,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub async fn run(args: PredictArgs) -> anyhow::Result<()> {
    let asked = categories(&args.categories)?;
    if args.interval == 0 {
        return Err(Error::invalid("--interval", "at least 1", "0").into());
    }
    let info = VideoReader::open(&args.video)?.info();
    let outputs = Outputs::open(&args.out, "predict").await?;
    outputs.check_apart(&args.video)?;
    let may_be_written = |name: &str| {
        DOCUMENTS.contains(&name)
            || frame_of(name).is_some_and(|frame| frame < info.n_frames_expected)
    };
    outputs.check_free(may_be_written).await?;
    let model = open_model(&args.checkpoint, &args.set).await?;
    outputs.try_writing().await?;
    let windowing = Windowing {
        n_frames: model.settings.sampler.n_frames,
        interval: args.interval,
        tail: Tail::Aligned,
    };
    let n_frames = info.n_frames_expected;
    let mut object_logits = vec![f32::NAN; n_frames];
    let mut best = BestMasks::new(args.pictures, n_frames);
    let progress = Progress::new("predict", Unit::Each("frame"), n_frames as u64);
    let mut source = FrameSource::file(&args.video)?;
    let mut sink = |frame: ScoredFrame<'_>| {
        object_logits[frame.frame] = frame.object_logit;
        best.offer(frame);
        progress.add(1);
    };
    let scoring = model.score(&mut source, windowing, &asked, &mut sink).await;
    let mut times = source.times().to_vec();
    let fault = match scoring {
        Ok(()) => None,
        Err(fault @ Error::Corrupt { .. }) if !times.is_empty() => Some(fault),
        Err(error) => return Err(error.into()),
    };
    if fault.is_some() {
        // The last window ends where the good frames do; those before it are as they were planned.
        let is_left = |window: &EvalWindow| {
            let mut scored = window.scored.iter().flat_map(Clone::clone);
            scored.any(|frame| object_logits[frame].is_nan())
        };
        let windows = windowing.windows(times.len());
        let windows: Vec<EvalWindow> = windows.into_iter().filter(is_left).collect();
        let mut source = FrameSource::file(&args.video)?;
        let mut sink = |frame: ScoredFrame<'_>| {
            object_logits[frame.frame] = frame.object_logit;
            best.offer(frame);
            progress.add(1);
        };
        model
            .score_windows(&mut source, &windows, &asked, &mut sink)
            .await?;
        object_logits.truncate(times.len());
    }
    drop(progress);
    times.truncate(object_logits.len());
    let n_scored = object_logits.len();
    let mut files = pictures(&args.video, best.chosen(n_scored))?;
    let n_pictures = files.len();
    let seconds = |frame: usize| times.get(frame).copied().unwrap_or_default();
    let mut document = json!({
        "video": args.video.display().to_string(),
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "categories": asked,
        "frames": object_logits.iter().enumerate().map(|(frame, object_logit)| {
            json!({ "frame": frame, "time": seconds(frame), "score": object_logit })
        }).collect::<Vec<_>>(),
    });
    if let Some(fault) = &fault {
        document["fault"] = json!({
            "after_frames": n_scored,
            "of_frames": n_frames,
            "what": fault.to_string(),
        });
    }
    let plot = ScorePlot {
        title: format!("{}: {}", file_name(&args.video), asked.join(", ")),
        scores: object_logits,
        fps: info.fps,
        y_label: "object score (logit)".into(),
        width: 960.0,
        height: 280.0,
        ..ScorePlot::default()
    };
    let documents = [
        plot.drawing().svg().into_bytes(),
        plot.drawing().image(2.0).png(),
        serde_json::to_vec_pretty(&document)?,
    ];
    let documents = DOCUMENTS.into_iter().zip(documents);
    files.extend(documents.map(|(name, bytes)| (name.to_owned(), bytes.into())));
    outputs.replace(files).await?;
    let highest = plot.highest_frame().unwrap_or_default();
    screen::line(&format!(
        "predict: {n_scored} frames, highest score {:.3} at frame {highest} ({:.2} s); scores.json, scores.svg, scores.png and \
         {n_pictures} pictures in {}",
        plot.scores.get(highest).copied().unwrap_or(f32::NAN),
        seconds(highest),
        args.out
    ));
    match fault {
        None => Ok(()),
        Some(fault) => {
            screen::line(&format!(
                "predict: the scores end after {n_scored} of {n_frames} frames, where the video is damaged"
            ));
            Err(fault.into())
        }
    }
}

/// The frame of a picture's name.
fn frame_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("frame-")?.strip_suffix(".png")?;
    (digits.len() >= 6).then(|| digits.parse().ok())?
}

/// Masks of the highest scores, at most one every so many frames.
struct BestMasks {
    n: usize,
    spacing: usize,
    by_bin: Vec<Option<ChosenMask>>,
}

/// One mask to draw.
struct ChosenMask {
    frame: usize,
    object_logit: f32,
    mask_logits: Vec<f32>,
    side: usize,
}

impl BestMasks {
    fn new(n: usize, n_frames: usize) -> Self {
        let spacing = (n_frames / PICTURE_SPACING).max(1);
        Self {
            n,
            spacing,
            by_bin: (0..n_frames.div_ceil(spacing)).map(|_| None).collect(),
        }
    }

    fn offer(&mut self, scored: ScoredFrame<'_>) {
        if scored.frame != scored.looked_at {
            return; // a mask on a frame that the model did not see would mislead
        }
        let bin = &mut self.by_bin[scored.frame / self.spacing];
        let is_better = |best: &ChosenMask| scored.object_logit > best.object_logit;
        if bin.as_ref().is_none_or(is_better) {
            *bin = Some(ChosenMask {
                frame: scored.frame,
                object_logit: scored.object_logit,
                mask_logits: scored.mask_logits.to_vec(),
                side: scored.side,
            });
        }
    }

    /// The highest of the first `n_scored` frames.
    fn chosen(self, n_scored: usize) -> Vec<ChosenMask> {
        let chosen = self.by_bin.into_iter().flatten();
        let mut chosen: Vec<ChosenMask> = chosen.filter(|c| c.frame < n_scored).collect();
        chosen.sort_by(|a, b| b.object_logit.total_cmp(&a.object_logit));
        chosen.truncate(self.n);
        chosen
    }
}

/// Draws the chosen masks on their frames, in a second pass over the video.
fn pictures(video: &Path, chosen: Vec<ChosenMask>) -> anyhow::Result<Vec<(String, Bytes)>> {
    let mut pictures = Vec::with_capacity(chosen.len());
    let Some(last) = chosen.iter().map(|c| c.frame).max() else {
        return Ok(pictures);
    };
    let n_frames = last + 1;
    let progress = Progress::brief("predict: pictures", Unit::Each("frame"), n_frames as u64);
    for frame in VideoReader::open(video)?.take(n_frames) {
        progress.add(1);
        let frame = frame?;
        let Some(best) = chosen.iter().find(|c| c.frame == frame.index) else {
            continue;
        };
        let (width, height) = (frame.image.width, frame.image.height);
        let image = Image::from_rgb(width, height, frame.image.pixels);
        let mask = mask_of_logits(&best.mask_logits, best.side, width, height);
        let style = MaskStyle::prediction();
        let picture = masked_frame(&image, &[(&mask, style)], PICTURE_PX, PICTURE_PX);
        let name = format!("frame-{:06}.png", best.frame);
        pictures.push((name, picture.png().into()));
    }
    Ok(pictures)
}
