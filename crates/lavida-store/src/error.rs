//! One error for everything below the tensors, split by what the caller should do.

/// What went wrong, with the file, row or key (`what`), what was expected and what was found.
///
/// Variants are the caller's choices, not the code's places: fix the input, give up on damaged
/// data, try again later, stop because somebody newer took over, or report a bug.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the input: an argument, a setting or a source file is not what it must be.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// File, row, key or argument.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The key is already taken; commits never overwrite.
    #[error("{what}: already exists")]
    Exists {
        /// The key or URI.
        what: String,
    },
    /// Data that was written whole is no longer whole, or a file is cut or unreadable.
    #[error("{what}: expected {expected}, found {found}")]
    Corrupt {
        /// File, row or key.
        what: String,
        /// What an undamaged one holds.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The store cannot be reached or cannot take the write now (no network, no space, no right).
    #[error("{what}: store unavailable: {reason}")]
    Unavailable {
        /// The key or URI.
        what: String,
        /// The store's own words.
        reason: String,
    },
    /// A newer generation owns the run: stop, write nothing more.
    #[error("{what}: fenced: generation {ours} is older than {theirs}")]
    Fenced {
        /// The key that was to be written.
        what: String,
        /// The generation that tried.
        ours: u64,
        /// The generation that holds the run.
        theirs: u64,
    },
    /// A bug in this program.
    #[error("internal error: {0}")]
    Internal(String),
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Invalid`] from anything that prints.
    pub fn invalid(what: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        Self::Invalid {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// An [`Error::Corrupt`] from anything that prints.
    pub fn corrupt(what: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        Self::Corrupt {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// The process exit code that scripts rely on: 1 failed, 2 bad arguments or settings, 3 data
    /// damaged, 4 store unreachable, 5 fenced.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid { .. } | Self::Exists { .. } => 2,
            Self::Corrupt { .. } => 3,
            Self::Unavailable { .. } => 4,
            Self::Fenced { .. } => 5,
            Self::Internal(_) => 1,
        }
    }
}
