//! `lavida eval`: a built evaluation set in, the benchmark's figures out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lavida_data::{
    Error, Result,
    catalog::{Catalog, DataSource},
    clip::Clip,
    manifest::Purpose,
    mask::RleMask,
};
use lavida_terminal::progress::{Progress, Unit};
use lavida_train::evaluation::{
    EvaluationReport, EvaluationSettings, PIXEL_GRID, PixelScores, VideoScores,
};

use crate::{
    cli,
    scoring::{FrameSource, Model, Windowing, categories},
};

/// An evaluation set, opened.
pub struct Benchmark {
    pub name: String,
    pub catalog: Arc<Catalog>,
    pub categories: Vec<String>,
    pub true_categories: BTreeMap<String, Vec<String>>,
    pub videos: Vec<BenchmarkVideo>,
}

/// One video of a benchmark.
#[derive(Clone)]
pub struct BenchmarkVideo {
    pub name: String,
    /// First frame → row of the catalog.
    pub rows: BTreeMap<usize, usize>,
    pub n_frames: usize,
}

pub async fn run(args: cli::Eval) -> anyhow::Result<()> {
    let asked = args.categories.as_deref().map(categories).transpose()?;
    let benchmark = Benchmark::open(&args.data, asked).await?;
    let model = Model::open(&args.checkpoint, &args.set).await?;
    let windowing = Windowing {
        n_frames: args.n_frames.unwrap_or(model.settings.sampler.n_frames),
        interval: args.interval,
        reference_windows: args.reference_windows,
    };
    if windowing.n_frames == 0 || windowing.interval == 0 {
        return Err(Error::invalid("--n-frames, --interval", "at least 1", "0").into());
    }
    let progress = Progress::new("eval", Unit::Each("frame"), 0);
    let (report, _) = evaluate(
        &model,
        &benchmark,
        windowing,
        args.reference_metrics,
        args.swap_control,
        &progress,
    )
    .await?;
    drop(progress);
    if args.json {
        let json = serde_json::to_string_pretty(&report)?;
        crate::print_document(&json)?;
    } else {
        crate::print_document(&table(&report))?;
    }
    Ok(())
}

impl Benchmark {
    /// Opens an evaluation set; `asked` replaces its categories.
    pub async fn open(uri: &str, asked: Option<Vec<String>>) -> Result<Self> {
        let source = DataSource {
            uri: uri.to_owned(),
            weight: None,
        };
        let catalog = Catalog::open(&[source], Purpose::Evaluation).await?;
        let header = &catalog.datasets()[0].header;
        let categories = asked.or_else(|| header.eval_categories.clone());
        let categories = categories.ok_or_else(|| {
            let expected = "categories to ask for: the set names none, give --categories";
            Error::invalid(uri, expected, "none")
        })?;
        let mut order: Vec<&str> = Vec::new();
        let mut rows: BTreeMap<&str, BenchmarkVideo> = BTreeMap::new();
        for (row, entry) in catalog.entries().iter().enumerate() {
            let video = rows.entry(&entry.video).or_insert_with(|| {
                order.push(&entry.video);
                BenchmarkVideo {
                    name: entry.video.clone(),
                    rows: BTreeMap::new(),
                    n_frames: 0,
                }
            });
            video.rows.insert(entry.first_frame as usize, row);
            let end = (entry.first_frame + entry.n_frames) as usize;
            video.n_frames = video.n_frames.max(end);
        }
        let videos = order.iter().map(|name| rows[name].clone()).collect();
        Ok(Self {
            name: header.dataset.clone(),
            categories,
            true_categories: header.true_categories.clone(),
            videos,
            catalog: Arc::new(catalog),
        })
    }

    /// What is asked for and not in the video, as far as the set knows.
    fn absent_categories(&self, video: &BenchmarkVideo) -> Vec<String> {
        let truth = self.true_categories.get(&video.name);
        let shown: BTreeSet<&String> = truth.into_iter().flatten().collect();
        let asked = self.categories.iter();
        asked.filter(|c| !shown.contains(c)).cloned().collect()
    }

    /// Whether every video can be asked for categories that it does not show.
    fn check_swap_control(&self) -> Result<()> {
        let refused =
            |expected: &str, found: String| Err(Error::invalid("--swap-control", expected, found));
        if self.true_categories.is_empty() {
            let expected = "a set that knows each video's true categories";
            return refused(expected, self.name.clone());
        }
        let mut videos = self.videos.iter();
        match videos.find(|video| self.absent_categories(video).is_empty()) {
            None => Ok(()),
            Some(video) => refused(
                "a category for each video that it does not show",
                format!("{}, which shows all that are asked for", video.name),
            ),
        }
    }

