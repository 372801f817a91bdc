//! The command line of `lavida-dataset`.
//!
//! Results go to standard output (one JSON document and nothing else with `--json`), progress and warnings to standard
//! error. Exit codes: [`lavida_store::EXIT_CODES`].

mod build;
mod help;
mod mix;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use lavida_data::dataset::Dataset;
use lavida_store::{Error, Result, Store};
use lavida_terminal::progress::{Progress, Unit};
use lavida_terminal::{log, screen};
use serde::Serialize;

pub use self::build::{BuildArgs, BuildCommand, ReadingArgs, Wanted};
pub use self::mix::MixArgs;
use crate::command_line::{self, CompletionsArgs, ManArgs};
use crate::preview::{PreviewSettings, preview};
use crate::sources::images::coco_panoptic::with_annotations_named;
use crate::stats::stats;
use crate::synth::{WorldSettings, render};

/// A file that is read stays where it is; nothing waits longer than this for a reader when the process ends.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Source datasets to pseudo-anomaly shards.
#[derive(Debug, Parser)]
#[command(
    name = "lavida-dataset",
    version,
    long_version = help::long_version(),
    about,
    propagate_version = true,
    max_term_width = 100,
    after_long_help = help::of_program()
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn a source dataset into shards and a manifest, committed last
    #[command(subcommand, after_help = help::build())]
    Build(BuildCommand),
    /// Read a built dataset whole and check every hash, row and mask
    Verify(VerifyArgs),
    /// Count what is in a built dataset: categories, sizes, lengths, mask areas
    Stats(StatsArgs),
    /// Draw samples with their masks on one contact sheet
    Preview(PreviewArgs),
    /// Render a small synthetic world in the layouts of the source datasets
    Synth(SynthArgs),
    /// Print the script that has a shell complete this program's commands and options
    Completions(CompletionsArgs),
    /// Write man pages, one a command
    Man(ManArgs),
}

/// Which dataset to verify.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A built dataset
    pub uri: String,
    /// Only every N-th shard from the I-th on, from 1: a part for each task of a job array
    #[arg(long, value_name = "I/N", value_parser = part_of_several)]
    pub shard: Option<(usize, usize)>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `2/8`: which one, from 1, of how many.
fn part_of_several(text: &str) -> Result<(usize, usize), String> {
    let part = text.split_once('/').and_then(|(i, n)| {
        let (i, n) = (i.parse::<usize>().ok()?, n.parse::<usize>().ok()?);
        (1..=n).contains(&i).then_some((i, n))
    });
    part.ok_or_else(|| "I/N is expected, I from 1 to N, such as 2/8".to_owned())
}

/// Which dataset to count.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// A built dataset
    pub uri: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which samples to draw.
#[derive(Args, Debug)]
pub struct PreviewArgs {
    /// A built dataset
    pub uri: String,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "preview.png", value_parser = lavida_store::local_path)]
    pub out: PathBuf,
    /// Samples to draw, spread evenly over the dataset
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub samples: u16,
}

