//! `lavida-dataset build mix FILE`, also written `build --mix FILE`: every dataset of a mix whose files are there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::dataset::Dataset;
use lavida_data::manifest::Purpose;
use lavida_data::mix::{Mix, MixDataset};
use lavida_store::{Error, Result, Store};
use lavida_terminal::{screen, units::counted};
use serde::Serialize;

use super::build::{ReadingArgs, interrupted, run_one};
use super::print_json;
use crate::build::BuildSummary;
use crate::read::files;
use crate::sources::{self, SourceSpec};

/// The name in the place of a source's.
pub(super) const NAME: &str = "mix";
/// What `build --help` says of it.
pub(super) const HELP: &str = "Every dataset of a mix file whose files are there";

/// Which mix to build.
#[derive(Args, Clone, Debug)]
pub struct MixArgs {
    /// The mix file, such as configs/mixes/paper.toml
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The folder of all unpacked datasets: each lies there under its name, or where the mix file says
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Where the datasets go, each under its name [default: the mix file's root]
    #[arg(long, value_name = "URI")]
    pub out: Option<String>,
    /// How files are read, and what is said.
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// What came of the datasets of a mix.
#[derive(Debug, Default, Serialize)]
struct MixSummary {
    /// Those that were built now.
    built: Vec<BuildSummary>,
    /// Those that had been.
    there: Vec<String>,
    /// Those whose files are not there.
    missing: Vec<Missing>,
}

/// A dataset without its files.
#[derive(Debug, Serialize)]
struct Missing {
    dataset: String,
    expected: String,
}

/// `build --mix FILE` as `build mix FILE`.
pub(super) fn as_word(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_none_or(|word| word != "build") {
        return words;
    }
    let Some(first) = words.get(2).and_then(|word| word.to_str()) else {
        return words;
    };
    if first == "--mix" {
        words[2] = NAME.into();
    } else if let Some(file) = first.strip_prefix("--mix=") {
        let file = file.to_owned();
        words.splice(2..3, [NAME.into(), file.into()]);
    }
    words
}

/// Builds what is there, one dataset after the other, and says what is missing. An interrupted build is gone on with.
///
/// # Errors
///
/// [`Error::Invalid`] for a mix that is wrong, names what is no source, or of which nothing is there; otherwise that of the
/// first dataset that could not be built, once the others are.
pub(super) async fn run(args: MixArgs) -> Result<()> {
    let mix = Mix::read(&args.file)?;
    let known = sources::names(Purpose::Training);
    for dataset in &mix.datasets {
        if !known.contains(&dataset.source()) {
            let what = format!("{}: dataset {}, source", args.file.display(), dataset.name);
            let expected = format!("a source of training data ({})", known.join(", "));
            return Err(Error::invalid(what, expected, dataset.source()));
        }
    }
    let root = args.out.as_ref().unwrap_or(&mix.root);
    let mut interrupted = std::pin::pin!(interrupted()?);
    let mut summary = MixSummary::default();
    let mut failed: Vec<Error> = Vec::new();
    for dataset in &mix.datasets {
        let name = &dataset.name;
        let out = Store::open(&dataset.uri_below(root))?;
        if Dataset::is_at(&out).await? {
            screen::line(&format!("{name}: there already, at {}", out.uri()));
            summary.there.push(name.clone());
            continue;
        }
        let source = match found(dataset, &args.root) {
            Ok(source) => source,
            Err(missing) => {
                screen::line(&format!("{name}: missing, expected {}", missing.expected));
                summary.missing.push(missing);
                continue;
            }
        };
        let mut request = args.reading.request(source, out);
        request.dataset_name = (dataset.source() != name).then(|| name.clone());
        request.resume = true;
        match run_one(&request, interrupted.as_mut()).await {
            Ok(built) => summary.built.push(built),
            Err(error @ Error::Stopped { .. }) => return Err(error),
            Err(error) => {
                screen::line(&format!("{name}: not built: {error}"));
                failed.push(error);
            }
        }
    }
    screen::line(&format!(
        "mix: {} built, {} there already, {} missing, {} failed",
        counted(summary.built.len(), "dataset"),
        summary.there.len(),
        summary.missing.len(),
        failed.len()
    ));
    if args.reading.json {
        print_json(&summary)?;
    }
    if let Some(error) = failed.into_iter().next() {
        return Err(error);
    }
    if summary.built.is_empty() && summary.there.is_empty() {
        let expected = "a folder of one of the mix's datasets at least";
        return Err(Error::invalid(
            args.root.display(),
            expected,
            files::describe(&args.root),
        ));
    }
    Ok(())
}

/// The source of a dataset with its arguments, where its files lie as it expects them.
fn found(dataset: &MixDataset, root: &Path) -> Result<SourceSpec, Missing> {
    let folder = root.join(dataset.raw());
    let sources = SourceSpec::found_in(&folder).into_iter();
    let mut sources = sources.filter(|source| source.name() == dataset.source());
    sources.next().ok_or_else(|| Missing {
        dataset: dataset.name.clone(),
        expected: format!(
            "the layout of {} in {} (docs/datasets.md)",
            dataset.source(),
            folder.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_named_by_an_option_or_by_a_word() {
        for line in [
            "build --mix m.toml --root d",
            "build --mix=m.toml --root d",
            "build mix m.toml --root d",
        ] {
            let words = std::iter::once("lavida-dataset").chain(line.split(' '));
            let words = as_word(words.map(OsString::from).collect());
            assert_eq!(words[2..4], ["mix", "m.toml"], "{line}");
        }
    }
}
