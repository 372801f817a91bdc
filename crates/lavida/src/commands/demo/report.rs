//! The demo's page: what was trained on what, how it went, and what was found.

use lavida_data::{catalog::Catalog, manifest::Purpose};
use lavida_report::{
    canvas::Image,
    plot::{LinePlot, Mark, ScorePlot, Series},
};
use lavida_score::{
    benchmark::{Benchmark, BenchmarkVideo},
    model::ScoringModel,
    scored::ScoredVideo,
};
use lavida_train::step::StepRecord;

use super::{
    DemoRun,
    flow::flow,
    page::{
        DatasetSummary, DemoReport, ExportFile, SeedResult, StripFrame, VideoResult, demo_report,
    },
};
use crate::draw::{Draw, DrawPicture};

/// Training draws shown.
const DRAWS_SHOWN: usize = 6;
/// Frames shown of a video.
const STRIP_FRAMES: usize = 6;

/// The page as HTML.
pub async fn page(
    demo: &DemoRun,
    catalog: &Catalog,
    benchmark: &Benchmark,
    model: &ScoringModel,
    n_videos: usize,
) -> anyhow::Result<String> {
    let e = &demo.evaluation.report;
    let figure = |v: Option<f64>| v.map_or("–".to_owned(), |v| format!("{v:.3}"));
    let n_steps: usize = demo.steps.iter().map(Vec::len).sum();
    let seconds: f64 = demo.timings.iter().map(|t| t.seconds).sum();
    let fact = |name: &str, value: String, note: &str| (name.to_owned(), value, note.to_owned());
    let report = DemoReport {
        title: "LAVIDA on a small world".into(),
        subtitle: "Trained on rendered segmentation data alone, then asked for anomalies whose names it was never shown."
            .into(),
        facts: vec![
            fact("zero-shot frame AUC", figure(e.frame_auc), "categories never trained on"),
            fact(
                "with the true category out of the prompt",
                figure(e.swapped_frame_auc),
                "0.5 when the text is what steers the score",
            ),
            fact(
                "pixel AUC, target against other objects",
                figure(e.target_vs_others_pixel_auc),
                "",
            ),
            fact(
                "time",
                format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0),
                &format!("{n_steps} steps on a CPU"),
            ),
        ],
        flow: Some(flow()),
        settings: settings(demo),
        timings: demo.timings.clone(),
        datasets: demo.manifests.iter().map(dataset).collect(),
        categories_trained: demo.world.trained.clone(),
        categories_held_out: demo.world.held_out.clone(),
        draws: draws(demo, catalog).await?,
        losses: losses(&demo.steps),
        result: Some(SeedResult {
            seed: demo.seed,
            frame_auc: e.frame_auc,
            frame_ap: e.frame_ap,
            pixel_auc: e.pixel_auc,
            swap_auc: e.swapped_frame_auc,
            target_vs_others: e.target_vs_others_pixel_auc,
        }),
        videos: videos(demo, benchmark, n_videos).await?,
        notes: notes(model),
        exports: demo
            .exported
            .iter()
            .map(|file| ExportFile {
                path: file.name.clone(),
                bytes: file.bytes,
                sha256: file.sha256.clone(),
            })
            .collect(),
        commands: commands(demo),
    };
    Ok(demo_report(&report))
}

fn settings(demo: &DemoRun) -> Vec<(String, String)> {
    let a = &demo.anomaly.settings;
    let g = &demo.grounding.settings;
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("seed", demo.seed.to_string()),
        pair("grounding stage", format!("{} steps", g.train.steps)),
        pair("anomaly stage", format!("{} steps", a.train.steps)),
        pair("clips a step", a.train.global_batch.to_string()),
        pair("frames a clip", a.sampler.n_frames.to_string()),
        pair(
            "categories a prompt, at most",
            a.sampler
                .max_categories
                .map_or("each dataset's".into(), |n| n.to_string()),
        ),
        pair("anomaly ratio", a.sampler.anomaly_ratio.to_string()),
        pair("visual tokens kept", a.compression.keep_ratio.to_string()),
        pair("learning rate", format!("{:e}", a.optimizer.learning_rate)),
    ]
}

fn dataset(manifest: &lavida_data::manifest::DatasetManifest) -> DatasetSummary {
    let header = &manifest.header;
    DatasetSummary {
        name: format!("{} {}", header.dataset, header.split),
        purpose: match header.purpose {
            Purpose::Training => "training".into(),
            Purpose::Evaluation => "evaluation".into(),
        },
        samples: manifest.samples,
        frames: manifest.frames,
        objects: manifest.objects,
        shards: manifest.shards.len() as u64,
        bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
        skipped: manifest
            .skipped
            .iter()
            .map(|(k, v)| (k.clone(), *v))
            .collect(),
    }
}

async fn draws(demo: &DemoRun, catalog: &Catalog) -> anyhow::Result<Vec<DrawPicture>> {
    let settings = &demo.anomaly.settings;
    let sampler = settings.exposure_sampler(catalog)?;
    let n_frames = settings.sampler.n_frames;
    let mut draws = Vec::new();
    for i in 0..DRAWS_SHOWN {
        let index = (2 * i + 1) * catalog.len() / (2 * DRAWS_SHOWN);
        let clip = catalog.read(index).await?;
        draws.push(Draw::of(&clip, &sampler, n_frames, demo.seed, 0)?.picture()?);
    }
    Ok(draws)
}

