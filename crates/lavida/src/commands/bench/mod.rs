//! `lavida bench compression`: step time and peak memory of the language model against `keep_ratio` (the shape of the
//! paper's Fig. 7b).
//!
//! Every point runs in a process of its own, this program started again, so that one point's peak is not another's.

mod measure;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use lavida_data::Error;
use lavida_dataflow::clock::{Clock, SystemClock};
use lavida_report::plot::{LinePlot, Series};
use lavida_store::local_path;
use lavida_terminal::{screen, units::mib};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    arguments::at_least,
    output::{Outputs, print_json, print_text},
};

/// What is written; those of an earlier `bench` are replaced.
const FILES: [&str; 3] = ["compression.md", "compression.json", "compression.svg"];

/// One keep ratio of one model, as its process measured it.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    model: String,
    parameters: usize,
    keep_ratio: f64,
    /// Visual tokens before compression.
    visual_tokens: usize,
    /// Words and visual tokens that the language model read.
    positions: usize,
    /// Median wall time of a step.
    seconds: f64,
    /// CPU time of a step, all threads; none where the system does not say.
    cpu_seconds: Option<f64>,
    /// Most resident memory of the process; none where the system does not say.
    peak_bytes: Option<u64>,
    /// Resident memory before the first step: program and weights.
    at_rest_bytes: Option<u64>,
    loss: f64,
}

impl Point {
    fn document(&self) -> Value {
        json!({
            "model": self.model,
            "parameters": self.parameters,
            "keep_ratio": self.keep_ratio,
            "visual_tokens": self.visual_tokens,
            "positions": self.positions,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_bytes": self.peak_bytes,
            "at_rest_bytes": self.at_rest_bytes,
            "loss": self.loss,
        })
    }

    /// Reads what [`Point::document`] wrote; none if something is missing.
    fn read(document: &Value) -> Option<Self> {
        let count = |name: &str| usize::try_from(document[name].as_u64()?).ok();
        Some(Self {
            model: document["model"].as_str()?.to_owned(),
            parameters: count("parameters")?,
            keep_ratio: document["keep_ratio"].as_f64()?,
            visual_tokens: count("visual_tokens")?,
            positions: count("positions")?,
            seconds: document["seconds"].as_f64()?,
            cpu_seconds: document["cpu_seconds"].as_f64(),
            peak_bytes: document["peak_bytes"].as_u64(),
            at_rest_bytes: document["at_rest_bytes"].as_u64(),
            loss: document["loss"].as_f64()?,
        })
    }
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Step time and peak memory of the language model against the keep ratio (the shape of the paper's Fig. 7b)
    ///
    /// A step is compression, forward, loss and all gradients of the language model on one made-up clip. Each
    /// point runs in a process of its own; its peak is that process's most resident memory, which says nothing of a GPU's.
    Compression(CompressionArgs),
    /// NCCL in a world of one: that it loads, connects a GPU and keeps what a bucket holds, by both ways to sum
    Nccl(NcclArgs),
    /// One point, for `bench compression`
    #[command(hide = true)]
    CompressionPoint(PointArgs),
}

#[derive(Debug, Args)]
pub struct CompressionArgs {
    /// Folder for compression.md, compression.json and compression.svg
    #[arg(long, value_name = "DIR", value_parser = local_path)]
    pub out: PathBuf,
    /// Models to measure, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tiny,medium")]
    pub models: Vec<BenchModel>,
    /// Keep ratios to measure, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,0.5,0.2,0.1"
    )]
    pub keep_ratios: Vec<f64>,
    /// Visual tokens of the clip before compression; the default is a training clip of the paper
    #[arg(long, value_name = "N", default_value_t = 1564, value_parser = at_least(1))]
    pub visual_tokens: usize,
    /// Words of the prompt and its answer, at least 3
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least(3))]
    pub text_tokens: usize,
    /// Steps to measure after the first; their median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least(1))]
    pub steps: usize,
    /// Where to compute, as settings name it
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct NcclArgs {
    /// The GPU, as settings name it
    #[arg(long, value_name = "NAME", default_value = "cuda:0")]
    pub device: String,
    /// Values of a bucket
    #[arg(long, value_name = "N", default_value_t = 6_250_000, value_parser = at_least(1))]
    pub values: usize,
}

