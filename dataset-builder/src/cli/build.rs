//! `lavida-dataset build SOURCE …`: a source's own arguments with those of every build, and the run of one.

use std::fmt;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use lavida_data::shard::remove_unfinished;
use lavida_store::{Error, Result, Store};
use lavida_terminal::screen;

use super::{
    mix::{self, MixArgs},
    print_json,
};
use crate::build::{BuildEvent, BuildRequest, BuildSummary, build};
use crate::progress::BuildView;
use crate::read::files;
use crate::signals::Signals;
use crate::sources::SourceSpec;

/// What to build, and how.
#[derive(Debug)]
pub enum BuildCommand {
    /// A dataset: the arguments of its source with those of every build.
    Dataset {
        /// Which source dataset, and where it lies.
        source: Wanted,
        /// How to build.
        args: BuildArgs,
    },
    /// Every dataset of a mix file.
    Mix(MixArgs),
}

/// The name in the place of a source's.
const AUTO: &str = "auto";

/// What to build.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A source by its name.
    Source(SourceSpec),
    /// Whatever the folder holds.
    InFolder(PathBuf),
}

#[derive(Args, Debug)]
struct AutoArgs {
    /// The folder of the dataset, as it was unpacked
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Wanted {
    /// The source: of a folder the one whose layout it has.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder has the layout of none, or of several.
    pub fn source(self) -> Result<SourceSpec> {
        let dir = match self {
            Self::Source(source) => return Ok(source),
            Self::InFolder(dir) => dir,
        };
        let mut found = SourceSpec::found_in(&dir);
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                // An archive often unpacks into a folder of its own.
                let below = files::list_dirs(&dir)?;
                let hint = below
                    .iter()
                    .find_map(|dir| Some((dir, SourceSpec::found_in(dir).pop()?)));
                let instead = match hint {
                    Some((below, source)) => format!("{} in {}", source.name(), below.display()),
                    None => files::describe(&dir),
                };
                Err(Error::invalid(
                    dir.display(),
                    "the layout of a source (`lavida-dataset build --help`)",
                    instead,
                ))
            }
            _ => {
                let names: Vec<&str> = found.iter().map(SourceSpec::name).collect();
                let instead = format!(
                    "those of {}: name one in the place of `auto`",
                    names.join(", ")
                );
                Err(Error::invalid(
                    dir.display(),
                    "the layout of one source",
                    instead,
                ))
            }
        }
    }
}

