//! The command line of `lavida-dataset`.
//!
//! Results go to standard output (one JSON document and nothing else with `--json`), progress and warnings to standard
//! error. Exit codes: [`lavida_store::EXIT_CODES`].

mod help;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use lavida_data::dataset::Dataset;
use lavida_data::shard::remove_unfinished;
use lavida_store::{Error, Result, Store};
use lavida_terminal::generate::{self, CompletionsArgs, ManArgs};
use lavida_terminal::progress::{Progress, Unit};
use lavida_terminal::{log, screen};
use serde::Serialize;

use crate::build::{BuildEvent, BuildRequest, BuildSummary, build};
use crate::output::{command_line, local_path, print, words};
use crate::preview::{PreviewSettings, preview};
use crate::progress::BuildView;
use crate::sources::{
    Ade20kArgs, CityscapesArgs, CocoArgs, CocoPanopticArgs, DavisArgs, MapillaryArgs, MevisArgs,
    RefVideosArgs, ShanghaitechArgs, SourceSpec, UcsdPedArgs, YoutubeVosArgs,
};
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

/// Which source dataset.
#[derive(Debug, Subcommand)]
pub enum BuildCommand {
    /// COCO instances: a JSON file and a folder of images
    Coco(SourceArgs<CocoArgs>),
    /// COCO panoptic: things and stuff
    CocoPanoptic(SourceArgs<CocoPanopticArgs>),
    /// ADE20K scene parsing (ADEChallengeData2016)
    Ade20k(SourceArgs<Ade20kArgs>),
    /// Cityscapes: street scenes
    Cityscapes(SourceArgs<CityscapesArgs>),
    /// Mapillary Vistas 2.0: street scenes
    Mapillary(SourceArgs<MapillaryArgs>),
    /// DAVIS-2016 and DAVIS-2017
    Davis(SourceArgs<DavisArgs>),
    /// YouTube-VOS
    YoutubeVos(SourceArgs<YoutubeVosArgs>),
    /// MeViS: videos with referring expressions
    Mevis(SourceArgs<MevisArgs>),
    /// Ref-YouTube-VOS: videos with referring expressions
    RefYoutubeVos(SourceArgs<RefVideosArgs>),
    /// Ref-DAVIS, in the layout of Ref-YouTube-VOS
    RefDavis(SourceArgs<RefVideosArgs>),
    /// UCSD Ped1 and Ped2, for evaluation
    UcsdPed(SourceArgs<UcsdPedArgs>),
    /// ShanghaiTech Campus, for evaluation
    Shanghaitech(SourceArgs<ShanghaitechArgs>),
}

/// A source's own arguments and those of every build.
#[derive(Args, Debug)]
pub struct SourceArgs<A: Args> {
    /// Where the source lies
    #[command(flatten)]
    pub source: A,
    /// How to build
    #[command(flatten)]
    pub build: BuildArgs,
}

