//! What the program says: results on standard output, words on standard error. Nothing here panics, whatever is at the
//! other end: std's macros do where a pipe is closed (`lavida-dataset stats … | head -1`).

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::Parser;
use lavida_store::{Error, Result};

/// Writes a line to standard error. That nobody hears it is no reason to stop.
macro_rules! eprintln {
    ($($words:tt)*) => { $crate::output::words(&format!("{}\n", format_args!($($words)*))) };
}

/// Writes to standard error, as [`eprintln!`] does.
pub fn words(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes to standard output. Whoever closed it has seen enough (`… | head`).
///
/// # Errors
///
/// [`Error::Unavailable`] when it does not take it, as a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn printed(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::unwritable("standard output", error)),
    }
}

/// Reads the command line. None where that was all: help and version are printed.
///
/// # Errors
///
/// [`Error::Unavailable`] as [`print`]. Wrong arguments end the process with exit code 2.
pub fn command_line<P: Parser>() -> Result<Option<P>> {
    match P::try_parse() {
        Ok(command) => Ok(Some(command)),
        Err(asked) if asked.use_stderr() => asked.exit(),
        Err(asked) => {
            let shown = asked.print().and_then(|()| std::io::stdout().flush());
            printed(shown).map(|()| None)
        }
    }
}

/// A file or folder of this machine on the command line.
pub fn local_path(text: &str) -> Result<PathBuf> {
    lavida_store::local_path(text)
}