    /// Whether any video has a mask that says where its anomaly is. Without one (UCF-Crime, XD-Violence) the pixels of a
    /// normal video are of no use either.
    fn has_masks(&self) -> bool {
        let mut objects = self.catalog.entries().iter().flat_map(|row| &row.objects);
        objects.any(|object| object.anomalous == Some(true))
    }

    /// The frames of one video.
    pub fn source(&self, video: &BenchmarkVideo) -> FrameSource {
        FrameSource::Rows {
            catalog: self.catalog.clone(),
            video: video.name.clone(),
            rows: video.rows.clone(),
            n_frames: video.n_frames,
            decoded: None,
        }
    }
}

/// Scores every video. With `swap_control` each is scored again with its true categories out of the prompt, so that only
/// absent ones are asked for. `progress` is told of every frame.
pub async fn evaluate(
    model: &Model,
    benchmark: &Benchmark,
    windowing: Windowing,
    reference_metrics: bool,
    swap_control: bool,
    progress: &Progress,
) -> Result<(EvaluationReport, Vec<VideoScores>)> {
    if swap_control {
        benchmark.check_swap_control()?;
    }
    let n_videos = benchmark.videos.len();
    let n_frames: usize = benchmark.videos.iter().map(|video| video.n_frames).sum();
    let n_passes = if swap_control { 2 } else { 1 };
    progress.set_total((n_passes * n_frames) as u64);
    let mut n_before = 0;
    let mut videos = Vec::with_capacity(n_videos);
    for (video_idx, video) in benchmark.videos.iter().enumerate() {
        progress.say(format!("video {}/{n_videos} {}", video_idx + 1, video.name));
        let mut scores = labelled(benchmark, video).await?;
        let grid = grid_of(benchmark, video);
        let mut scored = vec![false; video.n_frames];
        model
            .score(
                &mut benchmark.source(video),
                windowing,
                &benchmark.categories,
                |frame| {
                    progress.add(1);
                    scores.frame_scores[frame.frame] = frame.score;
                    scored[frame.frame] = true;
                    if let Some(pixels) = &mut scores.pixels {
                        let n = pixels.n_pixels;
                        pixels.scores[frame.frame * n..][..n]
                            .copy_from_slice(&nearest(frame.mask, frame.side, grid));
                    }
                },
            )
            .await?;
        if swap_control {
            let absent = benchmark.absent_categories(video);
            let mut swapped = vec![0.0; video.n_frames];
            model
                .score(&mut benchmark.source(video), windowing, &absent, |frame| {
                    progress.add(1);
                    swapped[frame.frame] = frame.score;
                })
                .await?;
            scores.swapped_scores = Some(swapped);
        }
        keep_scored(&mut scores, &scored);
        n_before += n_passes * video.n_frames;
        progress.set(n_before as u64); // frames that no window reaches are done too
        videos.push(scores);
    }
    let settings = EvaluationSettings {
        categories: benchmark.categories.clone(),
        n_frames: windowing.n_frames,
        interval: windowing.interval,
        reference_metrics,
        reference_windows: windowing.reference_windows,
        keep_ratio: model.settings.compression.keep_ratio,
    };
    let report = EvaluationReport::new(benchmark.name.clone(), settings, &videos);
    Ok((report, videos))
}

/// The grid pixels are scored on: the reference's, or the frame's own where that is smaller.
pub fn grid_of(benchmark: &Benchmark, video: &BenchmarkVideo) -> [usize; 2] {
    let row = video.rows.values().next().copied().unwrap_or_default();
    let entry = benchmark.catalog.entry(row);
    [
        entry.height.min(PIXEL_GRID[0]) as usize,
        entry.width.min(PIXEL_GRID[1]) as usize,
    ]
}

/// A video's labels, with room for its scores. Its pixels are labelled where each frame that is labelled anomalous has a mask
/// of the anomaly; those of a normal video all as normal.
async fn labelled(benchmark: &Benchmark, video: &BenchmarkVideo) -> Result<VideoScores> {
    let mut frame_labels = vec![false; video.n_frames];
    let mut masks = Vec::new();
    let mut has_pixels = benchmark.has_masks();
    for (first, row) in &video.rows {
        let clip = benchmark.catalog.read(*row).await?;
        for t in 0..clip.frames.len() {
            let frame = first + t;
            frame_labels[frame] = frame_label(&clip, t);
            has_pixels &= !frame_labels[frame] || shows_anomaly(&clip, t);
            for object in &clip.objects {
                if let Some(mask) = &object.masks[t] {
                    let is_anomaly = object.anomalous == Some(true);
                    masks.push((frame, is_anomaly, mask.clone()));
                }
            }
        }
    }
    let grid = grid_of(benchmark, video);
    let pixels = has_pixels.then(|| labelled_pixels(grid, video.n_frames, &masks));
    Ok(VideoScores {
        video: video.name.clone(),
        frame_scores: vec![0.0; video.n_frames],
        frame_labels,
        swapped_scores: None,
        pixels: pixels.transpose()?,
    })
}

