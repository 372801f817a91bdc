//! One point of `lavida bench compression`, measured in this process.

use lavida_data::{Error, Result};
use lavida_dataflow::{
    clock::{Clock, SystemClock},
    device,
};
use lavida_model::{
    compression::{CompressionConfig, KeepRatio},
    qwen2_vl::language_step::LanguageStep,
};

use super::{BenchModel, Point, PointArgs};
use crate::config;

/// Seed of weights and clip.
const SEED: u64 = 44;

/// Sizes that the middle model changes in `tiny.toml`: 71 M parameters.
const MEDIUM: [&str; 7] = [
    "model.language.hidden_size=768",
    "model.language.intermediate_size=3072",
    "model.language.num_hidden_layers=8",
    "model.language.num_attention_heads=12",
    "model.language.num_key_value_heads=4",
    "model.language.mrope_section=[8, 12, 12]",
    "model.language.vocab_size=2048",
];

/// The keep ratio that was asked for.
pub fn ratio(keep_ratio: f64) -> Result<KeepRatio> {
    KeepRatio::new(keep_ratio)
        .map_err(|_| Error::invalid("--keep-ratios", "values in (0, 1]", keep_ratio))
}

/// One step to warm up, then as many as asked.
pub fn point(args: &PointArgs) -> anyhow::Result<Point> {
    let keep_ratio = ratio(args.keep_ratio)?;
    let changes: &[&str] = match args.model {
        BenchModel::Tiny => &[],
        BenchModel::Medium => &MEDIUM,
        BenchModel::Paper => &[],
    };
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    let from = match args.model {
        BenchModel::Tiny | BenchModel::Medium => "embedded:tiny",
        BenchModel::Paper => "embedded:paper",
    };
    let settings = config::load(from, &changes)?.settings;
    let model = settings.model.config();
    let merging = CompressionConfig {
        keep_ratio,
        ..settings.compression.merging()
    };

    let device = device::named(&args.device)?;
    let step = LanguageStep::new(
        &model.vision,
        &model.language,
        args.visual_tokens,
        args.text_tokens,
        &device,
        SEED,
    );
    let at_rest_bytes = status_bytes("VmRSS:");
    let clock = SystemClock::default();
    let report = step.run(&merging)?;
    let cpu_before = cpu_seconds();
    let mut seconds = Vec::with_capacity(args.steps);
    for _ in 0..args.steps {
        let start = clock.monotonic();
        step.run(&merging)?;
        seconds.push((clock.monotonic() - start).as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let cpu_seconds = cpu_seconds()
        .zip(cpu_before)
        .map(|(after, before)| (after - before) / args.steps as f64);
    Ok(Point {
        model: args.model.name().to_owned(),
        parameters: step.n_parameters(),
        keep_ratio: args.keep_ratio,
        visual_tokens: args.visual_tokens,
        positions: report.n_positions,
        seconds: seconds[seconds.len() / 2],
        cpu_seconds,
        peak_bytes: status_bytes("VmHWM:"),
        at_rest_bytes,
        loss: f64::from(report.loss),
    })
}

/// A line of Linux's account of this process: `VmHWM:` is its most resident memory since it was started (`getrusage` would
/// also count what its parent had), `VmRSS:` what is resident now.
fn status_bytes(name: &str) -> Option<u64> {
    let status = lavida_files::read_system("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// User and system time of this process, where Linux says it.
fn cpu_seconds() -> Option<f64> {
    let stat = lavida_files::read_system("/proc/self/stat").ok()?;
    // After the name in parentheses; fields 14 and 15, in ticks of 10 ms.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}
