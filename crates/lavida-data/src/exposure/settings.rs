//! How exposure is drawn: p, max(K_E), and what is no distractor.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::shards::mix::Exclusion;
use crate::{Error, Result};

/// How exposure is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ExposureSettings {
    /// max(K_E), most categories a prompt names; `None` takes each dataset's own (30, 20 for Mapillary, 6 for Cityscapes).
    pub max_categories: Option<MaxCategories>,
    /// p of Eq. 2: share of clips shown as anomalous, in [0, 1].
    pub anomaly_ratio: f64,
    /// Which texts of other samples may not be a distractor.
    pub exclusion: Exclusion,
}

impl Default for ExposureSettings {
    fn default() -> Self {
        Self {
            max_categories: None,
            anomaly_ratio: 0.5,
            exclusion: Exclusion::Equal,
        }
    }
}

/// max(K_E), most categories a prompt names: a true one and a distractor at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "usize", into = "usize")]
#[schemars(extend("minimum" = 2, "maximum" = 4096))]
pub struct MaxCategories(usize);

impl MaxCategories {
    /// So many categories.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a number that is not from 2 to 4096.
    pub fn new(n_categories: usize) -> Result<Self> {
        if (2..=4_096).contains(&n_categories) {
            return Ok(Self(n_categories));
        }
        Err(Error::invalid(
            "sampler.max_categories",
            "a number from 2 (one true category and one distractor) to 4096",
            n_categories,
        ))
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0
    }
}

impl TryFrom<usize> for MaxCategories {
    type Error = Error;

    fn try_from(n_categories: usize) -> Result<Self> {
        Self::new(n_categories)
    }
}

impl From<MaxCategories> for usize {
    fn from(max_categories: MaxCategories) -> usize {
        max_categories.get()
    }
}

impl fmt::Display for MaxCategories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