/// How to build, whatever the source.
#[derive(Args, Clone, Debug)]
pub struct BuildArgs {
    /// Where the dataset goes: a path, file:///…, s3://…, gs://…, az://…; a dry run needs none
    #[arg(long, value_name = "URI", required_unless_present = "dry_run")]
    pub out: Option<String>,
    /// Name of the dataset [default: the source's name]
    #[arg(long, value_name = "NAME")]
    pub dataset_name: Option<String>,
    /// Go on after an interrupted build of the same input, keeping its finished shards
    #[arg(long)]
    pub resume: bool,
    /// How files are read, and what is said.
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How the files of a dataset are read, of one or of all of a mix, and what is said of it.
#[derive(Args, Clone, Debug)]
pub struct ReadingArgs {
    /// Read and check everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Stop at the first faulty annotation or file instead of counting it
    #[arg(long)]
    pub strict: bool,
    /// Fail when a fault leaves something out in more than this share of the images or videos [default: 0.01, and a few always]
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    pub max_bad_fraction: Option<f64>,
    /// Images or videos read at the same time [default: processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl ReadingArgs {
    /// A build of `source` into `out`, read so.
    pub(super) fn request(&self, source: SourceSpec, out: Store) -> BuildRequest {
        let mut request = BuildRequest::new(source, out);
        request.strict = self.strict;
        request.dry_run = self.dry_run;
        request.max_bad_fraction = self.max_bad_fraction;
        if let Some(jobs) = self.jobs {
            request.jobs = usize::from(jobs);
        }
        request
    }
}

impl FromArgMatches for BuildCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (name, of_source) = matches
            .subcommand()
            .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
        if name == mix::NAME {
            return Ok(Self::Mix(MixArgs::from_arg_matches(of_source)?));
        }
        let source = if name == AUTO {
            Wanted::InFolder(AutoArgs::from_arg_matches(of_source)?.dir)
        } else {
            Wanted::Source(SourceSpec::from_arg_matches(matches)?)
        };
        let args = BuildArgs::from_arg_matches(of_source)?;
        Ok(Self::Dataset { source, args })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for BuildCommand {
    fn augment_subcommands(command: Command) -> Command {
        let about = "The dataset in a folder, by the layout that it has";
        let auto = AutoArgs::augment_args(Command::new(AUTO)).about(about);
        SourceSpec::augment_subcommands(command)
            .subcommand(auto)
            .mut_subcommands(with_build_args)
            .subcommand(MixArgs::augment_args(Command::new(mix::NAME)).about(mix::HELP))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        [AUTO, mix::NAME].contains(&name) || SourceSpec::has_subcommand(name)
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    let share = text
        .parse::<f64>()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share from 0 to 1 is expected".to_owned())
}

/// A source's command keeps its own line of help.
fn with_build_args(source: Command) -> Command {
    let about = source.get_about().cloned().unwrap_or_default();
    BuildArgs::augment_args(source).about(about)
}

impl BuildCommand {
    /// Builds, shows how far it is, and prints what was made.
    ///
    /// # Errors
    ///
    /// As [`build`]; [`Error::Stopped`] after Ctrl-C or SIGTERM.
    pub(super) async fn run(self) -> Result<()> {
        let (source, args) = match self {
            Self::Dataset { source, args } => (source, args),
            Self::Mix(args) => return mix::run(args).await,
        };
        let is_auto = matches!(source, Wanted::InFolder(_));
        let source = source.source()?;
        if is_auto {
            screen::line(&format!("found the layout of {}", source.name()));
        }
        // A dry run without a place writes nothing, to nowhere.
        let out = Store::open(args.out.as_deref().unwrap_or("memory://dry-run"))?;
        let mut request = args.reading.request(source, out);
        request.dataset_name = args.dataset_name;
        request.resume = args.resume;
        let mut interrupted = std::pin::pin!(interrupted()?);
        let summary = run_one(&request, interrupted.as_mut()).await?;
        if args.reading.json {
            print_json(&summary)
        } else {
            Ok(())
        }
    }
}

/// Builds one dataset, shows how far it is, and says what was made.
pub(super) async fn run_one(
    request: &BuildRequest,
    interrupted: impl Future<Output = ()>,
) -> Result<BuildSummary> {
    let view = BuildView::default();
    let show = |event: BuildEvent<'_>| view.show(event);
    let built = tokio::select! {
        built = build(request, &show) => built,
        () = interrupted => Err(stopped(request).await),
    };
    drop(view);
    let summary = built?;
    screen::line(Report(&summary).to_string().trim_end());
    Ok(summary)
}

/// Resolves at the first Ctrl-C (or SIGTERM); a second one ends the process at once. Both are listened to from the call on.
pub(super) fn interrupted() -> Result<impl Future<Output = ()>> {
    let signals = Signals::new();
    let mut signals =
        signals.map_err(|error| Error::Internal(format!("listening for signals: {error}")))?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(130);
        });
    })
}

/// What is said of a build that is given up, once nothing half written is left of it.
async fn stopped(request: &BuildRequest) -> Error {
    if !request.dry_run
        && let Err(error) = remove_unfinished(&request.out).await
    {
        screen::line(&format!(
            "what is half written stays until the next build: {error}"
        ));
    }
    Error::Stopped {
        until: "before the end, no dataset is there".to_owned(),
        next: "the same command with --resume goes on after the last whole shard".to_owned(),
    }
}

/// A build's summary as people read it: one line, then the table of what was left out.
struct Report<'a>(&'a BuildSummary);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            writeln!(f, "left out or changed:")?;
            for (reason, count) in &summary.skipped {
                writeln!(f, "  {count:>8}  {reason}")?;
            }
        }
        Ok(())
    }
}