/// How to build, whatever the source.
#[derive(Args, Clone, Debug)]
pub struct BuildArgs {
    /// Where the dataset goes: a path, file:///…, s3://…, gs://…, az://…
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Name of the dataset [default: the source's name]
    #[arg(long, value_name = "NAME")]
    pub dataset_name: Option<String>,
    /// Read and check everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on after an interrupted build of the same input, keeping its finished shards
    #[arg(long)]
    pub resume: bool,
    /// Stop at the first faulty annotation or file instead of counting it
    #[arg(long)]
    pub strict: bool,
    /// Images or videos read at the same time [default: processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which dataset to verify.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A built dataset
    pub uri: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
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
    #[arg(long, value_name = "FILE.png", default_value = "preview.png", value_parser = local_path)]
    pub out: PathBuf,
    /// Samples to draw, spread evenly over the dataset
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub samples: u16,
}

/// Where the synthetic world goes.
#[derive(Args, Debug)]
pub struct SynthArgs {
    /// Folder for coco/, ade20k/, mevis/, youtube-vos/ and ucsd-ped/
    #[arg(long, value_name = "DIR", value_parser = local_path)]
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
    let words = with_panoptic_file(std::env::args_os().collect());
    let ended = command_line::<Cli>(words).and_then(|cli| match cli {
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

/// `build coco-panoptic --json FILE` is how the annotations were named first. The switch `--json` takes no value, so with one
/// it can only mean that, and scripts that say so go on.
fn with_panoptic_file(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_none_or(|word| word != "build")
        || words.get(2).is_none_or(|word| word != "coco-panoptic")
    {
        return words;
    }
    for i in 3..words.len() {
        let Some(word) = words[i].to_str() else {
            continue;
        };
        let has_value = words
            .get(i + 1)
            .is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"));
        if word == "--json" && has_value {
            words[i] = "--annotations".into();
        } else if let Some(file) = word.strip_prefix("--json=") {
            words[i] = format!("--annotations={file}").into();
        }
    }
    words
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
        Command::Build(command) => {
            let (source, args) = command.split();
            build_command(source, &args).await
        }
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
                print(&stats.to_string())
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
            print(&format!("{}\n", args.out.display()))
        }
        Command::Synth(args) => synth_command(&args),
        Command::Completions(args) => print(&generate::completions(Cli::command(), args.shell)),
        Command::Man(args) => {
            let n_pages = generate::man(Cli::command(), &args.out)?;
            screen::line(&format!("man: {n_pages} pages in {}", args.out.display()));
            Ok(())
        }
    }
}

impl BuildCommand {
    fn split(self) -> (SourceSpec, BuildArgs) {
        match self {
            Self::Coco(args) => (SourceSpec::Coco(args.source), args.build),
            Self::Ade20k(args) => (SourceSpec::Ade20k(args.source), args.build),
            Self::CocoPanoptic(args) => (SourceSpec::CocoPanoptic(args.source), args.build),
            Self::Cityscapes(args) => (SourceSpec::Cityscapes(args.source), args.build),
            Self::Mapillary(args) => (SourceSpec::Mapillary(args.source), args.build),
            Self::RefYoutubeVos(args) => (SourceSpec::RefYoutubeVos(args.source), args.build),
            Self::RefDavis(args) => (SourceSpec::RefDavis(args.source), args.build),
            Self::Shanghaitech(args) => (SourceSpec::Shanghaitech(args.source), args.build),
            Self::Davis(args) => (SourceSpec::Davis(args.source), args.build),
            Self::YoutubeVos(args) => (SourceSpec::YoutubeVos(args.source), args.build),
            Self::Mevis(args) => (SourceSpec::Mevis(args.source), args.build),
            Self::UcsdPed(args) => (SourceSpec::UcsdPed(args.source), args.build),
        }
    }
}

async fn build_command(source: SourceSpec, args: &BuildArgs) -> Result<()> {
    let mut request = BuildRequest::new(source, Store::open(&args.out)?);
    request.dataset_name.clone_from(&args.dataset_name);
    request.strict = args.strict;
    request.dry_run = args.dry_run;
    request.resume = args.resume;
    if let Some(jobs) = args.jobs {
        request.jobs = usize::from(jobs);
    }
    let view = BuildView::default();
    let show = |event: BuildEvent<'_>| view.show(event);
    let built = tokio::select! {
        built = build(&request, &show) => built,
        () = interrupted() => Err(stopped(&request).await),
    };
    drop(view);
    let summary = built?;
    words(&Report(&summary).to_string());
    if args.json {
        print_json(&summary)
    } else {
        Ok(())
    }
}

/// Resolves at the first Ctrl-C (or SIGTERM); a second one ends the process at once.
async fn interrupted() {
    signalled().await;
    tokio::spawn(async {
        signalled().await;
        std::process::exit(130);
    });
}

async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await; // without signals there is nothing to wait for
}

/// What is said of a build that is given up, once nothing half written is left of it.
async fn stopped(request: &BuildRequest) -> Error {
    if !request.dry_run
        && let Err(error) = remove_unfinished(&request.out).await
    {
        eprintln!("what is half written stays until the next build: {error}");
    }
    Error::Stopped {
        until: "before the end, no dataset is there".to_owned(),
        next: "the same command with --resume goes on after the last whole shard".to_owned(),
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
        eprintln!(
            "{name}: {} scenes, {} frames, {} objects, {bytes}",
            set.scenes, set.frames, set.objects
        );
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
    let progress = Progress::brief("verify", Unit::Bytes, manifest.bytes);
    let verified = dataset.verify_with(|n_bytes| progress.set(n_bytes)).await;
    drop(progress);
    let report = verified?;
    for key in &report.leftovers {
        eprintln!("not part of the dataset, left by an unfinished build: {key}");
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
            "bytes": report.bytes,
            "hash": manifest.hash_hex(),
            "leftovers": report.leftovers,
        }));
    }
    print(&format!(
        "{} {}: whole: {} samples, {} frames, {} objects, {} masks, {}\n",
        manifest.header.dataset,
        manifest.header.split,
        report.samples,
        report.frames,
        report.objects,
        report.masks,
        indicatif::HumanBytes(report.bytes),
    ))
}

