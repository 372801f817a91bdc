//! `lavida eval`: a built evaluation set in, the benchmark's figures out.

use clap::Args;
use lavida_data::Error;
use lavida_score::{
    benchmark::Benchmark,
    evaluation::{Control, EvaluationEvent, EvaluationPlan, evaluate},
    protocols::{Metric, Protocol},
    report::EvaluationReport,
    windows::{Tail, Windowing},
};
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
};

use crate::{
    output::print_text,
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
    /// Categories to ask for instead of the benchmark's own, separated by commas
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
    /// Frames looked at together; the training's number by default
    #[arg(long, value_name = "N")]
    pub n_frames: Option<usize>,
    /// Score every Nth frame and let it stand for those up to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub interval: usize,
    /// Also score with each video's true category swapped for an absent one (needs a set that knows them)
    #[arg(long)]
    pub swap_control: bool,
    /// The reference's artificial end points in every ranking
    #[arg(long)]
    pub reference_metrics: bool,
    /// The reference's windows: tails and short videos are not scored
    #[arg(long)]
    pub reference_windows: bool,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: EvalArgs) -> anyhow::Result<()> {
    let asked = args.categories.as_deref().map(categories).transpose()?;
    let benchmark = Benchmark::open(&args.data, asked).await?;
    let model = open_model(&args.checkpoint, &args.set).await?;
    let plan = plan(&args, benchmark.protocol(), model.settings.sampler.n_frames);
    if plan.n_frames == 0 || plan.protocol.interval == 0 {
        return Err(Error::invalid("--n-frames, --interval", "at least 1", "0").into());
    }
    check_windows(&benchmark, &plan)?;
    let progress = Progress::new("eval", Unit::Each("frame"), 0);
    let shown = |event: EvaluationEvent<'_>| show(&progress, event);
    let evaluation = evaluate(&model, &benchmark, &plan, &shown).await?;
    drop(progress);
    if args.json {
        let json = serde_json::to_string_pretty(&evaluation.report)?;
        print_text(&json)?;
    } else {
        print_text(&table(&evaluation.report))?;
    }
    Ok(())
}

/// The benchmark's protocol with what the command line says of it; `n_frames` are those of a training sample.
fn plan(args: &EvalArgs, protocol: Protocol, n_frames: usize) -> EvaluationPlan {
    let mut plan = EvaluationPlan {
        protocol: Protocol {
            interval: args.interval,
            ..protocol
        },
        n_frames: args.n_frames.unwrap_or(n_frames),
        control: Control::None,
    };
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