#[derive(Debug, Args)]
pub struct PointArgs {
    #[arg(long)]
    pub device: String,
    #[arg(long, value_enum)]
    pub model: BenchModel,
    #[arg(long)]
    pub keep_ratio: f64,
    #[arg(long, value_parser = at_least(1))]
    pub visual_tokens: usize,
    #[arg(long, value_parser = at_least(3))]
    pub text_tokens: usize,
    #[arg(long, value_parser = at_least(1))]
    pub steps: usize,
}

/// Language models to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchModel {
    /// That of tiny.toml: width 64, 2 layers
    Tiny,
    /// Width 768, 8 layers
    Medium,
    /// That of paper.toml, Qwen2-VL-7B's, with random weights in f32: 30 GB, and gradients of all of them
    Paper,
}

impl BenchModel {
    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Medium => "medium",
            Self::Paper => "paper",
        }
    }
}

impl std::fmt::Display for BenchModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

pub async fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        BenchWhat::Compression(args) => compression(args).await,
        BenchWhat::Nccl(args) => nccl(args).await,
        BenchWhat::CompressionPoint(args) => {
            print_text(&measure::point(args)?.document().to_string())
        }
    }
}

/// What it found, a name and a value a line.
async fn nccl(args: &NcclArgs) -> anyhow::Result<()> {
    let device = lavida_cluster::training::cuda_device(&args.device)
        .ok_or_else(|| Error::invalid("--device", "cuda:N", &args.device))?;
    let n_values = args.values;
    let clock = SystemClock::default();
    for nccl_adds in [false, true] {
        let start = clock.monotonic();
        let tried = tokio::task::spawn_blocking(move || {
            lavida_cluster::engine::try_alone(device, nccl_adds, n_values)
        });
        tried.await?.map_err(|error| Error::Unavailable {
            what: format!("NCCL on {}", args.device),
            reason: error.to_string(),
        })?;
        let seconds = (clock.monotonic() - start).as_secs_f64();
        let who = if nccl_adds { "nccl" } else { "ranks" };
        print_text(&format!("seconds_with_sums_{who} {seconds:.3}"))?;
    }
    Ok(())
}

async fn compression(args: &CompressionArgs) -> anyhow::Result<()> {
    for keep_ratio in &args.keep_ratios {
        measure::ratio(*keep_ratio)?;
    }
    let outputs = Outputs::open(&args.out.display().to_string(), "bench").await?;
    outputs.check_free(|name| FILES.contains(&name)).await?;
    outputs.try_writing().await?;
    let mut points = Vec::new();
    for model in &args.models {
        for keep_ratio in &args.keep_ratios {
            let point = in_its_own_process(args, *model, *keep_ratio).await?;
            screen::line(&format!(
                "bench: {}, keep ratio {}: {:.3} s a step, peak {} MiB",
                point.model,
                point.keep_ratio,
                point.seconds,
                mebibytes(point.peak_bytes)
            ));
            points.push(point);
        }
    }
    let table = table(&points);
    let documents: Vec<Value> = points.iter().map(Point::document).collect();
    let document = json!({ "points": documents });
    let contents = [
        table.clone().into_bytes(),
        serde_json::to_vec_pretty(&document)?,
        plot(&points).drawing().svg().into_bytes(),
    ];
    let files = FILES.into_iter().zip(contents);
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes.into()));
    outputs.replace(files.collect()).await?;
    screen::line(&format!(
        "bench: {} are in {}",
        FILES.join(", "),
        args.out.display()
    ));
    if args.json {
        print_json(&document)
    } else {
        print_text(table.trim_end())
    }
}

