//! Renders every kind of picture from made-up values, to look at while working on layout:
//! `cargo run -p lavida-report --example gallery -- DIR`.

use std::path::PathBuf;

use lavida_report::canvas::Image;
use lavida_report::demo::{
    DatasetSummary, DemoReport, ExportFile, SeedResult, StripFrame, Timing, VideoResult,
    demo_report,
};
use lavida_report::flow::flow;
use lavida_report::overlay::{MaskStyle, overlay_heat, overlay_mask};
use lavida_report::plot::{LinePlot, Mark, ScorePlot, Series};
use lavida_report::sheet::{ContactSheet, DrawPicture, Tile, masked_frame};

const SIDE: i64 = 64;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".into()));
    std::fs::create_dir_all(&dir)?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes);

    write("index.html", demo_report(&made_up_report()).as_bytes())?;
    write("flow.svg", flow().svg().as_bytes())?;
    write("flow.png", &flow().image(1.0).png())?;
    write("losses.png", &made_up_losses().drawing().image(1.0).png())?;
    write(
        "scores.png",
        &made_up_scores(0, 180).drawing().image(1.5).png(),
    )?;
    write(
        "scores.svg",
        made_up_scores(0, 180).drawing().svg().as_bytes(),
    )?;
    write("draw.png", &made_up_draw(0).image().png())?;
    write("image-draw.png", &image_draw().image().png())?;
    write("sheet.png", &made_up_sheet().image().png())?;
    let (frame, mask) = scene(3, 5);
    let styles = [(mask.as_slice(), MaskStyle::prediction())];
    write(
        "overlay.png",
        &masked_frame(&frame, &styles, 512, 512).png(),
    )?;
    let mut large = Image::new(640, 480, [96, 104, 110]);
    let ring: Vec<bool> = (0..640 * 480)
        .map(|at| {
            let (x, y) = (f64::from(at % 640) - 300.0, f64::from(at / 640) - 240.0);
            (60.0..150.0).contains(&x.hypot(y))
        })
        .collect();
    overlay_mask(
        &mut large,
        &ring,
        &MaskStyle {
            contour_px: 3,
            ..MaskStyle::prediction()
        },
    );
    write("contour.png", &large.png())?;
    let mut heat = frame.fitted(512, 512);
    let scores: Vec<f32> = (0..512 * 512)
        .map(|at| {
            let (x, y) = ((at % 512) as f32 - 256.0, (at / 512) as f32 - 256.0);
            (-(x * x + y * y) / 30_000.0).exp()
        })
        .collect();
    overlay_heat(&mut heat, &scores);
    write("heat.png", &heat.png())
}

/// A cheap repeatable value in [0, 1).
fn noise(at: u64) -> f64 {
    let mixed = (at ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 32)) >> 11) as f64 / (1u64 << 53) as f64
}

/// A textured frame with a red square (masked) and a blue disc.
fn scene(seed: u64, time: i64) -> (Image, Vec<bool>) {
    let mut pixels = Vec::new();
    let mut mask = Vec::new();
    let square = (
        10 + time * 3 + (seed as i64 * 5) % 11,
        20 + (seed as i64 * 7) % 17,
    );
    let disc = (50 - time * 2, 44 - (seed as i64 * 3) % 20);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let texture = 90.0
                + 26.0 * ((x / 8 + y / 8) % 2) as f64
                + 20.0 * (noise(seed * 977 + (x * SIDE + y + time * 4099) as u64) - 0.5);
            let in_square = (x - square.0).abs() <= 8 && (y - square.1).abs() <= 8;
            let in_disc = (x - disc.0).pow(2) + (y - disc.1).pow(2) <= 64;
            let color = if in_square {
                [200.0, 48.0, 40.0]
            } else if in_disc {
                [40.0, 90.0, 210.0]
            } else {
                [texture, texture * 1.02, texture * 0.96]
            };
            pixels.extend(color.map(|value: f64| value.clamp(0.0, 255.0) as u8));
            mask.push(in_square);
        }
    }
    (Image::from_rgb(SIDE as u32, SIDE as u32, pixels), mask)
}