/// Where the synthetic world goes.
#[derive(Args, Debug)]
pub struct SynthArgs {
    /// Folder for coco/, ade20k/, mevis/, youtube-vos/ and ucsd-ped/
    #[arg(long, value_name = "DIR", value_parser = lavida_store::local_path)]
    pub out: PathBuf,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// The program: reads the command line and runs it to its exit code; errors are printed to standard error.
pub fn main() -> ExitCode {
    let words = with_annotations_named(std::env::args_os().collect());
    let words = mix::as_word(words);
    let ended = command_line::parse::<Cli>(words).and_then(|cli| match cli {
        Some(cli) => log::start("warn").and_then(|()| in_runtime(cli.command)),
        None => Ok(()),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::line(&format!("lavida-dataset: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn in_runtime(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(Box::pin(execute(command)));
    runtime.shutdown_timeout(LAST_THREADS);
    ended
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Build(command) => command.run().await,
        Command::Verify(args) => verify_command(&args).await,
        Command::Stats(args) => {
            let dataset = Dataset::open(&Store::open(&args.uri)?).await?;
            let progress =
                Progress::brief("stats", Unit::Each("sample"), dataset.manifest().samples);
            let stats = stats(&dataset, |n_samples| progress.set(n_samples)).await?;
            drop(progress);
            if args.json {
                print_json(&stats)
            } else {
                screen::print(&stats.to_string())
            }
        }
        Command::Preview(args) => {
            let dataset = Dataset::open(&Store::open(&args.uri)?).await?;
            let settings = PreviewSettings {
                n_samples: usize::from(args.samples),
                ..PreviewSettings::default()
            };
            let progress = Progress::brief("preview", Unit::Each("sample"), args.samples.into());
            let picture = preview(&dataset, &settings, |n_tiles| progress.set(n_tiles)).await?;
            drop(progress);
            write_file(&args.out, &picture.png())?;
            screen::print(&format!("{}\n", args.out.display()))
        }
        Command::Synth(args) => synth_command(&args),
        Command::Completions(args) => {
            screen::print(&command_line::completions(Cli::command(), args.shell))
        }
        Command::Man(args) => {
            let n_pages = command_line::man(Cli::command(), &args.out)?;
            screen::line(&format!("man: {n_pages} pages in {}", args.out.display()));
            Ok(())
        }
    }
}

fn synth_command(args: &SynthArgs) -> Result<()> {
    let progress = Progress::new("synth", Unit::Each("frame"), 0);
    let world = WorldSettings::default();
    let rendered = render(&args.out, args.seed, &world, |n_frames, total| {
        progress.set_total(total as u64);
        progress.set(n_frames as u64);
    });
    drop(progress);
    let summary = rendered?;
    for (name, set) in &summary.sets {
        let bytes = indicatif::HumanBytes(set.bytes);
        screen::line(&format!(
            "{name}: {} scenes, {} frames, {} objects, {bytes}",
            set.scenes, set.frames, set.objects
        ));
    }
    if args.json {
        print_json(&summary)
    } else {
        Ok(())
    }
}

async fn verify_command(args: &VerifyArgs) -> Result<()> {
    let dataset = Dataset::open(&Store::open(&args.uri)?).await?;
    let manifest = dataset.manifest();
    let (part, n_parts) = args.shard.unwrap_or((1, 1));
    let is_wanted = |shard_idx: usize| shard_idx % n_parts == part - 1;
    let wanted = manifest.shards.iter().enumerate();
    let wanted = wanted.filter(|(shard_idx, _)| is_wanted(*shard_idx));
    let n_bytes = wanted.map(|(_, shard)| shard.bytes).sum();
    let progress = Progress::brief("verify", Unit::Bytes, n_bytes);
    let show = |n_bytes| progress.set(n_bytes);
    let verified = dataset.verify_with(is_wanted, show).await;
    drop(progress);
    let report = verified?;
    for key in &report.leftovers {
        screen::line(&format!(
            "not part of the dataset, left by an unfinished build: {key}"
        ));
    }
    if args.json {
        return print_json(&serde_json::json!({
            "dataset": manifest.header.dataset,
            "split": manifest.header.split,
            "samples": report.samples,
            "frames": report.frames,
            "objects": report.objects,
            "masks": report.masks,
            "shards": report.shards,
            "shards_of_all": manifest.shards.len(),
            "bytes": report.bytes,
            "hash": manifest.hash_hex(),
            "leftovers": report.leftovers,
        }));
    }
    let whole = if report.shards == manifest.shards.len() as u64 {
        "whole".to_owned()
    } else {
        let all = manifest.shards.len();
        format!("{} of {all} shards whole", report.shards)
    };
    screen::print(&format!(
        "{} {}: {whole}: {} samples, {} frames, {} objects, {} masks, {}\n",
        manifest.header.dataset,
        manifest.header.split,
        report.samples,
        report.frames,
        report.objects,
        report.masks,
        indicatif::HumanBytes(report.bytes),
    ))
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    screen::print(&format!("{text}\n"))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let unwritable = |error: std::io::Error| Error::unwritable(path.display(), error);
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent).map_err(unwritable)?;
    }
    lavida_files::write(path, bytes).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// clap looks at a command only when it is asked for: an argument that is there twice is found here, not by a user.
    #[test]
    fn every_command_is_sound() {
        Cli::command().debug_assert();
    }
}
