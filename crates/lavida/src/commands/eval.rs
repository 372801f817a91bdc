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
use lavida_train::evaluation::{EvaluationReport, EvaluationSettings, PIXEL_GRID, VideoScores};

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
    if swap_control && benchmark.true_categories.is_empty() {
        return Err(Error::invalid(
            "--swap-control",
            "a set that knows each video's true categories",
            &benchmark.name,
        ));
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
        let n_pixels = scores.pixel_labels.len() / video.n_frames.max(1);
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
                    let pixels = nearest(frame.mask, frame.side, grid);
                    scores.pixel_scores[frame.frame * n_pixels..][..n_pixels]
                        .copy_from_slice(&pixels);
                },
            )
            .await?;
        if swap_control {
            let truth = benchmark.true_categories.get(&video.name);
            let shown: BTreeSet<&String> = truth.into_iter().flatten().collect();
            let absent: Vec<String> = benchmark
                .categories
                .iter()
                .filter(|c| !shown.contains(c))
                .cloned()
                .collect();
            let mut swapped = vec![0.0; video.n_frames];
            model
                .score(&mut benchmark.source(video), windowing, &absent, |frame| {
                    progress.add(1);
                    swapped[frame.frame] = frame.score;
                })
                .await?;
            scores.swapped_scores = Some(swapped);
        }
        keep_scored(&mut scores, &scored, n_pixels);
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

/// A video's labels, with room for its scores.
async fn labelled(benchmark: &Benchmark, video: &BenchmarkVideo) -> Result<VideoScores> {
    let [height, width] = grid_of(benchmark, video);
    let n_pixels = height * width;
    let mut scores = VideoScores {
        video: video.name.clone(),
        frame_scores: vec![0.0; video.n_frames],
        frame_labels: vec![false; video.n_frames],
        swapped_scores: None,
        pixel_scores: vec![0.0; video.n_frames * n_pixels],
        pixel_labels: vec![false; video.n_frames * n_pixels],
        other_objects: Vec::new(),
    };
    let mut others = vec![false; video.n_frames * n_pixels];
    let (mut has_pixels, mut has_others) = (false, false);
    for (first, row) in &video.rows {
        let clip = benchmark.catalog.read(*row).await?;
        for t in 0..clip.frames.len() {
            let frame = first + t;
            scores.frame_labels[frame] = frame_label(&clip, t);
            for object in &clip.objects {
                let Some(mask) = &object.masks[t] else {
                    continue;
                };
                let place = frame * n_pixels..(frame + 1) * n_pixels;
                match object.anomalous {
                    Some(true) => {
                        has_pixels = true;
                        paint(mask, [height, width], &mut scores.pixel_labels[place])?;
                    }
                    _ => {
                        has_others = true;
                        paint(mask, [height, width], &mut others[place])?;
                    }
                }
            }
        }
    }
    // Frames alone labelled (UCF-Crime, XD-Violence): there is no pixel truth to score against.
    if !has_pixels && scores.frame_labels.contains(&true) {
        scores.pixel_scores.clear();
        scores.pixel_labels.clear();
    } else if has_others {
        scores.other_objects = others;
    }
    Ok(scores)
}

fn frame_label(clip: &Clip, t: usize) -> bool {
    match &clip.frame_labels {
        Some(labels) => labels[t],
        None => clip
            .objects
            .iter()
            .any(|object| object.anomalous == Some(true) && object.masks[t].is_some()),
    }
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
fn keep_scored(scores: &mut VideoScores, scored: &[bool], n_pixels: usize) {
    if scored.iter().all(|s| *s) {
        return;
    }
    fn kept<T: Copy>(values: &[T], scored: &[bool], per_frame: usize) -> Vec<T> {
        let frames = values.chunks_exact(per_frame.max(1)).zip(scored);
        frames
            .filter(|(_, s)| **s)
            .flat_map(|(v, _)| v.to_vec())
            .collect()
    }
    scores.frame_scores = kept(&scores.frame_scores, scored, 1);
    scores.frame_labels = kept(&scores.frame_labels, scored, 1);
    scores.swapped_scores = scores.swapped_scores.as_deref().map(|s| kept(s, scored, 1));
    scores.pixel_scores = kept(&scores.pixel_scores, scored, n_pixels);
    scores.pixel_labels = kept(&scores.pixel_labels, scored, n_pixels);
    scores.other_objects = kept(&scores.other_objects, scored, n_pixels);
}

fn table(report: &EvaluationReport) -> String {
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{:.4}", v));
    let rows = [
        ("frame AUC", figure(report.frame_auc)),
        ("frame AP", figure(report.frame_ap)),
        ("video AUC", figure(report.video_auc)),
        ("pixel AUC", figure(report.pixel_auc)),
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
