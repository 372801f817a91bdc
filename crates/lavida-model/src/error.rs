//! What can go wrong in the model crate, split by what the caller should do about it.

use crate::weights::WeightError;

/// Result of the model crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of the model crate. A wrong shape inside the model is a bug and panics instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting or an input is wrong: fix it and run again.
    #[error("invalid {what}: expected {expected}, found {found}")]
    Invalid {
        /// What was read, with its name.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Numbers inside the model are NaN, infinite or about to overflow.
    #[error("{what}: expected finite values, found {found}")]
    NotFinite {
        /// Which numbers.
        what: String,
        /// The first of them, with its place.
        found: String,
    },
    /// Weights do not fit the model or cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
}
