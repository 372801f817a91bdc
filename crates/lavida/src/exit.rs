//! The exit code of an error.

/// Exit code of an error that is nobody's fault we know of.
const FAILED: u8 = 1;

/// An error whose details were reported before, with the exit code of what failed.
#[derive(Debug)]
pub struct Reported {
    /// The exit code.
    pub code: u8,
    /// One line that is left to say.
    pub summary: String,
}

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)
    }
}

impl std::error::Error for Reported {}

/// The exit code that the process ends with for this error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(failed) = error.downcast_ref::<Reported>() {
        return failed.code;
    }
    let known = error
        .chain()
        .find_map(|e| e.downcast_ref::<lavida_data::Error>());
    known.map_or(FAILED, lavida_data::Error::exit_code)
}
