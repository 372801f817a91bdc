//! One error for everything below the tensors, split by what the caller should do.

use std::{
    borrow::Borrow,
    io::{self, ErrorKind},
};

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
    /// Something outside the program cannot be reached or cannot take what is written now (no network, no space, no
    /// right): a store, a coordinator, a peer, a file of this machine, standard output. Later it may.
    #[error("{what}: {reason}")]
    Unavailable {
        /// The key, URI, address or file.
        what: String,
        /// What is the matter with it, saying what it is ("store unavailable", "cannot be written"), and its own words.
        reason: String,
    },
    /// Ended on request (Ctrl-C, SIGTERM) before its end. Nothing is wrong.
    #[error("stopped {until}; {next}")]
    Stopped {
        /// How far it came.
        until: String,
        /// What goes on from there.
        next: String,
    },
    /// Training cannot go on because its numbers are not finite any more; the same run again ends the same.
    #[error("step {step}: training has diverged: {found}")]
    Diverged {
        /// The step that could not be made, from 1.
        step: u64,
        /// Which number, where, and what may help.
        found: String,
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

    /// A store that cannot be reached or cannot take the write.
    pub fn store_unavailable(what: impl ToString, reason: impl std::fmt::Display) -> Self {
        Self::unavailable(what, "store unavailable", reason)
    }

    /// A process on the network that does not answer.
    pub fn unreachable(what: impl ToString, reason: impl std::fmt::Display) -> Self {
        Self::unavailable(what, "unreachable", reason)
    }

    /// A file of this machine, or standard output, that does not take what is written.
    ///
    /// [`Error::Invalid`] where a file lies in the place of a folder or the other way round: no later try can mend that.
    pub fn unwritable(what: impl ToString, error: impl Borrow<io::Error>) -> Self {
        Self::of_system(what, "cannot be written", error.borrow())
    }

    /// A file of this machine that is there and does not give what is in it.
    ///
    /// [`Error::Invalid`] where it is no file that is read (`lavida_files`).
    pub fn unreadable(what: impl ToString, error: impl Borrow<io::Error>) -> Self {
        let error = error.borrow();
        match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::FileTooLarge => {
                Self::invalid(what, "a file that is read", error)
            }
            _ => Self::of_system(what, "cannot be read", error),
        }
    }

    /// A file that a person or another file names, and that is not the one which was `expected`: [`Error::Invalid`] where
    /// there is none or something else, [`Error::Unavailable`] where the system does not give it.
    pub fn unusable(
        what: impl ToString,
        expected: impl ToString,
        error: impl Borrow<io::Error>,
    ) -> Self {
        match Self::unreadable(what.to_string(), error.borrow()) {
            Self::Invalid { .. } => Self::invalid(what, expected, error.borrow()),
            _ if error.borrow().kind() == ErrorKind::NotFound => {
                Self::invalid(what, expected, error.borrow())
            }
            other => other,
        }
    }

    /// A file or folder of this machine that is kept as a store is.
    ///
    /// As [`Error::unwritable`].
    pub fn inaccessible(what: impl ToString, error: impl Borrow<io::Error>) -> Self {
        Self::of_system(what, "cannot be read or written", error.borrow())
    }

    fn of_system(what: impl ToString, matter: &str, error: &io::Error) -> Self {
        match error.kind() {
            // What a folder is made over says that it exists.
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Self::invalid(
                what,
                "a folder",
                "a file in its place, or in that of one above",
            ),
            ErrorKind::IsADirectory => Self::invalid(what, "a file", "a folder in its place"),
            _ => Self::unavailable(what, matter, error),
        }
    }

    fn unavailable(what: impl ToString, matter: &str, reason: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            what: what.to_string(),
            reason: format!("{matter}: {reason}"),
        }
    }

    /// The exit code of [`Error::Stopped`].
    pub const STOPPED: u8 = 6;

    /// The process exit code that scripts rely on: 1 failed, 2 bad arguments or settings, 3 data damaged, 4 a store, file or
    /// coordinator cannot be reached or written, 5 fenced, 6 stopped on request before its end, 7 training has diverged.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid { .. } | Self::Exists { .. } => 2,
            Self::Corrupt { .. } => 3,
            Self::Unavailable { .. } => 4,
            Self::Fenced { .. } => 5,
            Self::Stopped { .. } => Self::STOPPED,
            Self::Diverged { .. } => 7,
            Self::Internal(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, code: u8, words: &str) {
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_a_usage_error_and_a_full_disk_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let made = |path| Error::unwritable("x", std::fs::create_dir_all(path).unwrap_err());
        check(made(file.clone()), 2, "a file in its place");
        check(made(file.join("below")), 2, "a file in its place");
        let written = std::fs::write(folder.path(), "").unwrap_err();
        check(Error::unwritable("x", written), 2, "a folder in its place");
        let full = io::Error::from(ErrorKind::StorageFull);
        check(Error::unwritable("x", full), 4, "cannot be written");
        let quota = io::Error::from(ErrorKind::FileTooLarge);
        check(Error::unwritable("x", quota), 4, "cannot be written");
    }

    #[test]
    fn what_is_no_file_is_another_input_and_what_the_system_refuses_is_not() {
        let of = |kind| Error::unusable("x", "a list", io::Error::from(kind));
        check(of(ErrorKind::NotFound), 2, "expected a list");
        check(of(ErrorKind::InvalidInput), 2, "expected a list");
        check(of(ErrorKind::FileTooLarge), 2, "expected a list");
        check(of(ErrorKind::IsADirectory), 2, "expected a list");
        check(of(ErrorKind::PermissionDenied), 4, "cannot be read");
    }
}
