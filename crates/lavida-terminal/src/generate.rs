//! Shell completions and man pages, made by the program itself, so that they are of the version that is installed.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use lavida_store::{Error, Result};

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
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// The script that teaches a shell to complete `command`.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
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
    let n_pages = n_pages(&command);
    clap_mangen::generate_to(command, out).map_err(unwritable)?;
    Ok(n_pages)
}

fn n_pages(command: &Command) -> usize {
    let shown = command.get_subcommands().filter(|of| !of.is_hide_set());
    1 + shown.map(n_pages).sum::<usize>()
}