/// Starts this program again for one point. It ends with this one.
async fn in_its_own_process(
    args: &CompressionArgs,
    model: BenchModel,
    keep_ratio: f64,
) -> anyhow::Result<Point> {
    let program = std::env::current_exe().context("this program's own file")?;
    let output = Command::new(program)
        .args(["bench", "compression-point", "--model", model.name()])
        .args(["--keep-ratio", &keep_ratio.to_string()])
        .args(["--visual-tokens", &args.visual_tokens.to_string()])
        .args(["--text-tokens", &args.text_tokens.to_string()])
        .args(["--device", &args.device])
        .args(["--steps", &args.steps.to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .context("starting a process for one keep ratio")?;
    if !output.status.success() {
        bail!(
            "the process for keep ratio {keep_ratio} of {} ended with {}: {}",
            model.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let document: Value = serde_json::from_slice(&output.stdout)
        .context("the document of the process for one keep ratio")?;
    Point::read(&document).with_context(|| format!("not the document of a point: {document}"))
}

/// The point of the same model that keeps the most.
fn fullest<'a>(points: &'a [Point], point: &'a Point) -> &'a Point {
    let same = points.iter().filter(|other| other.model == point.model);
    same.max_by(|a, b| a.keep_ratio.total_cmp(&b.keep_ratio))
        .unwrap_or(point)
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("–".to_owned(), mib)
}

/// `part / whole` in percent.
fn percent(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    Some(100.0 * part? / whole.filter(|whole| *whole > 0.0)?)
}

fn peak_percent(point: &Point, full: &Point) -> Option<f64> {
    let bytes = |point: &Point| point.peak_bytes.map(|bytes| bytes as f64);
    percent(bytes(point), bytes(full))
}

/// CPU time where it is known: other programs do not add to it.
fn time_percent(point: &Point, full: &Point) -> Option<f64> {
    let time = |point: &Point| point.cpu_seconds.or(Some(point.seconds));
    percent(time(point), time(full))
}

fn row(point: &Point, full: &Point) -> String {
    let percent =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    let seconds =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        point.model,
        point.keep_ratio,
        point.positions,
        seconds(Some(point.seconds)),
        seconds(point.cpu_seconds),
        percent(time_percent(point, full)),
        mebibytes(point.at_rest_bytes),
        mebibytes(point.peak_bytes),
        percent(peak_percent(point, full)),
    )
}

fn table(points: &[Point]) -> String {
    let mut text = String::from(
        "| model | keep ratio | positions | step, wall s | step, CPU s | % of the first's | at rest, MiB | peak, MiB | \
         % of the first's |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in points {
        text += &row(point, fullest(points, point));
        text += "\n";
    }
    text
}

/// Peak memory and step time in percent of what the largest keep ratio takes.
fn plot(points: &[Point]) -> LinePlot {
    let mut models: Vec<&str> = points.iter().map(|point| point.model.as_str()).collect();
    models.dedup();
    let line = |model: &str, what: &str, value: fn(&Point, &Point) -> Option<f64>| {
        let of_model = points.iter().filter(|point| point.model == model);
        let mut points: Vec<(f64, f64)> = of_model
            .filter_map(|point| Some((point.keep_ratio, value(point, fullest(points, point))?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series {
            name: format!("{model}: {what}"),
            points,
        }
    };
    LinePlot {
        title: "A training step of the language model".into(),
        x_label: "keep ratio".into(),
        y_label: "% of the largest keep ratio's".into(),
        series: models
            .iter()
            .flat_map(|model| {
                [
                    line(model, "peak memory", peak_percent),
                    line(model, "step time", time_percent),
                ]
            })
            .collect(),
        ..LinePlot::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(model: &str, keep_ratio: f64, seconds: f64, peak_bytes: u64) -> Point {
        Point {
            model: model.to_owned(),
            parameters: 10,
            keep_ratio,
            visual_tokens: 100,
            positions: 20,
            seconds,
            cpu_seconds: None,
            peak_bytes: Some(peak_bytes),
            at_rest_bytes: None,
            loss: 1.0,
        }
    }

    #[test]
    fn a_point_comes_back_from_its_process_as_it_was() {
        let point = point("tiny", 0.2, 1.5, 7);
        assert_eq!(Point::read(&point.document()), Some(point));
        assert_eq!(Point::read(&json!({ "model": "tiny" })), None);
    }

    #[test]
    fn shares_are_of_the_largest_keep_ratio_of_the_same_model() {
        let points = [
            point("small", 0.5, 1.0, 30 << 20),
            point("small", 1.0, 4.0, 40 << 20),
            point("large", 1.0, 8.0, 80 << 20),
        ];
        let table = table(&points);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows[0],
            "| small | 0.5 | 20 | 1.000 | – | 25.0 | – | 30 | 75.0 |"
        );
        assert!(
            rows[2].ends_with("| 100.0 | – | 80 | 100.0 |"),
            "{}",
            rows[2]
        );
        let series = plot(&points).series;
        assert_eq!(series.len(), 4);
        assert_eq!(series[0].name, "small: peak memory");
        assert_eq!(series[0].points, [(0.5, 75.0), (1.0, 100.0)]);
        assert_eq!(series[1].points, [(0.5, 25.0), (1.0, 100.0)]);
    }
}
