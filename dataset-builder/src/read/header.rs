//! What the manifest says about a dataset as a whole.

use std::collections::BTreeMap;

use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};

use crate::read::rows::Naming;

/// Most categories a prompt names, for sources that do not ask for fewer. Reference: `n_anomalies`.
const MAX_CATEGORIES: usize = 30;

/// The header of a training dataset.
pub fn training_header(
    naming: &Naming,
    category_source: CategorySource,
    positives: Positives,
    settings: serde_json::Value,
) -> DatasetHeader {
    DatasetHeader {
        dataset: naming.dataset.clone(),
        split: naming.split.clone(),
        purpose: Purpose::Training,
        category_source,
        max_categories: MAX_CATEGORIES,
        positives,
        eval_categories: None,
        true_categories: BTreeMap::new(),
        protocol: None,
        interval: None,
        settings,
    }
}

/// By what rules a benchmark is scored.
#[derive(Clone, Copy, Debug)]
pub struct ScoringRules {
    /// Name of its protocol; empty for the usual one.
    pub protocol: &'static str,
    /// Every how many frames its published figures score one.
    pub interval: u32,
}

/// The header of an evaluation dataset whose prompt names `categories`.
pub fn evaluation_header(
    naming: &Naming,
    categories: &[String],
    source: &str,
    benchmark: ScoringRules,
) -> DatasetHeader {
    DatasetHeader {
        dataset: naming.dataset.clone(),
        split: naming.split.clone(),
        purpose: Purpose::Evaluation,
        category_source: CategorySource::Vocabulary(categories.to_vec()),
        max_categories: categories.len(),
        positives: Positives::All,
        eval_categories: Some(categories.to_vec()),
        true_categories: BTreeMap::new(),
        protocol: Some(benchmark.protocol.to_owned()).filter(|name| !name.is_empty()),
        interval: Some(benchmark.interval),
        settings: serde_json::json!({ "source": source }),
    }
}
