//! Standard error, shared by lines and a view that is redrawn in place: whoever writes a line while there is a view writes
//! it above.

use std::{
    io::{self, Write},
    sync::LazyLock,
};

use indicatif::MultiProgress;
use tracing_subscriber::fmt::MakeWriter;

static VIEW: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// What is redrawn in place; nothing where standard error is no terminal.
pub fn view() -> &'static MultiProgress {
    &VIEW
}

/// Writes a line.
pub fn line(text: &str) {
    VIEW.suspend(|| eprintln!("{text}"));
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