fn made_up_losses() -> LinePlot {
    let names = ["mask focal", "dice", "object", "language"];
    let series = names.iter().enumerate().map(|(index, name)| {
        let height = [1.2, 0.9, 0.65, 2.1][index];
        let points = (0..900).map(|step| {
            let fall = 0.25 + 0.75 * (-f64::from(step) / 260.0).exp();
            let rough = 1.0 + 0.35 * (noise(step as u64 * 13 + index as u64) - 0.5);
            (f64::from(step), height * fall * rough)
        });
        Series {
            name: (*name).into(),
            points: points.collect(),
        }
    });
    LinePlot {
        title: "Losses of the paper's training".into(),
        x_label: "step".into(),
        y_label: "loss, unweighted".into(),
        series: series.collect(),
        marks: vec![Mark {
            x: 540.0,
            label: "towers frozen".into(),
        }],
        smooth_points: 25,
        width: 1040.0,
        height: 320.0,
        ..LinePlot::default()
    }
}

fn made_up_scores(seed: u64, n_frames: usize) -> ScorePlot {
    let truth: Vec<bool> = (0..n_frames)
        .map(|frame| (52..88).contains(&frame) || (120 + seed as usize..141).contains(&frame))
        .collect();
    let scores = truth.iter().enumerate().map(|(frame, anomalous)| {
        let base = if *anomalous { 2.4 } else { -2.2 };
        (base + 2.4 * (noise(seed * 31 + frame as u64 / 3) - 0.5)) as f32
    });
    let swapped = (0..n_frames)
        .map(|frame| (-2.0 + 1.6 * (noise(seed * 57 + frame as u64 / 4) - 0.5)) as f32);
    ScorePlot {
        title: String::new(),
        scores: scores.collect(),
        control: Some(("swapped prompt".into(), swapped.collect())),
        truth,
        fps: Some(10.0),
        y_label: "object score (logit)".into(),
        width: 520.0,
        height: 200.0,
        ..ScorePlot::default()
    }
}

fn made_up_draw(seed: u64) -> DrawPicture {
    let is_anomaly = seed % 3 != 2;
    let (frames, masks): (Vec<Image>, Vec<Vec<bool>>) =
        (0..4).map(|time| scene(seed, time)).unzip();
    DrawPicture {
        title: format!("mevis/train/video{seed:04}/0"),
        subtitle: format!("mevis · seed 7 · epoch {seed}"),
        prompt: "<video> Are there any anomalies in this scene? Anomaly types may contain: red square moving right, blue \
                 star standing still, green disc, yellow triangle moving up. Please segment them."
            .into(),
        answer: "Sure, <SEG>.".into(),
        categories: vec![
            ("green disc".into(), false),
            (
                if is_anomaly { "red square moving right" } else { "white bar falling" }.into(),
                is_anomaly,
            ),
            ("blue star standing still".into(), false),
            ("yellow triangle moving up".into(), false),
        ],
        is_anomaly,
        frames,
        frame_labels: vec![is_anomaly; 4],
        masks: masks.into_iter().map(|mask| is_anomaly.then_some(mask)).collect(),
    }
}

fn image_draw() -> DrawPicture {
    let mut draw = made_up_draw(1);
    draw.frames.truncate(1);
    draw.masks.truncate(1);
    draw.frame_labels.truncate(1);
    draw.categories = (0..30)
        .map(|index| (format!("category {index}"), index == 17))
        .collect();
    draw
}

fn made_up_sheet() -> ContactSheet {
    let tiles = (0..10).map(|seed| {
        let (frame, mask) = scene(seed, (seed % 5) as i64);
        Tile {
            image: masked_frame(&frame, &[(mask.as_slice(), MaskStyle::truth())], 200, 200),
            caption: format!("train/{seed:04}/0"),
            text: "red square moving right; blue disc; the square that crosses the disc".into(),
            border: None,
        }
    });
    ContactSheet {
        title: "coco-synth, train".into(),
        subtitle: "10 of 512 samples, 1,024 objects. Masks as stored, every object of a sample."
            .into(),
        columns: 5,
        tile_width: 200,
        tile_height: 200,
        tiles: tiles.collect(),
    }
}