fn losses([grounding, anomaly]: &[Vec<StepRecord>; 2]) -> Vec<LinePlot> {
    let all = || grounding.iter().chain(anomaly);
    let names: Vec<&str> = [
        "grounding_present_loss",
        "grounding_absent_loss",
        "language_loss",
        "mask_focal_loss",
        "dice_loss",
        "iou_loss",
        "object_loss",
    ]
    .into_iter()
    .filter(|name| all().any(|r| r.losses.named().any(|(n, _)| n == *name)))
    .collect();
    let series = |records: &[StepRecord], name: &str| Series {
        name: name.trim_end_matches("_loss").replace('_', " "),
        points: records
            .iter()
            .filter_map(|r| {
                let (_, value) = r.losses.named().find(|(n, _)| *n == name)?;
                Some((r.step as f64, f64::from(value)))
            })
            .collect(),
    };
    let plot = |title: &str, records: &[StepRecord], grounding: bool, log_y: bool| {
        let names = names
            .iter()
            .filter(|n| n.starts_with("grounding") == grounding);
        let series: Vec<Series> = names.map(|name| series(records, name)).collect();
        LinePlot {
            title: title.into(),
            y_label: "loss".into(),
            series: series
                .into_iter()
                .filter(|s| !s.points.is_empty())
                .collect(),
            marks: Vec::<Mark>::new(),
            smooth_points: 21,
            log_y,
            ..LinePlot::default()
        }
    };
    vec![
        plot("Grounding stage", grounding, true, false),
        plot("Training on pseudo-anomalies", anomaly, false, true),
    ]
}

async fn videos(
    demo: &DemoRun,
    benchmark: &Benchmark,
    n: usize,
) -> anyhow::Result<Vec<VideoResult>> {
    let mut results = Vec::new();
    for ((video, scored), report) in benchmark
        .videos
        .iter()
        .zip(&demo.evaluation.videos)
        .zip(&demo.evaluation.report.per_video)
        .take(n)
    {
        let truth = benchmark.true_categories.get(&video.name);
        let is_true = |c: &String| truth.is_some_and(|t| t.contains(c));
        let categories = benchmark.categories.iter();
        results.push(VideoResult {
            name: video.name.clone(),
            categories: categories.map(|c| (c.clone(), is_true(c))).collect(),
            frame_auc: report.frame_auc,
            plot: ScorePlot {
                title: video.name.clone(),
                scores: scored.object_logits.clone(),
                truth: scored.frame_labels.clone(),
                control: scored
                    .swapped_object_logits
                    .clone()
                    .map(|s| ("true category left out".to_owned(), s)),
                y_label: "object score (logit)".into(),
                ..ScorePlot::default()
            },
            frames: strip(benchmark, video, scored).await?,
        });
    }
    Ok(results)
}

/// A few frames with what is there and what was found.
async fn strip(
    benchmark: &Benchmark,
    video: &BenchmarkVideo,
    scored: &ScoredVideo,
) -> anyhow::Result<Vec<StripFrame>> {
    let [height, width] = benchmark.grid_of(video);
    let mut frames = Vec::new();
    for i in 0..STRIP_FRAMES {
        let frame = (2 * i + 1) * video.n_frames / (2 * STRIP_FRAMES);
        let Some((first, row)) = video.rows.range(..=frame).next_back() else {
            continue;
        };
        let clip = benchmark
            .catalog
            .read(*row)
            .await?
            .select_frames(&[frame - first]);
        let decoded = lavida_data::batch::Batcher::decode(&clip)?;
        let Some(image) = decoded.into_iter().next() else {
            continue;
        };
        let fits = (image.height as usize, image.width as usize) == (height, width);
        let pixels = scored.pixels.as_ref().filter(|_| fits);
        let truth = pixels.and_then(|pixels| pixels.labels.get(frame));
        let found = pixels.and_then(|pixels| pixels.mask_logits.get(frame));
        let shown = |mask: Vec<bool>| mask.contains(&true).then_some(mask);
        frames.push(StripFrame {
            frame_idx: frame as u64,
            image: Image::from_rgb(image.width, image.height, image.pixels),
            truth: truth.and_then(|m| shown(m.clone())),
            prediction: found.and_then(|m| shown(m.iter().map(|s| *s > 0.0).collect())),
            score: scored.object_logits.get(frame).copied().unwrap_or(f32::NAN),
        });
    }
    Ok(frames)
}

fn notes(model: &ScoringModel) -> Vec<String> {
    let keep = model.settings.compression.keep_ratio;
    vec![
        "The paper starts from pretrained Qwen2-VL, CLIP and SAM2. This run starts from random weights, so a grounding \
         stage comes first: the projector's attention from words to frames learns where each word is. It stands in for \
         that pretraining and is no part of the paper."
            .into(),
        "The second stage is the paper's training, with the vision towers and CLIP frozen as they came out of the first."
            .into(),
        "The five categories asked for are combinations of colour and shape that occur in no training picture, annotation or \
         prompt; each colour and each shape occurs in others."
            .into(),
        "When the target is not in view another object takes its place, so counting objects says nothing.".into(),
        format!(
            "The control asks the same videos for the absent categories only. Masks come from 64 px frames; {keep} of \
             the language model's visual tokens are kept."
        ),
        "One seed is one draw of the world, the weights and the order of samples: docs/benchmarks.md has the spread.".into(),
    ]
}

fn commands(demo: &DemoRun) -> Vec<String> {
    let out = demo.out.display();
    vec![
        format!(
            "lavida eval --checkpoint {out}/run --data {out}/shards/ucsd-ped --n-frames 4 --swap-control"
        ),
        format!(
            "lavida predict --checkpoint {out}/run --video {out}/world/ucsd-ped/UCSDped2/Test/Test001 --categories \"{}\" \
             --out {out}/test001",
            demo.world.held_out.join(", ")
        ),
        format!("lavida-dataset preview {out}/shards/coco"),
        format!("tensorboard --logdir {out}"),
    ]
}
