//! `lavida eval`: a built evaluation set in, the benchmark's figures out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lavida_data::Error;
use lavida_score::{
    benchmark::Benchmark,
    evaluation::{Control, EvaluationEvent, EvaluationPlan, evaluate},
    protocols::{BenchmarkFile, Metric, Protocol, ProtocolName},
    report::{EvaluationReport, GroupReport, scores_table},
    windows::{Tail, Windowing},
};
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
};

use crate::{
    output::{print_text, write_file},
    scoring::{categories, open_model, show},
};

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// A built evaluation set
    #[arg(long, value_name = "URI")]
    pub data: String,
    /// The benchmark whose rules are followed: ubnormal, shanghaitech, ucf-crime, xd-violence, ucsd-ped1, ucsd-ped2, avenue,
    /// or a .toml file as those of configs/benchmarks
    #[arg(long, value_name = "NAME")]
    pub benchmark: Option<String>,
    /// Which of the benchmark's rules; those of the paper's table by default
    #[arg(long, value_name = "WORD", value_enum, requires = "benchmark")]
    pub protocol: Option<ProtocolWord>,
    /// Categories to ask for instead of the benchmark's own, separated by commas
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
    /// Frames looked at together; the benchmark's, else the training's number by default
    #[arg(long, value_name = "N")]
    pub n_frames: Option<usize>,
    /// Score every Nth frame and let it stand for those up to the next; the protocol's number by default
    #[arg(long, value_name = "N")]
    pub interval: Option<usize>,
    /// Also score with each video's true category swapped for an absent one (needs a set that knows them)
    #[arg(long)]
    pub swap_control: bool,
    /// The reference's artificial end points in every ranking
    #[arg(long)]
    pub reference_metrics: bool,
    /// The reference's windows: tails and short videos are not scored
    #[arg(long)]
    pub reference_windows: bool,
    /// Also write every frame's score and label to this CSV file, which `lavida score` takes as scores and as truth
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

/// A benchmark's rules in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolWord {
    /// Those of the paper's table, as the reference's code has them
    Paper,
    /// Every frame of every video, and none added
    Fair,
}

impl From<ProtocolWord> for ProtocolName {
    fn from(word: ProtocolWord) -> Self {
        match word {
            ProtocolWord::Paper => Self::Paper,
            ProtocolWord::Fair => Self::Fair,
        }
    }
}

pub async fn run(args: EvalArgs) -> anyhow::Result<()> {
    let asked = args.categories.as_deref().map(categories).transpose()?;
    let word = ProtocolName::from(args.protocol.unwrap_or(ProtocolWord::Paper));
    let file = args
        .benchmark
        .as_deref()
        .map(BenchmarkFile::open)
        .transpose()?;
    let benchmark = match &file {
        Some(file) => Benchmark::open_as(&args.data, file, asked).await?,
        None => Benchmark::open(&args.data, asked).await?,
    };
    let rules = file.as_ref().map(|file| file.rules(word));
    let static_patches = rules.and_then(|rules| rules.drop_static_patches);
    let set: Vec<String> = static_patches
        .map(|drops| format!("compression.drop_static_patches={drops}"))
        .into_iter()
        .chain(args.set.iter().cloned())
        .collect();
    let model = open_model(&args.checkpoint, &set).await?;
    let protocol = file
        .as_ref()
        .map_or(benchmark.protocol(), |file| file.protocol(word));
    let n_frames = rules.and_then(|rules| rules.n_frames);
    let n_frames = n_frames.unwrap_or(model.settings.sampler.n_frames);
    let plan = plan(&args, protocol, n_frames);
    if plan.n_frames == 0 || plan.protocol.interval == 0 {
        return Err(Error::invalid("--n-frames, --interval", "at least 1", "0").into());
    }
    check_windows(&benchmark, &plan)?;
    let progress = Progress::new("eval", Unit::Each("frame"), 0);
    let shown = |event: EvaluationEvent<'_>| show(&progress, event);
    let evaluation = evaluate(&model, &benchmark, &plan, &shown).await?;
    drop(progress);
    if let Some(path) = &args.scores {
        write_file(path, &scores_table(&evaluation.videos)?)?;
    }
    if args.json {
        let json = serde_json::to_string_pretty(&evaluation.report)?;
        print_text(&json)?;
    } else {
        print_text(&table(&evaluation.report, file.as_ref()))?;
    }
    Ok(())
}