fn made_up_report() -> DemoReport {
    let fact = |label: &str, value: &str, note: &str| {
        (label.to_string(), value.to_string(), note.to_string())
    };
    let videos = (0..6).map(|index| {
        let seed = index * 2;
        let plot = made_up_scores(seed, 180);
        let frames = (0..5).map(|time| {
            let (image, mask) = scene(seed, time * 2);
            let frame = 20 + time as usize * 16;
            let anomalous = plot.truth[frame];
            let shifted: Vec<bool> = (0..mask.len())
                .map(|at| at >= 66 && mask[at - 66])
                .collect();
            StripFrame {
                frame_idx: frame as u64,
                image,
                truth: anomalous.then_some(mask),
                prediction: (plot.scores[frame] > 0.0).then_some(shifted),
                score: plot.scores[frame],
            }
        });
        VideoResult {
            name: format!("Test{:03}", index + 1),
            categories: [
                "purple star",
                "red square",
                "green ring",
                "cyan bar",
                "orange disc",
                "blue triangle",
            ]
            .iter()
            .enumerate()
            .map(|(category, name)| ((*name).to_string(), category == 1))
            .collect(),
            frame_auc: Some(0.87 + 0.02 * index as f64),
            frames: frames.collect(),
            plot,
        }
    });
    DemoReport {
        title: "LAVIDA demo".into(),
        subtitle: "A tiny model, trained from random weights on a rendered world, asked for things it was never shown.".into(),
        facts: vec![
            fact("zero-shot frame AUC", "0.871", "mean of seeds 11, 12, 13"),
            fact("swapped prompt", "0.507", "0.5: the text steers the score"),
            fact("target vs others", "0.742", "pixel AUC against other objects"),
            fact("wall time", "8 min 41 s", "2 CPU cores, no GPU"),
            fact("parameters", "1.9 M", "all parts of the paper's model"),
        ],
        flow: Some(flow()),
        settings: [("train.steps", "540 grounding + 360 paper"), ("train.global_batch", "16 clips × 4 frames"), ("compression.keep_ratio", "0.5"), ("sampler.anomaly_ratio", "0.5")]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
        timings: [("render the world", 4.2, "640 videos, 320 images"), ("build shards", 6.9, ""), ("training, grounding stage", 290.0, "540 steps, 29.8 clips a second"), ("training, paper stage", 168.0, "360 steps"), ("evaluation", 41.0, "3 seeds"), ("export and report", 3.3, "")]
            .map(|(part, seconds, note)| Timing {
                part: part.into(),
                seconds,
                note: note.into(),
            })
            .to_vec(),
        datasets: [("coco-synth train", "training", 320, 320), ("mevis-synth train", "training", 512, 4_096), ("ucsd-ped-synth test", "evaluation", 24, 4_320)]
            .map(|(name, purpose, samples, frames)| DatasetSummary {
                name: name.into(),
                purpose: purpose.into(),
                samples,
                frames,
                objects: samples * 3,
                shards: 1 + samples / 300,
                bytes: frames * 7_311,
                skipped: if samples == 512 { vec![("empty mask".into(), 7), ("polygon with 2 points".into(), 2)] } else { Vec::new() },
            })
            .to_vec(),
        categories_trained: ["red disc", "red star", "blue square", "blue star", "green square", "yellow triangle", "cyan ring", "purple disc", "orange bar", "white disc"]
            .map(String::from)
            .to_vec(),
        categories_held_out: ["red square", "blue triangle", "green ring", "purple star", "cyan bar"].map(String::from).to_vec(),
        draws: (0..4).map(made_up_draw).collect(),
        losses: vec![
            LinePlot {
                title: "Grounding stage".into(),
                series: made_up_losses().series[..1].to_vec(),
                marks: Vec::new(),
                ..made_up_losses()
            },
            made_up_losses(),
        ],
        results: (11..14)
            .map(|seed| SeedResult {
                seed,
                frame_auc: Some(0.84 + 0.03 * (seed - 11) as f64),
                frame_ap: Some(0.8),
                pixel_auc: Some(0.95),
                swap_auc: Some(0.49 + 0.01 * (seed - 11) as f64),
                target_vs_others: Some(0.74),
                seen_auc: Some(0.93),
            })
            .collect(),
        videos: videos.collect(),
        notes: vec![
            "The world is rendered: flat shapes on a textured background. These figures say nothing about real video.".into(),
            "The paper starts from pretrained Qwen2-VL, SAM2 and CLIP. Here a short grounding stage (`train.stage = \"grounding\"`) teaches the random towers what words look like; then comes the paper's training with the towers frozen.".into(),
            "Masks are the weak point of the tiny model; see target vs others.".into(),
        ],
        exports: ["model.safetensors", "config.json", "tokenizer.json"]
            .iter()
            .enumerate()
            .map(|(index, path)| ExportFile {
                path: (*path).into(),
                bytes: [7_812_334, 2_145, 48_221][index],
                sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
            })
            .collect(),
        commands: vec![
            "lavida predict --checkpoint demo/run --video demo/world/ucsd-ped/… --categories \"red square, bicycle\" --out out".into(),
            "lavida eval --checkpoint demo/run --data demo/shards/ucsd-ped --json".into(),
        ],
    }
}
