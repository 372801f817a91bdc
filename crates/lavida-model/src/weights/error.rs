//! Why weights cannot be used, with every tensor concerned by name.

use std::fmt;

/// Weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// Tensors and module do not fit each other.
    #[error("weights do not fit the model: {0}")]
    Mismatch(WeightMismatch),
    /// Bytes that are not the safetensors format.
    #[error("not a safetensors file: {reason}")]
    Format {
        /// What the reader says.
        reason: String,
    },
    /// A number format no part of the model has.
    #[error(
        "tensor {name}: expected one of F64, F32, F16, BF16, I64, I32, U8, BOOL, found {found}"
    )]
    Dtype {
        /// Tensor in the file.
        name: String,
        /// Its number format.
        found: String,
    },
    /// A file, or something in it, is not what it must be.
    #[error("{what}: expected {expected}, found {found}")]
    File {
        /// The file, with the place in it.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Several files, each with its own fault.
    #[error("{} faults{}", .0.len(), lines(.0))]
    Several(Vec<WeightError>),
    /// A file could not be written.
    #[error("{what}: cannot be written: {reason}")]
    Write {
        /// The file.
        what: String,
        /// What the system says.
        reason: String,
    },
}

impl WeightError {
    pub(super) fn file(
        what: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::File {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// One error for several; the only one stays as it is.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

fn lines(errors: &[WeightError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

/// Every tensor that does not fit, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightMismatch {
    /// The module has it, the weights do not; with the shape expected.
    pub missing: Vec<(String, Vec<usize>)>,
    /// The weights have it, the module does not; with the shape found.
    pub left_over: Vec<(String, Vec<usize>)>,
    /// Both have it; with the shapes expected and found.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// It holds no floats; with the number format found.
    pub wrong_dtype: Vec<(String, String)>,
    /// It holds NaN or an infinity.
    pub not_finite: Vec<String>,
}

impl WeightMismatch {
    fn count(&self) -> usize {
        self.missing.len()
            + self.left_over.len()
            + self.misshapen.len()
            + self.wrong_dtype.len()
            + self.not_finite.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

impl fmt::Display for WeightMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count() == 1 { "" } else { "s" };
        write!(f, "{} tensor{plural}", self.count())?;
        for (name, expected) in &self.missing {
            write!(f, "\n  {name}: expected {expected:?}, found nothing")?;
        }
        for (name, found) in &self.left_over {
            write!(f, "\n  {name}: expected nothing, found {found:?}")?;
        }
        for (name, expected, found) in &self.misshapen {
            write!(f, "\n  {name}: expected {expected:?}, found {found:?}")?;
        }
        for (name, found) in &self.wrong_dtype {
            write!(f, "\n  {name}: expected floats, found {found}")?;
        }
        for name in &self.not_finite {
            write!(
                f,
                "\n  {name}: expected finite values, found NaN or infinity"
            )?;
        }
        Ok(())
    }
}
