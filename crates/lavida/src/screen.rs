//! Standard output, and standard error, which lines share with a view that is redrawn in place: whoever writes a line while
//! there is a view writes it above.
//!
//! Nothing here panics, whatever is at the other end: std's macros do where a pipe is closed (`lavida inspect … | head -1`).

use std::{
    io::{self, ErrorKind, Write},
    sync::LazyLock,
};

use clap::Parser;
use indicatif::MultiProgress;
use lavida_data::{Error, Result};
use tracing_subscriber::fmt::MakeWriter;

static VIEW: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// What is redrawn in place; nothing where standard error is no terminal.
pub fn view() -> &'static MultiProgress {
    &VIEW
}

/// Writes a line to standard error, as [`line`] does.
macro_rules! eprintln {
    ($($words:tt)*) => { $crate::screen::line(&format!($($words)*)) };
}

/// Writes a line to standard error. That nobody hears it is no reason to stop.
pub fn line(text: &str) {
    let line = format!("{text}\n");
    let _ = VIEW.suspend(|| io::stderr().write_all(line.as_bytes()));
}

/// Writes to standard output. Whoever closed it has seen enough (`… | head`).
///
/// # Errors
/// [`Error::Unavailable`] when it does not take it, as a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn printed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::unwritable("standard output", error)),
    }
}

/// Reads the command line. None where that was all: help and version are printed.
///
/// # Errors
/// As [`print`]. Wrong arguments end the process with exit code 2.
pub fn command_line<P: Parser>() -> Result<Option<P>> {
    match P::try_parse() {
        Ok(command) => Ok(Some(command)),
        Err(asked) if asked.use_stderr() => asked.exit(),
        Err(asked) => {
            let shown = asked.print().and_then(|()| io::stdout().flush());
            printed(shown).map(|()| None)
        }
    }
}

/// Where the log goes.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An error would be logged, to the same place, by a macro that panics.
        let _ = VIEW.suspend(|| io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // standard error holds nothing back
    }
}
