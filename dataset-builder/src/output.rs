//! What the program says: results on standard output, words on standard error. Nothing here panics, whatever is at the
//! other end: std's macros do where a pipe is closed (`lavida-dataset stats … | head -1`).

use std::io::Write;
use std::path::PathBuf;

use lavida_store::Result;
pub use lavida_terminal::screen::print;

/// Writes a line to standard error. That nobody hears it is no reason to stop.
macro_rules! eprintln {
    ($($words:tt)*) => { $crate::output::words(&format!("{}\n", format_args!($($words)*))) };
}

/// Writes to standard error, as [`eprintln!`] does.
pub fn words(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A file or folder of this machine on the command line.
pub fn local_path(text: &str) -> Result<PathBuf> {
    lavida_store::local_path(text)
}
