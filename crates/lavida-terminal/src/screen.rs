//! Standard error, shared by lines and a view that is redrawn in place: whoever writes a line while there is a view writes
//! it above.

use std::{
    io::{self, IsTerminal, Write},
    sync::LazyLock,
};

use indicatif::MultiProgress;
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

/// Columns of the terminal; any number where there is none.
pub fn width() -> usize {
    let size = console::Term::stderr().size_checked();
    size.map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

/// Writes a line.
pub fn line(text: &str) {
    VIEW.suspend(|| {
        // A standard error that is closed leaves nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    });
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
        VIEW.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
