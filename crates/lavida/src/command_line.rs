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

/// Writes a page for `command` and one for each of its commands, at any depth, and says how many.
///
/// # Errors
///
/// [`Error::Unavailable`] naming the folder when it cannot be written.
pub fn man(command: Command, out: &Path) -> Result<usize> {
    let unwritable = |error: std::io::Error| Error::unwritable(out.display(), error);
    std::fs::create_dir_all(out).map_err(unwritable)?;
    // `help` of every command would be pages of its own, each of which says to ask for help.
    let command = command.disable_help_subcommand(true);
    let mut ends = Vec::new();
    ends_of(&command, command.get_name(), &mut ends);
    clap_mangen::generate_to(without_ends(command), out).map_err(unwritable)?;
    for (page, end) in &ends {
        let path = out.join(format!("{page}.1"));
        let whole = std::fs::read_to_string(&path).map(|text| text + &roff(end));
        whole
            .and_then(|text| std::fs::write(&path, text))
            .map_err(unwritable)?;
    }
    Ok(ends.len())
}

/// Each page's name with what its command's help ends with.
fn ends_of(command: &Command, page: &str, ends: &mut Vec<(String, String)>) {
    let end = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    ends.push((
        page.to_owned(),
        end.map(ToString::to_string).unwrap_or_default(),
    ));
    for of in command.get_subcommands().filter(|of| !of.is_hide_set()) {
        ends_of(of, &format!("{page}-{}", of.get_name()), ends);
    }
}

/// The same without them: clap_mangen would fill and justify tables and examples.
fn without_ends(command: Command) -> Command {
    command
        .after_help(None)
        .after_long_help(None)
        .mut_subcommands(without_ends)
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
