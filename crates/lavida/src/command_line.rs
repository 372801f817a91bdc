//! What both programs do with clap alike: reading the command line, shell completions and man pages of the version that is
//! installed.
//!
//! `lavida-dataset` includes this file (`dataset-builder/src/lib.rs`), as it does the build script: a crate between the two
//! would bring clap to every library that uses it (ADR 14).

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Command, Parser};
use clap_complete::Shell;
use lavida_store::{Error, Result};
use lavida_terminal::screen;

/// Reads the command line `words`, the program's name first. None where that was all: help and version are printed.
///
/// # Errors
///
/// [`Error::Unavailable`] when standard output does not take them. Wrong arguments end the process with exit code 2.
pub fn parse<P: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<Option<P>> {
    match P::try_parse_from(words) {
        Ok(command) => Ok(Some(command)),
        Err(asked) if asked.use_stderr() => asked.exit(),
        Err(asked) => {
            let shown = asked.print().and_then(|()| io::stdout().flush());
            screen::printed(shown).map(|()| None)
        }
    }
}

/// Which shell completes.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// The shell that is to complete
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Where man pages go.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Folder for one page a command; it is made where there is none
    #[arg(long, value_name = "DIR", value_parser = lavida_store::local_path)]
    pub out: PathBuf,
}

/// The script that teaches a shell to complete `command`.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name.clone(), &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    // clap_complete's bash script calls a program with a hyphen in its name by one name where it looks for the command and
    // by another where it completes it, so nothing below the first word would be completed.
    match shell {
        Shell::Bash => script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")),
        _ => script,
    }
}

/// Writes a page for `command` and one for each of its commands, at any depth, and says how many. Pages that it wrote before
/// are replaced: each says so in its first line, with the hash of the rest.
///
/// # Errors
///
/// [`Error::Invalid`] naming a file of a page's name that is none of these, before anything is written;
/// [`Error::Unavailable`] when a page cannot be written.
pub fn man(command: Command, out: &Path) -> Result<usize> {
    // `help` of every command would be pages of its own, each of which says to ask for help.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let version = command.get_version().unwrap_or_default();
    let source = format!("{} {version}", command.get_name());
    let mut pages = Vec::new();
    pages_of(&command, &source, &mut pages)?;
    let pages: Vec<(PathBuf, String)> = pages
        .into_iter()
        .map(|(name, text)| (out.join(format!("{name}.1")), marked(&text)))
        .collect();
    for (path, _) in &pages {
        if lavida_files::is_there(path) && !is_page(path) {
            let expected = "no file, or a page of this program as it was written";
            let found = "another file: move it away, or give another --out";
            return Err(Error::invalid(path.display(), expected, found));
        }
    }
    std::fs::create_dir_all(out).map_err(|error| Error::unwritable(out.display(), error))?;
    for (path, page) in &pages {
        lavida_files::write(path, page.as_bytes())
            .map_err(|error| Error::unwritable(path.display(), error))?;
    }
    Ok(pages.len())
}

/// Each page's name and text, that of the program first.
fn pages_of(command: &Command, source: &str, pages: &mut Vec<(String, String)>) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let end = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    let end = end.map(ToString::to_string).unwrap_or_default();
    // Without the end: clap_mangen would fill and justify tables and examples.
    let body = command.clone().after_help(None).after_long_help(None);
    let mut text = Vec::new();
    clap_mangen::Man::new(body)
        .title(name)
        .source(source)
        .render(&mut text)
        .map_err(|error| Error::Internal(format!("page {name}: {error}")))?;
    let text = String::from_utf8_lossy(&text).into_owned() + &roff(&end);
    pages.push((name.to_owned(), text));
    for of in command.get_subcommands().filter(|of| !of.is_hide_set()) {
        pages_of(of, source, pages)?;
    }
    Ok(())
}

/// Begins the first line of a page.
const MARK: &str = ".\\\" generated by this program's `man`; BLAKE3 of the rest: ";

fn marked(page: &str) -> String {
    format!("{MARK}{}\n{page}", blake3::hash(page.as_bytes()).to_hex())
}

/// Whether a file is a page as it was written.
fn is_page(path: &Path) -> bool {
    let text = lavida_files::read_text(path, lavida_files::SMALL_BYTES).unwrap_or_default();
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    !rest.is_empty() && text == marked(rest)
}

/// The end of a help as sections of a page, its lines as they are.
fn roff(end: &str) -> String {
    let mut text = String::new();
    let mut is_open = false;
    for line in end.lines() {
        let heading = line.strip_suffix(':').filter(|_| !line.starts_with(' '));
        if let Some(heading) = heading {
            if is_open {
                text += ".fi\n";
            }
            text += &format!(".SH {}\n.nf\n", heading.to_uppercase());
            is_open = true;
            continue;
        }
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins with one of these would be a request.
        let guard = if line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        text += &format!("{guard}{line}\n");
    }
    if is_open {
        text += ".fi\n";
    }
    text
}