/// The masks of a video, each with its frame and whether it is the anomaly's, on a grid.
fn labelled_pixels(
    grid: [usize; 2],
    n_frames: usize,
    masks: &[(usize, bool, RleMask)],
) -> Result<PixelScores> {
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
    Ok(PixelScores {
        n_pixels,
        has_masks: masks.iter().any(|(_, is_anomaly, _)| *is_anomaly),
        scores: vec![0.0; n_frames * n_pixels],
        labels,
        other_objects: others,
    })
}

fn frame_label(clip: &Clip, t: usize) -> bool {
    match &clip.frame_labels {
        Some(labels) => labels[t],
        None => shows_anomaly(clip, t),
    }
}

/// Whether a mask says where the anomaly is in frame `t`.
fn shows_anomaly(clip: &Clip, t: usize) -> bool {
    let mut anomalies = clip.objects.iter().filter(|o| o.anomalous == Some(true));
    anomalies.any(|object| {
        object.masks[t]
            .as_ref()
            .is_some_and(|mask| !mask.is_empty())
    })
}

fn paint(mask: &RleMask, [height, width]: [usize; 2], pixels: &mut [bool]) -> Result<()> {
    let resized = mask.resize_nearest(height as u32, width as u32)?;
    for (pixel, inside) in pixels.iter_mut().zip(resized.to_raster()?) {
        *pixel |= inside != 0;
    }
    Ok(())
}

/// `[S, S]` scores on a grid, nearest.
pub fn nearest(scores: &[f32], side: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    let mut resized = Vec::with_capacity(height * width);
    for y in 0..height {
        let row = &scores[(y * side / height) * side..][..side];
        resized.extend((0..width).map(|x| row[x * side / width]));
    }
    resized
}

/// Drops frames that no window scored (the reference's windows leave tails out).
fn keep_scored(scores: &mut VideoScores, scored: &[bool]) {
    if scored.iter().all(|s| *s) {
        return;
    }
    fn keep<T: Copy>(values: &mut Vec<T>, scored: &[bool], per_frame: usize) {
        let frames = values.chunks_exact(per_frame).zip(scored);
        *values = frames
            .filter(|(_, is_scored)| **is_scored)
            .flat_map(|(values, _)| values.to_vec())
            .collect();
    }
    keep(&mut scores.frame_scores, scored, 1);
    keep(&mut scores.frame_labels, scored, 1);
    if let Some(swapped) = &mut scores.swapped_scores {
        keep(swapped, scored, 1);
    }
    if let Some(pixels) = &mut scores.pixels {
        keep(&mut pixels.scores, scored, pixels.n_pixels);
        keep(&mut pixels.labels, scored, pixels.n_pixels);
        if let Some(others) = &mut pixels.other_objects {
            keep(others, scored, pixels.n_pixels);
        }
    }
}

/// What the pixel figures are over, where that is not simply all videos.
fn pixels_of(report: &EvaluationReport) -> String {
    let (all, known, masked) = (report.videos, report.pixel_videos, report.mask_videos);
    if known == 0 {
        return " (only frames are labelled)".to_owned();
    }
    if masked == all {
        return String::new();
    }
    let mut text = format!(" (over {known} of {all} videos: {masked} with masks");
    if known > masked {
        text += &format!(", {} normal throughout", known - masked);
    }
    if all > known {
        text += "; of the others only frames are labelled";
    }
    text + ")"
}

fn table(report: &EvaluationReport) -> String {
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{:.4}", v));
    let pixels_of = pixels_of(report);
    let rows = [
        ("frame AUC", figure(report.frame_auc)),
        ("frame AP", figure(report.frame_ap)),
        ("video AUC", figure(report.video_auc)),
        (&format!("pixel AUC{pixels_of}"), figure(report.pixel_auc)),
        (
            "pixel AUC, target against other objects",
            figure(report.target_vs_others_pixel_auc),
        ),
        (
            "frame AUC, true category swapped for an absent one",
            figure(report.swapped_frame_auc),
        ),
    ];
    let mut text = format!(
        "{}: {} frames of {} videos, asked for {}\n",
        report.benchmark,
        report.frames,
        report.videos,
        report.settings.categories.join(", ")
    );
    for (name, value) in rows {
        text += &format!("  {value:>7}  {name}\n");
    }
    text.trim_end().to_owned()
}