/// The protocol with what the command line says of it; `n_frames` are those of a window unless it says others.
fn plan(args: &EvalArgs, protocol: Protocol, n_frames: usize) -> EvaluationPlan {
    let mut plan = EvaluationPlan {
        protocol,
        n_frames: args.n_frames.unwrap_or(n_frames),
        control: Control::None,
        holds_pixels: false,
    };
    if let Some(interval) = args.interval {
        plan.protocol.interval = interval;
    }
    if args.reference_windows {
        plan.protocol.tail = Tail::Dropped;
    }
    if args.reference_metrics {
        plan.protocol.metric = Metric::ReferencePadded;
    }
    if args.swap_control {
        plan.control = Control::SwappedCategories;
    }
    plan
}

/// Says which videos no window reaches, and refuses a benchmark that has no other.
fn check_windows(benchmark: &Benchmark, plan: &EvaluationPlan) -> Result<(), Error> {
    let (n_frames, interval) = (plan.n_frames, plan.protocol.interval);
    let windowing = Windowing {
        n_frames,
        interval,
        tail: plan.protocol.tail,
    };
    let videos = &benchmark.videos;
    let unscored = videos
        .iter()
        .filter(|video| windowing.windows(video.n_frames).is_empty());
    let (n_unscored, n_videos) = (unscored.count(), videos.len());
    let least = n_frames.saturating_mul(interval);
    if n_unscored == n_videos {
        let longest = videos.iter().map(|video| video.n_frames).max();
        let expected = format!(
            "a video of at least {least} frames (--n-frames {n_frames}, --interval {interval}; shorter ones are left out)"
        );
        let found = format!("{n_videos} of at most {} frames", longest.unwrap_or(0));
        return Err(Error::invalid("--reference-windows", expected, found));
    }
    if n_unscored > 0 {
        screen::line(&format!(
            "eval: {n_unscored} of {n_videos} videos have fewer than {least} frames and are left out"
        ));
    }
    Ok(())
}

/// Every setting that changes a number.
fn settings(report: &EvaluationReport) -> String {
    let of = &report.settings;
    let mut parts = vec![format!(
        "windows of {} frames, {} apart",
        of.n_frames, of.interval
    )];
    let mut say = |is_so: bool, text: &str, otherwise: &str| {
        parts.push(if is_so { text } else { otherwise }.to_owned());
    };
    say(
        of.reference_windows,
        "tails and short videos dropped",
        "every frame scored",
    );
    say(
        of.reference_metrics,
        "two artificial frames in every ranking",
        "no artificial frames",
    );
    say(of.abnormal_only, "abnormal videos alone", "all videos");
    say(
        of.drop_static_patches,
        "static patches dropped",
        "static patches kept",
    );
    parts.push(format!("{} of the visual tokens kept", of.keep_ratio));
    parts.push(match of.smoothing_sigma_frames {
        0.0 => "not smoothed".to_owned(),
        sigma => format!("smoothed, σ {sigma} frames"),
    });
    parts.join(", ")
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

fn table(report: &EvaluationReport, file: Option<&BenchmarkFile>) -> String {
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{:.4}", v));
    let pixels_of = pixels_of(report);
    let rows = [
        ("frame_auc", "frame AUC", figure(report.frame_auc)),
        ("frame_ap", "frame AP", figure(report.frame_ap)),
        ("video_auc", "video AUC", figure(report.video_auc)),
        (
            "pixel_auc",
            &format!("pixel AUC{pixels_of}"),
            figure(report.pixel_auc),
        ),
        (
            "target_vs_others_pixel_auc",
            "pixel AUC, target against other objects",
            figure(report.target_vs_others_pixel_auc),
        ),
        (
            "swapped_frame_auc",
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
    for (key, name, value) in rows {
        let is_compared = file.is_some_and(|file| file.metric == key);
        let compared = if is_compared {
            "  ← what is compared"
        } else {
            ""
        };
        text += &format!("  {value:>7}  {name}{compared}\n");
    }
    let exact = report.pixel_auc_bound.is_none_or(|bound| bound == 0.0);
    if let Some(bound) = report.pixel_auc_bound.filter(|_| !exact) {
        text += &format!("  the pixel AUC is known to within {bound:.1e}\n");
    }
    text += &groups("class, with all normal videos", &report.per_class);
    text += &groups("scene", &report.per_scene);
    text += &format!("{}\n", settings(report));
    if report.left_out_videos > 0 {
        text += &format!("{} normal videos are left out\n", report.left_out_videos);
    }
    text.trim_end().to_owned()
}

fn groups(by: &str, groups: &[GroupReport]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.4}"));
    let mut text = format!("  frame AUC, frame AP by {by}\n");
    for group in groups {
        let (auc, ap) = (figure(group.frame_auc), figure(group.frame_ap));
        text += &format!(
            "  {auc:>7}  {ap:>7}  {} ({} videos)\n",
            group.name, group.videos
        );
    }
    text
}
