//! What every source keeps, whatever it reads: each case is run for each source of [`SourceSpec::ALL`].
//!
//! A source is run by the command that `docs/datasets.md` shows for it, on a small tree in the published layout
//! ([`trees::lay`]). What a case breaks is written down in [`parts`]; a source that is in the list and has no command on the
//! page, no tree or no parts fails here.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod cases;
mod page;
mod parts;
mod subject;
#[allow(dead_code, reason = "what the builder's other tests need beside")]
#[path = "../trees/mod.rs"]
mod trees;

use std::collections::BTreeSet;
use std::process::ExitCode;

use lavida_dataset_builder::SourceSpec;
use libtest_mimic::{Arguments, Trial};

use crate::subject::Subject;

/// A claim, and what checks it for one source.
type Case = (&'static str, fn(&Subject));

const CASES: [Case; 8] = [
    (
        "every_command_of_the_page_runs_and_makes_what_it_says",
        cases::every_command_runs,
    ),
    (
        "a_cut_annotation_file_is_refused_and_named",
        cases::cut_annotations,
    ),
    (
        "what_is_no_file_in_the_place_of_annotations_is_refused_and_named",
        cases::special_annotations,
    ),
    (
        "a_missing_mask_is_counted_and_never_nothing",
        cases::missing_mask,
    ),
    ("a_cut_mask_file_is_counted", cases::cut_mask),
    (
        "an_unreadable_image_is_counted_and_fatal_when_strict",
        cases::unreadable_image,
    ),
    (
        "a_resumed_build_is_the_undisturbed_one",
        cases::resumed_build,
    ),
    ("row_ids_do_not_change_between_builds", cases::stable_ids),
];

fn main() -> ExitCode {
    let names = SourceSpec::ALL.iter().map(|(name, _)| *name);
    let mut trials = vec![Trial::test(
        "every_source_is_on_the_page_and_in_the_parts",
        || {
            every_source_is_known();
            Ok(())
        },
    )];
    for name in names {
        trials.extend(CASES.iter().map(|(claim, check)| {
            Trial::test(format!("{name}::{claim}"), move || {
                check(&Subject::new(name));
                Ok(())
            })
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn every_source_is_known() {
    let listed: BTreeSet<&str> = SourceSpec::ALL.iter().map(|(name, _)| *name).collect();
    let commands = page::commands();
    let shown = commands.iter().map(|words| words[2].as_str());
    let shown: BTreeSet<&str> = shown.filter(|word| *word != "--mix").collect();
    assert_eq!(shown, listed, "commands of docs/datasets.md");
    let in_parts: BTreeSet<&str> = parts::ALL.iter().map(|parts| parts.source).collect();
    assert_eq!(in_parts, listed, "parts of trees");
}
