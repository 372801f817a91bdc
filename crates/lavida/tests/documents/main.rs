//! Every command block of the README and of the pages in `docs/` and `cluster/`, run line by line as a reader would.
//!
//! A page gets a folder of its own with small trees where its lines expect the published ones ([`layout`]), both programs
//! on the `PATH`, and a shell for each line, in the order of the page. What a line says that cannot be had here is changed
//! by a table, each entry with its reason ([`substitutions`]). A block that cannot be run at all says in its page what it
//! needs. Lines of cargo are for `.ci/run` ([`cargo_lines`]).
//!
//! This binary is `lavida-dataset` too when it is called so: cargo builds only the programs of a test's own package, and
//! one that lay about might be an old one.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod cargo_lines;
mod layout;
mod pages;
#[allow(dead_code, reason = "what the tests of failures need beside")]
#[path = "../cli/process.rs"]
mod process;
mod running;
mod substitutions;

// Small datasets in the published layouts, which the builder's own tests share.
#[allow(dead_code, reason = "what the builder's tests need beside")]
#[path = "../../../../dataset-builder/tests/trees/mod.rs"]
mod trees;

use std::{path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use pages::Page;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_stem() == Some("lavida-dataset".as_ref()) {
        return lavida_dataset_builder::cli::main();
    }
    let mut trials = vec![
        claim("every_block_says_what_it_is", pages::check_marks),
        claim("every_substitution_is_of_use", substitutions::check_use),
        claim(
            "every_line_of_cargo_names_what_there_is",
            cargo_lines::check,
        ),
    ];
    if cfg!(unix) {
        let pages = Page::all().into_iter();
        let runnable = pages.filter(|page| page.blocks.iter().any(pages::Block::is_run));
        trials.extend(runnable.map(|page| {
            let name = format!("every_line_of_{}_runs", page.slug());
            claim(&name, move || running::run(&page))
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that fails by a panic.
fn claim(name: &str, check: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        check();
        Ok(())
    })
}
