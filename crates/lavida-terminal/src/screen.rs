//! Standard output, and standard error, which lines share with a view that is redrawn in place: whoever writes a line while
//! there is a view writes it above.
//!
//! Nothing here panics, whatever is at the other end: std's macros do where a pipe is closed (`lavida inspect … | head -1`).

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    sync::LazyLock,
};

use indicatif::MultiProgress;
use lavida_store::{Error, Result};
use tracing_subscriber::fmt::MakeWriter;

static VIEW: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// What is redrawn in place; nothing where [`is_redrawn`] says so.
pub fn view() -> &'static MultiProgress {
    &VIEW
}

/// Whether standard error is a terminal that can redraw a line: not a file or a pipe, and not `TERM=dumb` or unset. What
/// would be redrawn is written as lines elsewhere.
pub fn is_redrawn() -> bool {
    !VIEW.is_hidden()
}

/// Whether the log may have colours: on a terminal that has them, unless `NO_COLOR` (<https://no-color.org>) says no.
pub fn has_colours() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && is_redrawn() && !forbidden
}

/// Columns of the terminal that standard error is; any number where it is none.
pub fn width() -> usize {
    let size = console::Term::stderr().size_checked();
    size.map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

/// Columns of the terminal that standard output is; none where it is a file or a pipe.
pub fn output_width() -> Option<usize> {
    let size = console::Term::stdout().size_checked();
    size.map(|(_, columns)| usize::from(columns))
}

/// Writes a line to standard error. That nobody hears it is no reason to stop.
pub fn line(text: &str) {
    let line = format!("{text}\n");
    let _ = VIEW.suspend(|| io::stderr().write_all(line.as_bytes()));
}

/// Writes to standard output. Whoever closed it has seen enough (`… | head`).
///
/// # Errors
///
/// [`Error::Unavailable`] when it does not take it, as a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What came of writing to standard output by other means than [`print`].
///
/// # Errors
///
/// As [`print`].
pub fn printed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::unwritable("standard output", error)),
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
