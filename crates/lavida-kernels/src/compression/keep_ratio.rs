//! The share of visual tokens that compression keeps, in range since it exists.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `L_r / L`, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
pub struct KeepRatio(f64);

/// A share of tokens that is none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("keep_ratio is {0}, expected a value in (0, 1]")]
pub struct KeepRatioError(pub f64);

impl KeepRatio {
    /// Every token: nothing is compressed.
    pub const ALL: Self = Self(1.0);

    /// Half of the tokens.
    pub const HALF: Self = Self(0.5);

    /// A share of the tokens.
    ///
    /// # Errors
    ///
    /// A number outside (0, 1], and one that is none.
    pub fn new(ratio: f64) -> Result<Self, KeepRatioError> {
        if ratio > 0.0 && ratio <= 1.0 {
            Ok(Self(ratio))
        } else {
            Err(KeepRatioError(ratio))
        }
    }

    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }

    /// `L_r = max(1, ⌊keep_ratio·L⌋)`: how many of `n_tokens` tokens, at least one, are left.
    pub fn n_kept(self, n_tokens: usize) -> usize {
        ((self.0 * n_tokens as f64).floor() as usize).clamp(1, n_tokens)
    }
}

impl TryFrom<f64> for KeepRatio {
    type Error = KeepRatioError;

    fn try_from(ratio: f64) -> Result<Self, KeepRatioError> {
        Self::new(ratio)
    }
}

impl From<KeepRatio> for f64 {
    fn from(ratio: KeepRatio) -> f64 {
        ratio.get()
    }
}

impl fmt::Display for KeepRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_outside_its_range_is_no_ratio() {
        for ratio in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
            let error = KeepRatio::new(ratio).unwrap_err();
            assert!(error.to_string().contains("expected a value in (0, 1]"));
        }
        for ratio in [f64::MIN_POSITIVE, 0.5, 1.0] {
            assert_eq!(KeepRatio::new(ratio).unwrap().get(), ratio);
        }
    }

    #[test]
    fn some_token_is_always_kept() {
        let kept = |ratio, n_tokens| KeepRatio::new(ratio).unwrap().n_kept(n_tokens);
        assert_eq!(kept(f64::MIN_POSITIVE, 60), 1);
        assert_eq!(kept(0.2, 16), 3);
        assert_eq!(kept(1.0, 16), 16);
    }
}