/// A build's summary as people read it: one line, then the table of what was left out.
struct Report<'a>(&'a BuildSummary);

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let summary = self.0;
        let bytes = indicatif::HumanBytes(summary.bytes);
        write!(
            f,
            "{} {}: {} samples, {} frames, {} objects",
            summary.dataset, summary.split, summary.samples, summary.frames, summary.objects
        )?;
        match &summary.manifest {
            Some(manifest) => writeln!(f, ", {bytes}: {manifest}")?,
            None => writeln!(f, ", {bytes} of frames; dry run, nothing written")?,
        }
        if !summary.skipped.is_empty() {
            writeln!(f, "left out:")?;
            for (reason, count) in &summary.skipped {
                writeln!(f, "  {count:>8}  {reason}")?;
            }
        }
        Ok(())
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    print(&format!("{text}\n"))
}

fn write_file(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    let unwritable = |error: std::io::Error| Error::unwritable(path.display(), error);
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent).map_err(unwritable)?;
    }
    std::fs::write(path, bytes).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::sources::TRAINING_SOURCES;

    /// clap looks at a command only when it is asked for: an argument that is there twice is found here, not by a user.
    #[test]
    fn every_command_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_panoptic_file_may_be_named_by_json_as_it_was_first() {
        let parsed = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let cli = Cli::try_parse_from(with_panoptic_file(words)).expect("it parses");
            match cli.command {
                Command::Build(BuildCommand::CocoPanoptic(args)) => {
                    (args.source.annotations, args.build.json)
                }
                other => panic!("{other:?}"),
            }
        };
        let rest = "--panoptic png --images jpg --out shards";
        for (given, prints) in [
            ("--json pan.json", false),
            ("--json=pan.json", false),
            ("--annotations pan.json --json", true),
            ("--json pan.json --json", true),
        ] {
            let line = format!("lavida-dataset build coco-panoptic {given} {rest}");
            assert_eq!(parsed(&line), ("pan.json".into(), prints), "{given}");
        }
    }

    fn names_of_sources() -> BTreeSet<String> {
        let command = Cli::command();
        let build = command.find_subcommand("build").expect("a command");
        let names = build
            .get_subcommands()
            .map(|source| source.get_name().to_owned());
        names.collect()
    }

    #[test]
    fn the_page_of_sources_shows_each_with_a_line_that_parses() {
        let page = include_str!("../../docs/datasets.md").replace("\\\n", " ");
        let lines = page
            .lines()
            .filter(|line| line.starts_with("lavida-dataset build "));
        let shown = lines.map(|line| {
            let words = line.split('"').zip([false, true].into_iter().cycle());
            let words = words.flat_map(|(part, is_quoted)| {
                if is_quoted {
                    vec![part]
                } else {
                    part.split_whitespace().collect()
                }
            });
            let parsed = Cli::try_parse_from(words);
            let Command::Build(build) = parsed.unwrap_or_else(|e| panic!("{line}\n{e}")).command
            else {
                panic!("{line}");
            };
            build.split().0.name().to_owned()
        });
        assert_eq!(shown.collect::<BTreeSet<_>>(), names_of_sources());
    }

    #[test]
    fn sources_are_for_training_or_for_evaluation() {
        let evaluation = ["shanghaitech", "ucsd-ped"];
        let all = TRAINING_SOURCES.iter().chain(&evaluation);
        let all: BTreeSet<String> = all.map(|name| (*name).to_owned()).collect();
        assert_eq!(all, names_of_sources());
    }
}
